"""What keys, requests and payloads are bound to, as canonical bytes (RFC 8785)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any
from uuid import UUID

import rfc8785

from schemas.states import KeyKind
from schemas.submissions import NOBODY

LAYOUT_FACE = -1


@dataclass(frozen=True)
class KeyContext:
    """What a sealed key is bound to. `face` is -1 for the layout key; `policy` is the name of the release's policy; `subject` the
    pseudonym of whom the item shows, zeros for nobody. Contexts of version 1, of before revision 0009, say nothing of a subject.
    """

    tenant: str
    release: str
    item: str
    attempt: str
    model_version: str
    policy: str
    kind: KeyKind
    face: int
    subject: str = str(NOBODY)
    v: int = 2

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
        subject: UUID | None = None,
        v: int = 2,
    ) -> KeyContext:
        """The context of a face's key, or of the layout key where `face` is None."""
        kind = KeyKind.LAYOUT if face is None else KeyKind.FACE
        number, shown = LAYOUT_FACE if face is None else face, str(subject or NOBODY)
        return cls(tenant, str(release), str(item), str(attempt), model_version, policy, kind, number, shown, v)

    def fields(self) -> dict[str, Any]:
        """What the seal is bound to, by name."""
        fields = asdict(self) | {"kind": self.kind.value}
        return fields if self.v > 1 else {name: value for name, value in fields.items() if name != "subject"}

    def canonical(self) -> bytes:
        """The bytes that the seal is bound to."""
        return rfc8785.dumps({"what": "refacex sealed key"} | self.fields())
