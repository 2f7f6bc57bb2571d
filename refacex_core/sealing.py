"""Sealing of recovery payloads: HKDF-SHA256 (RFC 5869), AES-256-GCM, and a commitment to each face's key.

Sealed part = AES-GCM(layout) || for each face: commitment (16) || AES-GCM(payload).

Every AES key is derived from a data key with the attempt's locator as salt, and encrypts one message only. So the nonce
is all zeros and is not stored. That is safe *because locators are fresh*: never call `seal` twice with one locator and
the same keys. The commitment is there because AES-GCM alone does not bind a ciphertext to one key.

Associated data: canonical JSON (RFC 8785) of the seal context, the face's number and the whole public header. A payload
that was moved to another item, release, tenant, model or header does not open.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from enum import Enum

import numpy as np
import rfc8785
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from refacex_core.errors import FaceUnknown, PayloadMismatch, WrongKey
from refacex_core.stego.framing import (
    KEY_CHECK_BYTES,
    LOCATOR_BYTES,
    MAX_SEALED_BYTES,
    FaceEntry,
    FaceGeometry,
    Header,
    Layout,
    keyed_permutation,
    layout_size,
)
from refacex_core.types import Profile, SealContext


class Suite(Enum):
    """How a format version seals, with its sizes in bytes: (format version, key, nonce, tag, commitment)."""

    HKDF_SHA256_AES_256_GCM = (1, 32, 12, 16, 16)

    def __init__(self, format_version: int, key: int, nonce: int, tag: int, commitment: int) -> None:
        self.format_version = format_version
        self.key_bytes = key
        self.nonce = bytes(nonce)
        self.tag_bytes = tag
        self.commitment_bytes = commitment


SUITE = Suite.HKDF_SHA256_AES_256_GCM


@dataclass(frozen=True)
class SealedFace:
    """A face to be sealed: where it is, its payload, and the fingerprint of the released face (8 bytes)."""

    geometry: FaceGeometry
    payload: bytes = field(repr=False)
    fingerprint: bytes = field(repr=False)


def sealed_size(payload_bytes: Sequence[int]) -> int:
    """Bytes of the sealed part for faces with payloads of these sizes."""
    layout = layout_size(len(payload_bytes)) + SUITE.tag_bytes
    return layout + sum(SUITE.commitment_bytes + size + SUITE.tag_bytes for size in payload_bytes)


def _derive(key: bytes, locator: bytes, label: str, size: int, context: bytes = b"") -> bytes:
    info = f"refacex v1 {label}".encode() + (b"\0" + context if context else b"")
    return HKDF(algorithm=hashes.SHA256(), length=size, salt=locator, info=info).derive(key)


def _require(key: bytes, locator: bytes) -> None:
    if len(key) != SUITE.key_bytes or len(locator) != LOCATOR_BYTES:
        raise ValueError("keys have 32 bytes and locators 8")


def _canonical(context: SealContext, face: int | None, header: Header | None = None) -> bytes:
    """`face` None stands for the layout."""
    fields: dict[str, str | int | None] = {**asdict(context), "face": face}
    if header is not None:
        fields["header"] = header.pack().hex()
    return rfc8785.dumps(fields)


def _layout_cipher(layout_key: bytes, locator: bytes, context: SealContext) -> AESGCM:
    return AESGCM(_derive(layout_key, locator, "layout", SUITE.key_bytes, _canonical(context, None)))


def _face_cipher(key: bytes, locator: bytes, context: SealContext, face: int) -> tuple[AESGCM, bytes]:
    """The cipher of one face and the commitment to its key."""
    size = SUITE.key_bytes + SUITE.commitment_bytes
    derived = _derive(key, locator, "face", size, _canonical(context, face))
    return AESGCM(derived[: SUITE.key_bytes]), derived[SUITE.key_bytes :]


def key_check(layout_key: bytes, locator: bytes) -> bytes:
    """Four bytes for the public header by which a reader knows a wrong layout key before decoding anything."""
    _require(layout_key, locator)
    return _derive(layout_key, locator, "key check", KEY_CHECK_BYTES)


def check_key(header: Header, layout_key: bytes) -> None:
    """Raises WrongKey unless `layout_key` is the one of this header (a wrong key passes with probability 2^-32)."""
    if len(layout_key) != SUITE.key_bytes or not hmac.compare_digest(
        key_check(layout_key, header.locator), header.key_check
    ):
        raise WrongKey


def interleaving_seed(layout_key: bytes, locator: bytes) -> bytes:
    """32 bytes from which the places of the sealed part are drawn."""
    _require(layout_key, locator)
    return _derive(layout_key, locator, "interleave", 32)


def permutation(layout_key: bytes, locator: bytes, n: int) -> NDArray[np.int64]:
    """The interleaver: a permutation of n channel positions, the same for ever for one key and locator."""
    return keyed_permutation(interleaving_seed(layout_key, locator), n)


def seal(
    *,
    profile: Profile,
    model_id: int,
    locator: bytes,
    layout_key: bytes,
    face_keys: Sequence[bytes],
    context: SealContext,
    faces: Sequence[SealedFace],
    fingerprint: bytes,
    spread: int = 0,
    strength: int = 0,
    size: tuple[int, int] | None = None,
) -> tuple[Header, bytes]:
    """The public header and the sealed part for the faces of one image. `locator` must be fresh (`framing.new_locator`).

    `spread`, `strength` and `size` as in the header.

    ValueError when sizes do not fit: keys 32 bytes, one a face; at most 255 faces; 65,535 payload bytes a face.
    """
    if len(face_keys) != len(faces):
        raise ValueError("each face needs a key of its own")
    for key in (layout_key, *face_keys):
        _require(key, locator)
    entries = tuple(FaceEntry(face.geometry, len(face.payload), face.fingerprint) for face in faces)
    plain = Layout(fingerprint, entries).pack()
    length = sealed_size([len(face.payload) for face in faces])
    if length > MAX_SEALED_BYTES:
        raise ValueError("the sealed part is larger than its header can say")
    header = Header(
        profile, model_id, len(faces), length, locator, key_check(layout_key, locator), spread, strength, size
    )
    layout_cipher = _layout_cipher(layout_key, locator, context)
    parts = [layout_cipher.encrypt(SUITE.nonce, plain, _canonical(context, None, header))]
    for i, (face, key) in enumerate(zip(faces, face_keys, strict=True)):
        cipher, commitment = _face_cipher(key, locator, context, i)
        parts += [commitment, cipher.encrypt(SUITE.nonce, face.payload, _canonical(context, i, header))]
    return header, b"".join(parts)


def open_layout(header: Header, sealed: bytes, layout_key: bytes, context: SealContext) -> Layout:
    """The layout of the faces. WrongKey for another key; PayloadMismatch when the sealed part, header or context differ."""
    check_key(header, layout_key)
    end = layout_size(header.faces) + SUITE.tag_bytes
    if len(sealed) != header.sealed_bytes or len(sealed) < end:
        raise PayloadMismatch("the sealed part does not have the length that its header says")
    cipher = _layout_cipher(layout_key, header.locator, context)
    try:
        plain = cipher.decrypt(SUITE.nonce, sealed[:end], _canonical(context, None, header))
    except InvalidTag:
        raise PayloadMismatch("the layout does not belong to this header and release") from None
    layout = Layout.unpack(plain)
    if sealed_size([face.payload_bytes for face in layout.faces]) != len(sealed):
        raise PayloadMismatch("the layout does not describe this payload")
    return layout


def open_face(header: Header, sealed: bytes, layout: Layout, index: int, key: bytes, context: SealContext) -> bytes:
    """The payload of face `index`. FaceUnknown; WrongKey for another key; PayloadMismatch when it was tampered with."""
    if not 0 <= index < len(layout.faces):
        raise FaceUnknown(f"face {index} of {len(layout.faces)}")
    if len(key) != SUITE.key_bytes:
        raise WrongKey
    start = sealed_size([face.payload_bytes for face in layout.faces[:index]])
    start += layout_size(len(layout.faces)) - layout_size(index)
    middle = start + SUITE.commitment_bytes
    end = middle + layout.faces[index].payload_bytes + SUITE.tag_bytes
    if end > len(sealed):
        raise PayloadMismatch("the sealed part is shorter than its layout says")
    cipher, commitment = _face_cipher(key, header.locator, context, index)
    if not hmac.compare_digest(commitment, sealed[start:middle]):
        raise WrongKey(f"face {index}")
    try:
        return cipher.decrypt(SUITE.nonce, sealed[middle:end], _canonical(context, index, header))
    except InvalidTag:
        raise PayloadMismatch(f"the payload of face {index} was changed") from None
