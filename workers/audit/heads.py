"""Signed tree heads, and the objects under Object Lock that anchor them.

A head's signed bytes are the RFC 8785 form of `{"at", "key", "root", "size", "v": 1, "what": "refacex tree head"}`; `root` in hex,
`at` RFC 3339 in UTC. The signature is Ed25519 over these bytes. The anchor is `heads/SIZE.json` (20 digits):
`{"body", "signature"}`, both base64.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Protocol

import rfc8785
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from workers.audit.errors import AuditError
from workers.storage import StoredObject

PREFIX = "heads/"
WHAT = "refacex tree head"


class HeadInvalid(AuditError):
    """A tree head is damaged or not signed by the notary's key."""

    code = "head_invalid"


@dataclass(frozen=True)
class SignedHead:
    """A tree head with the bytes that were signed."""

    size: int
    root: bytes
    at: datetime
    key_id: str
    body: bytes
    signature: bytes


@dataclass(frozen=True)
class HeadSigner:
    """The notary's key: raw Ed25519 private bytes and their id."""

    key_id: str
    private: bytes = field(repr=False)

    def sign(self, size: int, root: bytes) -> SignedHead:
        """A head signed now."""
        at = datetime.now(UTC)
        body = rfc8785.dumps(
            {"v": 1, "what": WHAT, "size": size, "root": root.hex(), "at": at.isoformat(), "key": self.key_id}
        )
        signature = Ed25519PrivateKey.from_private_bytes(self.private).sign(body)
        return SignedHead(size, root, at, self.key_id, body, signature)

    @property
    def verifier(self) -> HeadVerifier:
        """What checks this signer's heads."""
        public = Ed25519PrivateKey.from_private_bytes(self.private).public_key().public_bytes_raw()
        return HeadVerifier(self.key_id, public)


@dataclass(frozen=True)
class HeadVerifier:
    """The notary's public key: raw Ed25519 bytes and their id."""

    key_id: str
    public: bytes

    def read(self, body: bytes, signature: bytes) -> SignedHead:
        """The head that these bytes are. Raises HeadInvalid where they are not a head signed by this key."""
        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(signature, body)
            fields = json.loads(body)
            at = datetime.fromisoformat(fields["at"])
            head = SignedHead(fields["size"], bytes.fromhex(fields["root"]), at, fields["key"], body, signature)
            if fields["what"] != WHAT or fields["v"] != 1 or head.key_id != self.key_id or len(head.root) != 32:
                raise HeadInvalid("not a tree head of this key")
        except InvalidSignature as error:
            raise HeadInvalid("signature") from error
        except (ValueError, KeyError, TypeError) as error:
            raise HeadInvalid(type(error).__name__) from error
        return head


class ObjectStore(Protocol):
    """The part of `workers.storage.Storage` that anchoring needs."""

    def get(self, bucket: str, key: str) -> bytes: ...
    def put(
        self, bucket: str, key: str, data: bytes, *, if_none_match: bool = True, retain_until: datetime | None = None
    ) -> None: ...
    def list(self, bucket: str, prefix: str = "") -> Iterator[StoredObject]: ...


@dataclass(frozen=True)
class Anchors:
    """The bucket that heads are anchored in."""

    store: ObjectStore
    bucket: str
    prefix: str = PREFIX

    def name(self, size: int) -> str:
        """The object's name; names sort as sizes do."""
        return f"{self.prefix}{size:020d}.json"

    def put(self, head: SignedHead, keep: timedelta) -> str:
        """Anchors a head for that long; gives the object's name. Raises workers.errors.ObjectExists, StorageError."""
        name = self.name(head.size)
        self.store.put(self.bucket, name, anchor_bytes(head), retain_until=datetime.now(UTC) + keep)
        return name

    def names(self) -> list[str]:
        """Every anchor's name, smallest tree first."""
        return sorted(each.key for each in self.store.list(self.bucket, self.prefix))

    def read(self, name: str, verifier: HeadVerifier) -> SignedHead:
        """An anchored head. Raises HeadInvalid where it is not one, or not the one that its name says."""
        head = parse_anchor(self.store.get(self.bucket, name), verifier)
        if self.name(head.size) != name:
            raise HeadInvalid("the name says another size")
        return head


def anchor_bytes(head: SignedHead) -> bytes:
    """The object's content."""
    parts = {"body": head.body, "signature": head.signature}
    return rfc8785.dumps({name: base64.b64encode(value).decode("ascii") for name, value in parts.items()})


def parse_anchor(data: bytes, verifier: HeadVerifier) -> SignedHead:
    """The head in an anchor's content. Raises HeadInvalid."""
    try:
        fields = json.loads(data)
        body, signature = (base64.b64decode(fields[name], validate=True) for name in ("body", "signature"))
    except (ValueError, KeyError, TypeError, binascii.Error) as error:
        raise HeadInvalid(type(error).__name__) from error
    return verifier.read(body, signature)
