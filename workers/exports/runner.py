"""Writing an export: the released files as tar shards, and beside them what lets anyone check them."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from croniter import croniter
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import func, select, text, update
from sqlalchemy.orm import Session, sessionmaker

from schemas.audit import AuditEvent
from schemas.states import AttemptState, ExportState, ItemState
from schemas.tables import Attempt, Export, ExportSchedule, Item, Release
from workers import audit
from workers.app import away
from workers.custody.keys import FileKind, KeyType, load
from workers.errors import ObjectMissing, WorkerError
from workers.exports import archive, schedules
from workers.exports.archive import Entry, Written
from workers.exports.errors import ExportCorrupt, ExportFailed
from workers.logs import get_logger
from workers.releases import reporting
from workers.releases.reporting import Reporter
from workers.settings import ReleaseSettings
from workers.storage import Storage

log = get_logger(__name__)
ACTOR = "exports-worker"


class ExportRunner:
    """Writes exports with one database role and one storage identity."""

    def __init__(self, settings: ReleaseSettings, sessions: sessionmaker[Session], storage: Storage) -> None:
        self._settings = settings
        self._sessions = sessions
        self._storage = storage

    def run(self, export_id: UUID) -> None:
        """Write one export; nothing to do where it is written, or being written by another worker just now.

        A worker that died half-way left objects that are simply written again, with the same bytes. Raises
        ExportFailed where the release's files are not what their rows say, Away where an engine is.
        """
        with self._alone(export_id) as alone:
            if not alone:
                return
            releases = self._start(export_id)
            if releases is None:
                return
            try:
                written = self._write(export_id, releases)
            except WorkerError as error:
                if away(error):
                    raise
                self._fail(export_id, error)
                raise error if isinstance(error, ExportFailed) else ExportFailed(error.code) from error
            self._finish(export_id, written, releases)
        log.info("export_finished", export=str(export_id), files=len(written))

    @contextmanager
    def _alone(self, export_id: UUID) -> Iterator[bool]:
        """An advisory lock for as long as the export is being written; it goes with its connection, so a kill frees
        it.
        """
        number = int.from_bytes(hashlib.sha256(b"refacex export" + export_id.bytes).digest()[:8], "big", signed=True)
        with self._sessions() as session:
            connection = session.connection(execution_options={"isolation_level": "AUTOCOMMIT"})
            got = connection.scalar(text("SELECT pg_try_advisory_lock(:number)"), {"number": number})
            try:
                yield bool(got)
            finally:
                if got:
                    connection.execute(text("SELECT pg_advisory_unlock(:number)"), {"number": number})

    def _start(self, export_id: UUID) -> list[UUID] | None:
        with self._sessions.begin() as session:
            export = session.get(Export, export_id)
            if export is None or export.state in (ExportState.DONE, ExportState.FAILED):
                return None
            releases = _releases(session, export)
            if export.state is ExportState.PENDING:
                session.execute(update(Export).where(Export.id == export_id).values(state=ExportState.RUNNING))
                detail = {"export": str(export_id), "releases": len(releases)}
                audit.append(session, AuditEvent.EXPORT_STARTED, actor=ACTOR, release=_only(releases), detail=detail)
        return releases

    def _write(self, export_id: UUID, releases: Sequence[UUID]) -> list[Written]:
        with self._sessions() as session:
            entries = list(_entries(session, releases))
            report = archive.privacy_report(list(_items(session, releases)))
        with tempfile.TemporaryDirectory(prefix="refacex-export-") as folder:
            written: list[Written] = []
            lines: list[dict[str, Any]] = []
            for name, shard in archive.shards(entries, self._settings.shard_bytes):
                path = Path(folder, name)
                archive.write_shard(path, ((entry, self._fetch(entry)) for entry in shard))
                written.append(self._put(export_id, path))
                path.unlink()
                lines += [entry.line(name) for entry in shard]
            for release in releases:
                for path in self._risk_report(release, Path(folder)):
                    written.append(self._put(export_id, path))
                    lines.append(archive.report_line(written[-1], release))
            manifest = Path(folder, archive.MANIFEST)
            archive.write_lines(manifest, lines)
            privacy = Path(folder, archive.REPORT)
            privacy.write_text(json.dumps(report, indent=1, sort_keys=True) + "\n", encoding="utf-8")
            written += [self._put(export_id, manifest), self._put(export_id, privacy)]
            sums = Path(folder, archive.SUMS)
            archive.write_sums(sums, written)
            written.append(self._put(export_id, sums))
            if self._settings.export_signing_key is not None:
                signature = Path(folder, archive.SIGNATURE)
                signature.write_bytes(sign(self._settings.export_signing_key, sums.read_bytes()))
                written.append(self._put(export_id, signature))
            return written

    def _risk_report(self, release: UUID, folder: Path) -> list[Path]:
        """A release's risk report as files, written now if nobody has come to it yet."""
        sha256 = Reporter(self._settings, self._sessions, self._storage).run(release)
        if sha256 is None:
            raise ExportFailed(f"release {release} has not ended")
        parts = reporting.read(self._storage, self._settings.bucket_releases, release, sha256)
        return list(reporting.write(parts, release, folder).values())

    def _fetch(self, entry: Entry) -> bytes:
        try:
            data = self._storage.get(self._settings.bucket_releases, entry.object_key)
        except ObjectMissing as error:
            raise ExportCorrupt(f"item {entry.item} has no file") from error
        if hashlib.sha256(data).hexdigest() != entry.sha256:
            raise ExportCorrupt(f"item {entry.item}")
        return data

    def _put(self, export_id: UUID, path: Path) -> Written:
        written = Written.of(path)
        with path.open("rb") as file:
            self._storage.put(self._settings.bucket_exports, f"{export_id}/{path.name}", file, if_none_match=False)
        return written

    def _finish(self, export_id: UUID, written: Sequence[Written], releases: Sequence[UUID]) -> None:
        files = [{"name": each.name, "sha256": each.sha256, "bytes": each.size_bytes} for each in written]
        manifest = {"files": files, "releases": [str(release) for release in releases]}
        sums = next(each.sha256 for each in written if each.name == archive.SUMS)
        with self._sessions.begin() as session:
            moved = session.scalar(
                update(Export)
                .where(Export.id == export_id, Export.state == ExportState.RUNNING)
                .values(state=ExportState.DONE, manifest=manifest, finished_at=func.now())
                .returning(Export.id)
            )
            if moved is not None:
                detail = {"export": str(export_id), "files": len(files), "sums_sha256": sums}
                audit.append(session, AuditEvent.EXPORT_FINISHED, actor=ACTOR, release=_only(releases), detail=detail)

    def _fail(self, export_id: UUID, error: WorkerError) -> None:
        with self._sessions.begin() as session:
            session.execute(
                update(Export)
                .where(Export.id == export_id)
                .values(state=ExportState.FAILED, manifest={"error": error.code}, finished_at=func.now())
            )
            detail = {"export": str(export_id), "code": error.code}
            audit.append(session, AuditEvent.EXPORT_FAILED, actor=ACTOR, detail=detail)


