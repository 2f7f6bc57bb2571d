"""The custodian's own signature on the events that it writes: made where events are appended, checked from the trail alone.

The database's owner can write any event in any role's name, and the notary signs what is there. What the custodian wrote carries, as
`detail.custodian`, an Ed25519 signature by the key that signs its tickets, over the tag and all other fields; see
`docs/audit-format.md`. A nonce makes each one unlike any other, so that one which stands twice was copied. Events of before these
signatures are told apart by the first that carries one, and nothing unsigned is accepted after it.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import rfc8785
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy.orm import Session, sessionmaker

from schemas.audit import EVENT_ROLES, AuditEvent, Role
from workers.audit.append import SIGNER
from workers.custody.judge import verifies
from workers.custody.keys import KeyType, key_id

Fields = Mapping[str, Any]

WHAT = b"refacex custodian event 1\n"
MARK = "custodian"  # where in `detail` the signature stands, with the key's id and the nonce
KINDS: tuple[AuditEvent, ...] = tuple(event for event, roles in EVENT_ROLES.items() if Role.CUSTODIAN in roles)
#: What no other service may write: signed whatever role an event claims.
OWN = frozenset(event for event in KINDS if set(EVENT_ROLES[event]) <= {Role.CUSTODIAN, Role.OWNER})


def event_message(event: str, fields: Fields) -> bytes:
    """What is signed of an event: `fields` with everything in them but the signature itself."""
    return WHAT + rfc8785.dumps({"event": event, "fields": dict(fields)})


@dataclass(frozen=True)
class EventSigner:
    """Signs events with the custodian's Ed25519 key: raw private bytes. `older`: the raw public keys that it had before, by their ids."""

    private: bytes = field(repr=False)
    older: Mapping[str, bytes] = field(default_factory=dict, hash=False)

    @property
    def keys(self) -> dict[str, bytes]:
        """What the signatures are checked with: the raw public keys by their ids."""
        key, name = self._key
        return {**self.older, name: key.public_key().public_bytes_raw()}

    @cached_property
    def _key(self) -> tuple[Ed25519PrivateKey, str]:
        key = Ed25519PrivateKey.from_private_bytes(self.private)
        return key, key_id(KeyType.ED25519, key.public_key().public_bytes_raw())

    def signed(self, event: AuditEvent, fields: Fields) -> dict[str, Any]:
        """The fields with their signature. Raises ValueError for text that has no UTF-8 form."""
        key, name = self._key
        mark = {"key": name, "nonce": secrets.token_hex(16)}
        message = event_message(event.value, _marked(fields, mark))
        return _marked(fields, mark | {"signature": key.sign(message).hex()})


def attesting(sessions: sessionmaker[Session], signer: EventSigner) -> sessionmaker[Session]:
    """The same sessions, in which every event that is appended carries the signer's signature."""
    return sessionmaker(class_=sessions.class_, **(sessions.kw | {"info": {SIGNER: signer}}))


class AttestedHistory:
    """Follows the trail's events in order and says of each of the custodian's what is wrong with it; others are passed over.

    `keys`: the custodian's raw public keys by their ids. `unsigned` counts what is older than the signatures. `signing`: there is nothing
    older, as where somebody chose the events and may have left out the first signed one. Keeps 16 bytes an event.
    """

    def __init__(self, keys: Mapping[str, bytes], *, signing: bool = False) -> None:
        self.signatures = 0
        self.unsigned = 0
        self._keys = keys
        self._signing = signing
        self._seen: set[bytes] = set()

    def see(self, event: Mapping[str, Any]) -> Iterator[str]:
        """What is wrong with this event, in words; `event` is the JSON object that was hashed."""
        if not is_custodians(event):
            return
        fields = event["fields"]
        detail = fields.get("detail", {})
        mark = detail.get(MARK) if isinstance(detail, dict) else None
        if mark is None and not self._signing:
            self.unsigned += 1
            return
        self._signing = True
        fault = fault_of(event, self._keys)
        short = b"" if fault else bytes.fromhex(detail[MARK]["signature"])[:16]
        if fault:
            yield fault
        elif short in self._seen:
            yield "the custodian signed it once, and it stands in the trail again"
        else:
            self._seen.add(short)
            self.signatures += 1


def is_custodians(event: Mapping[str, Any]) -> bool:
    """Whether the event says of itself that the custodian wrote it, or is one that nobody else may write."""
    return event["role"] == Role.CUSTODIAN.value or event["event"] in OWN


def fault_of(event: Mapping[str, Any], keys: Mapping[str, bytes]) -> str | None:
    """Why the custodian did not sign just these fields under this tag; None where it did."""
    detail = event["fields"].get("detail")
    signature, public = _read(detail.get(MARK) if isinstance(detail, dict) else None, keys)
    if signature is None:
        return "the custodian did not sign it"
    if public is None:
        return "it is signed with a key that is not the custodian's"
    if not verifies(public, signature, _message(event["event"], event["fields"])):
        return "the signature is not the custodian's over these fields"
    return None


def _read(mark: Any, keys: Mapping[str, bytes]) -> tuple[bytes | None, bytes | None]:
    """The signature in a mark, and the public key that it names; None for what is not there."""
    if not isinstance(mark, dict):
        return None, None
    try:
        return bytes.fromhex(mark["signature"]), keys.get(str(mark.get("key")))
    except (ValueError, KeyError, TypeError):
        return None, None


def _message(event: str, fields: Fields) -> bytes:
    mark = {name: value for name, value in fields["detail"][MARK].items() if name != "signature"}
    return event_message(event, _marked(fields, mark))


def _marked(fields: Fields, mark: Fields) -> dict[str, Any]:
    return {**fields, "detail": {**fields.get("detail", {}), MARK: dict(mark)}}
