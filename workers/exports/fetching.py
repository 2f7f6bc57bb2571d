"""Fetching an export to a folder: every file checked, and beside them what the audit trail says of the release."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from schemas.audit_tables import Event, TreeHead
from schemas.states import ExportState
from schemas.tables import Export
from workers.audit.canonical import fields_of
from workers.audit.merkle import inclusion_proof
from workers.audit.store import StoredNodes
from workers.errors import FolderUnusable
from workers.exports import service
from workers.exports.errors import ExportCorrupt, ExportFailed, ExportUnfinished, FolderMixed, FolderTaken
from workers.storage import Storage

AUDIT = "audit-events.jsonl"
HEAD = "tree-head.json"


def wait(sessions: sessionmaker[Session], export_id: UUID, *, timeout: float, poll: float = 0.5) -> Export:
    """The export once it is done. Raises ExportFailed, ExportUnfinished after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        with sessions() as session:
            now = service.export(session, export_id)
        if now.state is ExportState.DONE:
            return now
        if now.state is ExportState.FAILED:
            raise ExportFailed(str((now.manifest or {}).get("error", "")))
        if time.monotonic() > deadline:
            raise ExportUnfinished
        time.sleep(poll)


@dataclass(frozen=True)
class Fetched:
    """The names of an export's files, and how many of them were in the folder already, as they should be."""

    names: list[str]
    there: int


def fetch(storage: Storage, bucket: str, export: Export, folder: Path) -> Fetched:
    """Write the export's files to a folder. A file is in place only once its checksum was right.

    The same export in the folder, or a part of it, stays and is checked. Anything else in it is refused before anything is
    written. Raises ExportCorrupt, FolderTaken, FolderMixed, FolderUnusable, StorageAway.
    """
    entries = {str(entry["name"]): str(entry["sha256"]) for entry in (export.manifest or {}).get("files", ())}
    if any(Path(name).name != name for name in entries):
        raise ExportCorrupt("a file's name leads out of the folder")
    names = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        there = {name for name in entries if (folder / name).exists()}
        if any(_sha256(folder / name) != entries[name] for name in there):
            raise FolderTaken
        others = {path.name for path in folder.iterdir() if not path.name.startswith(".")} - entries.keys()
        if others - {AUDIT, HEAD}:
            raise FolderMixed
        for name, sha256 in entries.items():
            names.append(name)
            if name in there:
                continue
            part = folder / f".{name}.part"
            with part.open("wb") as target:
                storage.download(bucket, f"{export.object_prefix}{name}", target)
            if _sha256(part) != sha256:
                part.unlink()
                raise ExportCorrupt(name)
            part.rename(folder / name)
    except OSError as error:
        raise FolderUnusable(error.strerror or "") from error
    return Fetched(names, len(there))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_audit(session: Session, export: Export, folder: Path) -> None:
    """What the audit trail says of the export's releases, one event a line: its bytes, leaf hash and inclusion proof.

    Events that name a subject are left out: they would tell a recipient which images show one person. The proofs lead
    to the last signed tree head, which is written beside them; an event younger than that head has none yet. Raises
    FolderUnusable.
    """
    releases = set((export.manifest or {}).get("releases", ()))
    head = session.scalars(select(TreeHead).order_by(TreeHead.size.desc()).limit(1)).one_or_none()
    nodes = StoredNodes(session)
    try:
        if head is not None:
            (folder / HEAD).write_text(
                json.dumps({"body": head.body.decode(), "signature": head.signature.hex(), "key_id": head.key_id})
                + "\n"
            )
        with (folder / AUDIT).open("w", encoding="utf-8") as file:
            query = select(Event).order_by(Event.seq).execution_options(yield_per=1000)
            for event in session.scalars(query):
                canonical = event.canonical.decode()
                fields = fields_of(event.canonical)
                if str(fields.get("release")) not in releases or "subject" in fields:
                    continue
                line: dict[str, object] = {"seq": event.seq, "leaf": event.leaf.hex(), "canonical": canonical}
                if head is not None and event.seq < head.size:
                    proof = inclusion_proof(event.seq, head.size, nodes)
                    line |= {"tree_size": head.size, "proof": [node.hex() for node in proof]}
                file.write(json.dumps(line, sort_keys=True) + "\n")
    except OSError as error:
        raise FolderUnusable(error.strerror or "") from error
