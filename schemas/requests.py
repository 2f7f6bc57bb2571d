"""A recovery request in canonical form: what approvers sign and the custodian checks; and the key bundle of one
recovery.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import rfc8785

from schemas.states import Decision

WHAT_REQUEST = "refacex recovery request"
WHAT_BUNDLE = "refacex key bundle"


@dataclass(frozen=True, order=True)
class FaceRef:
    """One face of one item; faces are numbered from 0 as in the item's report."""

    item: UUID
    face: int


@dataclass(frozen=True)
class RequestTerms:
    """Everything that approvers agree to. Times are UTC to the microsecond; `recipient_public` is a raw X25519 key."""

    id: UUID
    tenant: str
    release: UUID
    requester: str
    reason: str
    legal_basis: str
    case_reference: str
    purpose: str
    recipient_public: bytes
    quorum: int
    faces: tuple[FaceRef, ...]
    created_at: datetime
    expires_at: datetime

    def canonical(self) -> bytes:
        """The RFC 8785 bytes. Faces are sorted, so that their order in the database means nothing."""
        fields: dict[str, Any] = {
            "v": 1,
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
            "quorum": self.quorum,
            "faces": [{"item": str(each.item), "face": each.face} for each in sorted(self.faces)],
            "created_at": _time(self.created_at),
            "expires_at": _time(self.expires_at),
        }
        return rfc8785.dumps(fields)

    def sha256(self) -> bytes:
        """The canonical form's SHA-256: how the audit trail names the request."""
        return hashlib.sha256(self.canonical()).digest()


def decision_message(decision: Decision, canonical: bytes) -> bytes:
    """The bytes that an approver signs: the decision stands in them, so that a denial is never an approval."""
    return b"refacex v1 decision: " + decision.value.encode("ascii") + b"\n" + canonical


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
    items: tuple[BundleItem, ...]

    def dumps(self) -> bytes:
        """The bundle's plaintext."""
        fields: dict[str, Any] = {
            "v": 1,
            "what": WHAT_BUNDLE,
            "recovery": str(self.recovery),
            "ticket": str(self.ticket),
            "request": str(self.request),
            "request_sha256": self.request_sha256,
            "tenant": self.tenant,
            "release": str(self.release),
            "requester": self.requester,
            "purpose": self.purpose,
            "recipient_public": _b64(self.recipient_public),
            "items": [_dump_item(each) for each in self.items],
        }
        return rfc8785.dumps(fields)

    @classmethod
    def loads(cls, data: bytes) -> KeyBundle:
        """The bundle of a plaintext. Raises ValueError for anything else."""
        try:
            fields = json.loads(data)
            if fields["what"] != WHAT_BUNDLE or fields["v"] != 1:
                raise ValueError("not a key bundle of version 1")
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
                items=tuple(_load_item(each) for each in fields["items"]),
            )
        except (KeyError, TypeError, AttributeError) as error:
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
