"""Signed tree heads, and the objects under Object Lock that anchor them.

A head's signed bytes are the RFC 8785 form of `{"at", "key", "root", "size", "v": 1, "what": "refacex tree head"}`; `root` in hex,
`at` RFC 3339 in UTC. The signature is Ed25519 over these bytes. The anchor is `heads/SIZE.json` (20 digits):
`{"body", "signature"}`, both base64. After an accepted fork the branch that goes on has an `epoch`, in its heads' bytes and in
their names (`heads/epoch-0001/SIZE.json`); see `workers.audit.forks`.

A bucket's owner cannot remove a version under Object Lock, but can put a delete marker or another version over it. So it is the versions
that are read, and the oldest one that the notary signed is the anchor.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol, TypeVar

import rfc8785
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from workers.audit.errors import AuditError
from workers.storage import StoredVersion
from workers.strangers import read_json

_Read = TypeVar("_Read")
PREFIX = "heads/"
#: The notary anchors at least every 60 s. It may miss once, as when an engine begins anew under it; the rest is for clocks that
#: differ and for the head's own making, 30 events of a million in tenths of a second.
MOST_UNANCHORED = 2 * timedelta(seconds=60) + timedelta(seconds=30)
WHAT = "refacex tree head"
_NAME = re.compile(r"(?:epoch-(\d{4,})/)?(\d{20})\.json")
_FORK_NAME = re.compile(r"epoch-(\d{4,})/fork\.json")


class HeadInvalid(AuditError):
    """A tree head, or the statement of a fork, is damaged or not signed by the notary's key."""

    code = "head_invalid"


@dataclass(frozen=True)
class SignedHead:
    """A tree head with the bytes that were signed. `epoch` counts the forks that were accepted before it."""

    size: int
    root: bytes
    at: datetime
    key_id: str
    body: bytes
    signature: bytes
    epoch: int = 0


@dataclass(frozen=True)
class HeadSigner:
    """The notary's key: raw Ed25519 private bytes and their id."""

    key_id: str
    private: bytes = field(repr=False)

    def sign(self, size: int, root: bytes, epoch: int = 0) -> SignedHead:
        """A head signed now."""
        at = datetime.now(UTC)
        fields: dict[str, Any] = {
            "v": 1,
            "what": WHAT,
            "size": size,
            "root": root.hex(),
            "at": at.isoformat(),
            "key": self.key_id,
        }
        body = rfc8785.dumps(fields | ({"epoch": epoch} if epoch else {}))
        return SignedHead(size, root, at, self.key_id, body, self.sign_bytes(body), epoch)

    def sign_bytes(self, body: bytes) -> bytes:
        """The signature over a canonical form that says what it is, 64 bytes."""
        return Ed25519PrivateKey.from_private_bytes(self.private).sign(body)

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
        fields = self.open(body, signature, WHAT)
        try:
            at, root = datetime.fromisoformat(fields["at"]), bytes.fromhex(fields["root"])
            head = SignedHead(fields["size"], root, at, fields["key"], body, signature, fields.get("epoch", 0))
        except (ValueError, KeyError, TypeError) as error:
            raise HeadInvalid("not in the form of one") from error
        if len(root) != 32 or type(head.size) is not int or type(head.epoch) is not int or head.size < 0:
            raise HeadInvalid("its size or root")
        return head

    def open(self, body: bytes, signature: bytes, what: str) -> dict[str, Any]:
        """The fields of what this key signed as `what`, version 1. Raises HeadInvalid."""
        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(signature, body)
            fields: dict[str, Any] = read_json(body)
            if (fields["what"], fields["v"], fields["key"]) != (what, 1, self.key_id):
                raise HeadInvalid(f"not a {what.removeprefix('refacex ')} of this key")
        except InvalidSignature as error:
            raise HeadInvalid("signature") from error
        except (ValueError, KeyError, TypeError) as error:
            raise HeadInvalid("not in the form of one") from error
        return fields


class ObjectStore(Protocol):
    """The part of `workers.storage.Storage` that anchoring needs."""

    def get(self, bucket: str, key: str, version: str | None = None) -> bytes: ...
    def put(
        self, bucket: str, key: str, data: bytes, *, if_none_match: bool = True, retain_until: datetime | None = None
    ) -> None: ...
    def versions(self, bucket: str, prefix: str = "") -> Iterator[StoredVersion]: ...