def sign(signing_key: Path, sums: bytes) -> bytes:
    """The raw 64-byte Ed25519 signature over SHA256SUMS."""
    secret = load(signing_key, FileKind.SIGNING).of(KeyType.ED25519).secret()
    return Ed25519PrivateKey.from_private_bytes(secret).sign(sums)


def _releases(session: Session, export: Export) -> list[UUID]:
    if export.schedule_id is None:
        return [export.release_id] if export.release_id is not None else []
    if export.window_start is None:
        raise ExportFailed("a schedule's export without its window")
    schedule = session.get_one(ExportSchedule, export.schedule_id)
    start = export.window_start.astimezone(ZoneInfo(schedule.time_zone))
    end: datetime = croniter(schedule.cron, start).get_next(datetime)
    window = schedules.Window(export.window_start, end)
    return schedules.releases_of(session, schedule, window)


def _entries(session: Session, releases: Sequence[UUID]) -> Iterator[Entry]:
    rows = session.execute(
        select(Item, Attempt.model_version)
        .join(Attempt, (Attempt.item_id == Item.id) & (Attempt.state == AttemptState.PUBLISHED))
        .join(Release, Release.id == Item.release_id)
        .where(Item.release_id.in_(releases), Item.state == ItemState.DONE)
        .order_by(Release.finished_at, Release.id, Item.position)
    )
    for item, model_version in rows:
        yield Entry.of(item, model_version)


def _items(session: Session, releases: Sequence[UUID]) -> Iterator[dict[str, Any]]:
    rows = session.execute(select(Item.state, Item.reason, Item.report).where(Item.release_id.in_(releases)))
    for state, reason, report in rows:
        yield {"state": state.value, "reason": reason, "report": report}


def _only(releases: Sequence[UUID]) -> UUID | None:
    return releases[0] if len(releases) == 1 else None
