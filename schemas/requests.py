"""A recovery request and its ticket in canonical form: what people sign, what the custodian checks and signs; and the
key bundle of one recovery.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import rfc8785

from schemas.states import Decision, Urgency

WHAT_REQUEST = "refacex recovery request"
WHAT_TICKET = "refacex ticket"
WHAT_BUNDLE = "refacex key bundle"


@dataclass(frozen=True, order=True)
class FaceRef:
    """One face of one item; faces are numbered from 0 as in the item's report."""

    item: UUID
    face: int


@dataclass(frozen=True)
class RequestTerms:
    """Everything that approvers agree to. Times are UTC to the microsecond; `recipient_public` is a raw X25519 key.

    `names`: the items' file names, as they are shown to who signs; None in requests of before revision 0007.
    """

    id: UUID
    tenant: str
    release: UUID
    requester: str
    reason: str
    legal_basis: str
    case_reference: str
    purpose: str
    recipient_public: bytes
    policy: str
    urgency: Urgency
    quorum: int
    faces: tuple[FaceRef, ...]
    created_at: datetime
    expires_at: datetime
    names: Mapping[UUID, str] | None = field(default=None, repr=False)

    def canonical(self) -> bytes:
        """The RFC 8785 bytes. Faces are sorted, so that their order in the database means nothing."""
        fields: dict[str, Any] = {
            "v": 2 if self.names is None else 3,
            "what": WHAT_REQUEST,
            "id": str(self.id),
            "tenant": self.tenant,
            "release": str(self.release),
            "requester": self.requester,
            "reason": self.reason,
            "legal_basis": self.legal_basis,
            "case_reference": self.case_reference,
            "purpose": self.purpose,
            "recipient_public": _b64(self.recipient_public),
            "policy": self.policy,
            "urgency": self.urgency.value,
            "quorum": self.quorum,
            "faces": [{"item": str(each.item), "face": each.face} for each in sorted(self.faces)],
            "created_at": _time(self.created_at),
            "expires_at": _time(self.expires_at),
        }
        if self.names is not None:
            fields["names"] = {str(item): name for item, name in self.names.items()}
        return rfc8785.dumps(fields)

    def sha256(self) -> bytes:
        """The canonical form's SHA-256: how the audit trail names the request."""
        return hashlib.sha256(self.canonical()).digest()


def request_message(sha256: bytes) -> bytes:
    """What a requester signs to open the request of this canonical SHA-256."""
    return signed_message("open request", sha256)


def decision_message(decision: Decision, sha256: bytes) -> bytes:
    """What an approver signs: the decision stands in it, so that a denial is never an approval."""
    return signed_message(decision.value, sha256)


def withdraw_message(sha256: bytes) -> bytes:
    """What a requester signs to take the request back."""
    return signed_message("withdraw", sha256)


def fetch_message(sha256: bytes, recovery: UUID) -> bytes:
    """What a requester signs to fetch the one recovery of the request."""
    return signed_message(f"fetch {recovery}", sha256)


def review_message(sha256: bytes, conclusion: str) -> bytes:
    """What a reviewer signs to close the review of a request that broke the glass."""
    return signed_message(f"review {hashlib.sha256(conclusion.encode()).hexdigest()}", sha256)


def signed_message(what: str, sha256: bytes) -> bytes:
    """The bytes of every signature by a person: what they say, and the SHA-256 of the canonical form they say it of.

    The trail keeps that hash, so a signature can be checked from the trail alone, without the free text.
    """
    return b"refacex v2\n" + what.encode("ascii") + b"\n" + sha256.hex().encode("ascii") + b"\n"


def purpose_sha256(purpose: str) -> str:
    """How a ticket names its purpose, in hex: that is free text."""
    return hashlib.sha256(purpose.encode()).hexdigest()


@dataclass(frozen=True)
class TicketTerms:
    """The custodian's leave for one recovery: for these faces, this purpose, this recipient and this worker.

    `worker` is the id of the recovery worker's key, `recipient` of the requester's. `policy_sha256` names the policy, and
    `roster_sha256` the roster's file, by which it was judged (hex); tickets of version 1 say neither. Signed with the
    custodian's own key.
    """

    id: UUID
    request: UUID
    request_sha256: bytes
    recovery: UUID
    release: UUID
    faces: tuple[FaceRef, ...]
    purpose: str
    recipient: str
    worker: str
    issued_at: datetime
    expires_at: datetime
    policy_sha256: str | None = None
    roster_sha256: str | None = None

    def canonical(self) -> bytes:
        """The RFC 8785 bytes, which the custodian signs. The purpose goes in by its hash: it is free text."""
        by = {"policy_sha256": self.policy_sha256, "roster_sha256": self.roster_sha256}
        fields: dict[str, Any] = {
            "v": 2 if self.policy_sha256 else 1,
            "what": WHAT_TICKET,
            "id": str(self.id),
            "request": str(self.request),
            "request_sha256": self.request_sha256.hex(),
            "recovery": str(self.recovery),
            "release": str(self.release),
            "faces": [{"item": str(each.item), "face": each.face} for each in sorted(self.faces)],
            "purpose_sha256": purpose_sha256(self.purpose),
            "recipient": self.recipient,
            "worker": self.worker,
            "issued_at": _time(self.issued_at),
            "expires_at": _time(self.expires_at),
        }
        return rfc8785.dumps(fields | (by if self.policy_sha256 else {}))


