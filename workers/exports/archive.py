"""The files of an export, made so that the same release gives the same bytes every time.

Files inside are called by release and position, never by what their submitter called them: a name can tell who is in
a photograph.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any
from uuid import UUID

from schemas.tables import Item
from workers.exports.errors import ExportCorrupt

MANIFEST = "manifest.jsonl"
REPORT = "privacy-report.json"
SUMS = "SHA256SUMS"
SIGNATURE = "SHA256SUMS.sig"


@dataclass(frozen=True)
class Entry:
    """One released file of an export, as its rows have it."""

    release: UUID
    item: UUID
    position: int
    object_key: str
    sha256: str
    size_bytes: int
    locator: bytes
    width: int
    height: int
    faces: int
    model_version: str

    @classmethod
    def of(cls, item: Item, model_version: str) -> Entry:
        """From the row of an item that is done; the database sees to it that nothing is missing there."""
        if not item.object_key or not item.sha256 or not item.locator or item.size_bytes is None:
            raise ExportCorrupt(f"item {item.id}")
        return cls(
            release=item.release_id,
            item=item.id,
            position=item.position,
            object_key=item.object_key,
            sha256=item.sha256,
            size_bytes=item.size_bytes,
            locator=item.locator,
            width=item.width or 0,
            height=item.height or 0,
            faces=item.faces or 0,
            model_version=model_version,
        )

    @property
    def name(self) -> str:
        """Its name in a shard. The release's whole id: a window may hold so many that the beginnings of two are alike."""
        return f"{self.release}/{self.position:06d}.{self.object_key.rsplit('.', 1)[-1]}"

    def line(self, shard: str) -> dict[str, Any]:
        """Its line in the manifest."""
        return {
            "file": self.name,
            "shard": shard,
            "sha256": self.sha256,
            "bytes": self.size_bytes,
            "release": str(self.release),
            "item": str(self.item),
            "locator": self.locator.hex(),
            "width": self.width,
            "height": self.height,
            "faces": self.faces,
            "model_version": self.model_version,
        }


@dataclass(frozen=True)
class Written:
    """A file of the export: its name there, SHA-256 in hex and size in bytes."""

    name: str
    sha256: str
    size_bytes: int

    @classmethod
    def of(cls, path: Path) -> Written:
        """Measured from the file itself."""
        with path.open("rb") as file:
            return cls(path.name, hashlib.file_digest(file, "sha256").hexdigest(), path.stat().st_size)


def shards(entries: Sequence[Entry], limit: int) -> Iterator[tuple[str, list[Entry]]]:
    """Names of shards and what goes into each: at most `limit` bytes of files, and at least one file."""
    shard: list[Entry] = []
    size = number = 0
    for entry in entries:
        if shard and size + entry.size_bytes > limit:
            yield f"shard-{number:05d}.tar", shard
            shard, size, number = [], 0, number + 1
        shard.append(entry)
        size += entry.size_bytes
    if shard:
        yield f"shard-{number:05d}.tar", shard


def write_shard(path: Path, files: Iterable[tuple[Entry, bytes]]) -> None:
    """A POSIX tar with nothing in its headers but names and sizes."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for entry, data in files:
            header = tarfile.TarInfo(entry.name)
            header.size, header.mode, header.mtime = len(data), 0o644, 0
            tar.addfile(header, io.BytesIO(data))


def write_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """JSON lines with sorted keys."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(line, sort_keys=True) + "\n" for line in lines)


def report_line(written: Written, release: UUID) -> dict[str, Any]:
    """The manifest's line for a part of a release's risk report, which lies beside the shards."""
    return {
        "file": written.name,
        "what": "risk report",
        "sha256": written.sha256,
        "bytes": written.size_bytes,
        "release": str(release),
    }


def write_sums(path: Path, written: Iterable[Written]) -> None:
    """Checksums as `sha256sum --check` reads them."""
    path.write_text("".join(f"{each.sha256}  {each.name}\n" for each in written), encoding="utf-8")


def privacy_report(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What a reader should know of the protection: what was released, held back and why, and how alike faces stayed.

    `items` hold `state`, `reason`, `faces` and `report` of every item of the export's releases. Similarities are
    cosines on the release gate's recogniser (SFace) between each source face and its released one; they are no
    promise about other recognisers.
    """
    states: dict[str, int] = {}
    reasons: dict[str, int] = {}
    for item in items:
        states[item["state"]] = states.get(item["state"], 0) + 1
        if item["reason"]:
            reasons[item["reason"]] = reasons.get(item["reason"], 0) + 1
    released = [face for item in items if item["state"] == "done" for face in (item["report"] or {}).get("faces", ())]
    audits = [face["audit_similarity"] for face in released if face.get("audit_similarity") is not None]
    similarity = {"mean": round(fmean(audits), 4), "highest": round(max(audits), 4)} if audits else None
    return {
        "status": "pseudonymised: each face can be recovered under governance until its key is shredded",
        "items": dict(sorted(states.items())),
        "not_released": dict(sorted(reasons.items())),
        "faces_released": len(released),
        "similarity_to_source": similarity,
        "file_names": "replaced by positions; the submitter's own names are not in this export",
    }
