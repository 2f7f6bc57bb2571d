"""What keys, requests and payloads are bound to, as canonical bytes (RFC 8785)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any
from uuid import UUID

import rfc8785

from schemas.states import KeyKind

LAYOUT_FACE = -1


@dataclass(frozen=True)
class KeyContext:
    """What a sealed key is bound to. `face` is -1 for the layout key; `policy` is the name of the release's policy."""

    tenant: str
    release: str
    item: str
    attempt: str
    model_version: str
    policy: str
    kind: KeyKind
    face: int

    @classmethod
    def of(
        cls,
        *,
        tenant: str,
        release: UUID,
        item: UUID,
        attempt: UUID,
        model_version: str,
        policy: str,
        face: int | None = None,
    ) -> KeyContext:
        """The context of a face's key, or of the layout key where `face` is None."""
        kind = KeyKind.LAYOUT if face is None else KeyKind.FACE
        number = LAYOUT_FACE if face is None else face
        return cls(tenant, str(release), str(item), str(attempt), model_version, policy, kind, number)

    def canonical(self) -> bytes:
        """The bytes that the seal is bound to."""
        fields: dict[str, Any] = {"v": 1, "what": "refacex sealed key"} | asdict(self) | {"kind": self.kind.value}
        return rfc8785.dumps(fields)
