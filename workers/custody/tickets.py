"""The custodian's signature on its tickets and events, and how a recovery worker checks a ticket's."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from schemas.requests import WHAT_TICKET, FaceRef, KeyBundle, TicketTerms, purpose_sha256
from workers.audit.attested import EventSigner
from workers.custody.errors import TicketInvalid
from workers.custody.judge import verifies
from workers.custody.keys import FileKind, KeyType, key_id, load
from workers.strangers import read_json

# From the opening to the fetch. A crash resumes within it; at its end the keys and the sealed faces are taken away.
RECOVERY_LIFE = timedelta(hours=24)
# A bundle of keys opens for so long after it was sealed. The custodian seals a waiting recovery's anew, and looks into its
# ledger each time: keys that were shredded meanwhile are not in the next one, and the last one is of no use in a backup.
BUNDLE_LIFE = timedelta(minutes=15)
RENEW_AFTER = BUNDLE_LIFE / 3


def in_hand_lock(recovery: UUID) -> int:
    """The advisory lock of whoever has a recovery in hand: a worker that recovers it, the custodian that renews its keys."""
    return int.from_bytes(recovery.bytes[:8], "big", signed=True)


@dataclass(frozen=True)
class TicketSigner:
    """The custodian's Ed25519 key: raw private bytes. `older`: the raw public keys that it had before, by their ids."""

    private: bytes = field(repr=False)
    older: Mapping[str, bytes] = field(default_factory=dict, hash=False)

    @classmethod
    def load(cls, path: Path | str) -> TicketSigner:
        """From its key file: the active key signs, and all others still say what was signed before. Raises as `keys.load` does."""
        file = load(path, FileKind.SIGNING)
        public = {key.id: key.public for key in file.keys if key.type is KeyType.ED25519}
        return cls(file.of(KeyType.ED25519).secret(), public)

    def sign(self, ticket: TicketTerms) -> bytes:
        """The signature over the ticket's canonical form, 64 bytes."""
        return Ed25519PrivateKey.from_private_bytes(self.private).sign(ticket.canonical())

    @property
    def public(self) -> bytes:
        """The raw Ed25519 key that this signer's tickets are checked with."""
        return Ed25519PrivateKey.from_private_bytes(self.private).public_key().public_bytes_raw()

    @property
    def publics(self) -> tuple[bytes, ...]:
        """That key, and those that it had before."""
        return (self.public, *(key for key in self.older.values() if key != self.public))

    @cached_property
    def events(self) -> EventSigner:
        """The same key, for events; what it signs of one can never be taken for a ticket."""
        return EventSigner(self.private, self.older)


@dataclass(frozen=True)
class TicketLife:
    """When a ticket was issued, and by when a recovery on it must have begun."""

    issued_at: datetime
    expires_at: datetime


def check_ticket(publics: Collection[bytes], bundle: KeyBundle, worker: str) -> TicketLife:
    """The life of the ticket in a bundle, if the custodian signed it for just this recovery, purpose and worker.

    `publics` are the custodian's raw Ed25519 keys, the replaced ones too (a ticket of theirs opens nothing without face keys
    from the custodian, who trusts none of theirs that it did not issue), `worker` the id of the worker's own. Raises TicketInvalid.
    """
    if not any(verifies(public, bundle.ticket_signature, bundle.ticket_canonical) for public in publics):
        raise TicketInvalid("the signature is not the custodian's")
    faces = {FaceRef(item.item, face) for item in bundle.items for face in item.face_keys}
    try:
        ticket = read_json(bundle.ticket_canonical)
        named = {FaceRef(UUID(each["item"]), each["face"]) for each in ticket["faces"]}
        said = tuple(ticket[name] for name in ("what", "id", "recovery", "request", "request_sha256", "release"))
        bound = (WHAT_TICKET, bundle.ticket, bundle.recovery, bundle.request, bundle.request_sha256, bundle.release)
        purpose, recipient = ticket["purpose_sha256"], ticket["recipient"]
        life = TicketLife(*(datetime.fromisoformat(ticket[name]) for name in ("issued_at", "expires_at")))
        meant_for = ticket["worker"]
    except (ValueError, KeyError, TypeError) as error:
        raise TicketInvalid("it cannot be read") from error
    if said != tuple(str(each) for each in bound) or named != faces:
        raise TicketInvalid("it is for another recovery or for other faces")
    if purpose != purpose_sha256(bundle.purpose):
        raise TicketInvalid("it is for another purpose")
    if recipient != key_id(KeyType.X25519, bundle.recipient_public) or meant_for != worker:
        raise TicketInvalid("it is for another recipient or another worker")
    return life