@dataclass(frozen=True)
class BundleItem:
    """The keys of one item's approved faces, where its file lies, and what its payload is bound to."""

    item: UUID
    object_key: str
    sha256: str
    model_version: str
    policy: str
    layout_key: bytes = field(repr=False)
    face_keys: dict[int, bytes] = field(repr=False)


@dataclass(frozen=True)
class KeyBundle:
    """What the custodian hands the recovery worker for one ticket: these faces' keys, for this recipient, nothing
    else.
    """

    recovery: UUID
    ticket: UUID
    request: UUID
    request_sha256: str
    tenant: str
    release: UUID
    requester: str
    purpose: str
    recipient_public: bytes
    ticket_canonical: bytes
    ticket_signature: bytes
    items: tuple[BundleItem, ...]
    sealed_at: datetime | None  # None in bundles of version 2, which did not say

    def dumps(self) -> bytes:
        """The bundle's plaintext."""
        fields: dict[str, Any] = {
            "v": 3,
            "what": WHAT_BUNDLE,
            "sealed_at": _time(self.sealed_at) if self.sealed_at else None,
            "recovery": str(self.recovery),
            "ticket": str(self.ticket),
            "request": str(self.request),
            "request_sha256": self.request_sha256,
            "tenant": self.tenant,
            "release": str(self.release),
            "requester": self.requester,
            "purpose": self.purpose,
            "recipient_public": _b64(self.recipient_public),
            "ticket_canonical": _b64(self.ticket_canonical),
            "ticket_signature": _b64(self.ticket_signature),
            "items": [_dump_item(each) for each in self.items],
        }
        return rfc8785.dumps(fields)

    @classmethod
    def loads(cls, data: bytes) -> KeyBundle:
        """The bundle of a plaintext. Raises ValueError for anything else."""
        try:
            fields = json.loads(data)
            if fields["what"] != WHAT_BUNDLE or fields["v"] not in (2, 3):
                raise ValueError("not a key bundle of version 2 or 3")
            sealed_at = fields["sealed_at"] if fields["v"] == 3 else None
            return cls(
                recovery=UUID(fields["recovery"]),
                ticket=UUID(fields["ticket"]),
                request=UUID(fields["request"]),
                request_sha256=fields["request_sha256"],
                tenant=fields["tenant"],
                release=UUID(fields["release"]),
                requester=fields["requester"],
                purpose=fields["purpose"],
                recipient_public=base64.b64decode(fields["recipient_public"], validate=True),
                ticket_canonical=base64.b64decode(fields["ticket_canonical"], validate=True),
                ticket_signature=base64.b64decode(fields["ticket_signature"], validate=True),
                items=tuple(_load_item(each) for each in fields["items"]),
                sealed_at=datetime.fromisoformat(sealed_at) if sealed_at else None,
            )
        except (KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError("not a key bundle") from error


def bundle_info(recovery: UUID, ticket: UUID) -> bytes:
    """What a sealed bundle is bound to, so that it opens for its own recovery row only."""
    return rfc8785.dumps({"v": 1, "what": WHAT_BUNDLE, "recovery": str(recovery), "ticket": str(ticket)})


def face_info(recovery: UUID, item: UUID, face: int) -> bytes:
    """What a recovered face is bound to when it is sealed to its requester."""
    fields: dict[str, Any] = {"v": 1, "what": "refacex recovered face", "recovery": str(recovery)}
    return rfc8785.dumps(fields | {"item": str(item), "face": face})


def _dump_item(item: BundleItem) -> dict[str, Any]:
    return {
        "item": str(item.item),
        "object_key": item.object_key,
        "sha256": item.sha256,
        "model_version": item.model_version,
        "policy": item.policy,
        "layout_key": _b64(item.layout_key),
        "face_keys": {str(face): _b64(key) for face, key in item.face_keys.items()},
    }


def _load_item(fields: dict[str, Any]) -> BundleItem:
    return BundleItem(
        item=UUID(fields["item"]),
        object_key=fields["object_key"],
        sha256=fields["sha256"],
        model_version=fields["model_version"],
        policy=fields["policy"],
        layout_key=base64.b64decode(fields["layout_key"], validate=True),
        face_keys={int(face): base64.b64decode(key, validate=True) for face, key in fields["face_keys"].items()},
    )


def _b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