@dataclass(frozen=True)
class Anchored:
    """A name in the bucket: its versions, the oldest first, and how many delete markers somebody put over them."""

    name: str
    versions: tuple[str, ...]
    markers: int = 0


@dataclass(frozen=True)
class Anchors:
    """The bucket that heads are anchored in."""

    store: ObjectStore
    bucket: str
    prefix: str = PREFIX

    def name(self, size: int, epoch: int = 0) -> str:
        """The object's name; names of one epoch sort as sizes do."""
        return f"{self.prefix}{_folder(epoch)}{size:020d}.json"

    def fork_name(self, epoch: int) -> str:
        """The name of the statement that began this epoch."""
        return f"{self.prefix}{_folder(epoch)}fork.json"

    def put(self, head: SignedHead, keep: timedelta) -> str:
        """Anchors a head for that long; gives the object's name. Raises workers.errors.ObjectExists, StorageError."""
        name = self.name(head.size, head.epoch)
        self.lock_away(name, head.body, head.signature, keep)
        return name

    def lock_away(self, name: str, body: bytes, signature: bytes, keep: timedelta) -> None:
        """Writes a signed object once, under Object Lock for that long. Raises as `put`."""
        until = datetime.now(UTC) + keep
        self.store.put(self.bucket, name, anchor_bytes(body, signature), retain_until=until)

    def heads(self) -> list[Anchored]:
        """Every anchored head, also a hidden one: smallest tree first, epoch after epoch."""
        return [each for each in self._anchored("") if not self._is_fork(each.name)]

    def forks(self) -> list[Anchored]:
        """Every fork's statement, also a hidden one: the first fork first."""
        return [each for each in self._anchored("epoch-") if self._is_fork(each.name)]

    def find(self, name: str) -> Anchored:
        """What there is of this name; no version where there is nothing."""
        found = (each for each in self._anchored(name.removeprefix(self.prefix)) if each.name == name)
        return next(found, Anchored(name, ()))

    def place(self, name: str) -> tuple[int, int] | None:
        """The epoch and size that a head's name says; None for the name of no head."""
        found = _NAME.fullmatch(name.removeprefix(self.prefix))
        return (int(found[1] or 0), int(found[2])) if found else None

    def read(self, anchored: Anchored, verifier: HeadVerifier) -> SignedHead:
        """The head that was anchored there first. Raises HeadInvalid where no version is one, or is the one that its name says."""

        def read(body: bytes, signature: bytes) -> SignedHead:
            head = verifier.read(body, signature)
            if self.name(head.size, head.epoch) != anchored.name:
                raise HeadInvalid("the name says another size or epoch")
            return head

        return self.oldest(anchored, read)

    def oldest(self, anchored: Anchored, read: Callable[[bytes, bytes], _Read]) -> _Read:
        """What `read` makes of the body and signature of the oldest version that it takes. Raises HeadInvalid where it takes none."""
        refused = HeadInvalid("no version of it is left")
        for version in anchored.versions:
            try:
                return read(*self._signed(anchored.name, version))
            except HeadInvalid as error:
                refused = error
        raise refused

    def _signed(self, name: str, version: str) -> tuple[bytes, bytes]:
        try:
            fields = read_json(self.store.get(self.bucket, name, version))
            body, signature = (base64.b64decode(fields[part], validate=True) for part in ("body", "signature"))
        except (ValueError, KeyError, TypeError, binascii.Error) as error:
            raise HeadInvalid("not in the form of one") from error
        return body, signature

    def _is_fork(self, name: str) -> bool:
        return _FORK_NAME.fullmatch(name.removeprefix(self.prefix)) is not None

    def _anchored(self, below: str) -> list[Anchored]:
        versions: defaultdict[str, list[str]] = defaultdict(list)
        markers: defaultdict[str, int] = defaultdict(int)
        for each in self.store.versions(self.bucket, self.prefix + below):
            if each.marker:
                markers[each.key] += 1
            else:
                versions[each.key].insert(0, each.version)
        names = sorted(versions.keys() | markers.keys())
        return [Anchored(name, tuple(versions[name]), markers[name]) for name in names]


def _folder(epoch: int) -> str:
    return f"epoch-{epoch:04d}/" if epoch else ""


def anchor_bytes(body: bytes, signature: bytes) -> bytes:
    """The object's content."""
    parts = {"body": body, "signature": signature}
    return rfc8785.dumps({name: base64.b64encode(value).decode("ascii") for name, value in parts.items()})
