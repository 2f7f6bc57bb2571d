"""What the demo did, step by step, for its figures."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

from schemas.states import ItemState
from workers.audit.findings import Verification


@dataclass
class Photograph:
    """One photograph on its way through the demo."""

    name: str
    stem: str  # what files made of it are called, and of no other
    source: Path
    item: UUID
    state: ItemState
    reason: str | None
    report: dict[str, Any]
    stego_psnr: float | None
    size_bytes: int | None
    released: Path | None = None
    recovered: dict[int, Path] = field(default_factory=dict)


@dataclass
class Run:
    """What the demo did."""

    photographs: list[Photograph] = field(default_factory=list)
    release_seconds: float = 0.0
    refusals: list[str] = field(default_factory=list)
    export_files: int = 0
    risk_report: Path | None = None
    verification: Verification = field(default_factory=Verification)
