"""Writing a release's risk report beside its files, and fetching it. Each step may be run again."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from uuid import UUID

from sqlalchemy import exists, select, update
from sqlalchemy.orm import Session, sessionmaker

from schemas.audit import AuditEvent
from schemas.states import AttemptState, ReleaseState
from schemas.tables import Attempt, Item, Release
from workers import audit
from workers.errors import FolderUnusable, ObjectMissing
from workers.logs import get_logger
from workers.releases import risk, risk_page
from workers.releases.errors import ReleaseUnknown, ReportCorrupt, ReportMissing
from workers.releases.faults import Faults
from workers.releases.lifecycle import ACTOR, UNFINISHED
from workers.settings import ReleaseSettings
from workers.storage import Storage
from workers.strangers import read_json

log = get_logger(__name__)

ENDED = (ReleaseState.FINISHED, ReleaseState.CANCELLED)
JSON, PAGE = "risk-report.json", "risk-report.html"
CONTENT_TYPES = {JSON: "application/json", PAGE: "text/html; charset=utf-8"}


def object_key(release_id: UUID, name: str) -> str:
    """Where a part of the report lies in the releases' bucket."""
    return f"{release_id}/{name}"


def file_name(release_id: UUID, name: str) -> str:
    """What it is called in a folder that may hold several releases' reports."""
    stem, suffix = name.split(".")
    return f"{stem}-{release_id}.{suffix}"


class Reporter:
    """Writes reports with one database role and one storage identity."""

    def __init__(self, settings: ReleaseSettings, sessions: sessionmaker[Session], storage: Storage) -> None:
        self._bucket = settings.bucket_releases
        self._sessions = sessions
        self._storage = storage
        self._faults = Faults(settings)

    def run(self, release_id: UUID) -> str | None:
        """Write the report of an ended release, unless it is written; gives its SHA-256, None where nothing has ended.

        The release's row stays locked meanwhile: two workers never write different bytes under one name. Objects that a
        killed worker left without its row are written again. Raises StorageAway, StorageError.
        """
        with self._sessions.begin() as session:
            query = select(Release).where(Release.id == release_id, Release.state.in_(ENDED))
            release = session.scalars(query.with_for_update(key_share=True)).one_or_none()
            if release is None or release.report_sha256 is not None:
                return release.report_sha256 if release else None
            if session.scalar(select(exists().where(Item.release_id == release_id, Item.state.in_(UNFINISHED)))):
                return None
            report = risk.build(release, _rows(session, release_id))
            page = risk_page.render(report)
            data = risk.encode(report | {"page_sha256": hashlib.sha256(page).hexdigest()})
            for name, content in ((PAGE, page), (JSON, data)):
                self._storage.put(
                    self._bucket,
                    object_key(release_id, name),
                    content,
                    if_none_match=False,
                    content_type=CONTENT_TYPES[name],
                )
            self._faults.reach("after-report")
            sha256 = hashlib.sha256(data).hexdigest()
            session.execute(update(Release).where(Release.id == release_id).values(report_sha256=sha256))
            detail = {"sha256": sha256}
            audit.append(session, AuditEvent.RELEASE_REPORTED, actor=ACTOR, release=release_id, detail=detail)
        log.info("release_reported", release=str(release_id))
        return sha256


def _rows(session: Session, release_id: UUID) -> list[risk.Row]:
    published = (Attempt.item_id == Item.id) & (Attempt.state == AttemptState.PUBLISHED)
    query = select(Item, Attempt.model_version).outerjoin(Attempt, published).where(Item.release_id == release_id)
    return [risk.Row(item, version) for item, version in session.execute(query.order_by(Item.position))]


def unreported(session: Session, limit: int = 500) -> list[UUID]:
    """Releases that have ended, with nothing left to do, and have no report yet."""
    left = exists().where(Item.release_id == Release.id, Item.state.in_(UNFINISHED))
    query = select(Release.id).where(Release.state.in_(ENDED), Release.report_sha256.is_(None), ~left)
    return list(session.scalars(query.order_by(Release.created_at).limit(limit)))


def kept(session: Session, keys: set[str]) -> set[str]:
    """Those of these object keys that are reports of releases that have ended."""
    found = {key: release for key in keys if (release := _release_of(key)) is not None}
    ended = set(session.scalars(select(Release.id).where(Release.id.in_(found.values()), Release.state.in_(ENDED))))
    return {key for key, release in found.items() if release in ended}


def _release_of(key: str) -> UUID | None:
    release, _, name = key.partition("/")
    try:
        return UUID(release) if name in CONTENT_TYPES else None
    except ValueError:
        return None


def wait(sessions: sessionmaker[Session], release_id: UUID, *, timeout: float, poll: float = 0.5) -> str:
    """The report's SHA-256 once it is written. Raises ReleaseUnknown, ReportMissing after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        with sessions() as session:
            found = session.execute(select(Release.report_sha256).where(Release.id == release_id)).one_or_none()
        if found is None:
            raise ReleaseUnknown
        if found.report_sha256 is not None:
            return str(found.report_sha256)
        if time.monotonic() > deadline:
            raise ReportMissing
        time.sleep(poll)


def read(storage: Storage, bucket: str, release_id: UUID, sha256: str) -> dict[str, bytes]:
    """Both parts, by name, checked: the JSON by the release's row and the audit trail, the page by the JSON.

    Raises ReportMissing, ReportCorrupt, StorageAway.
    """
    try:
        parts = {name: storage.get(bucket, object_key(release_id, name)) for name in (JSON, PAGE)}
    except ObjectMissing as error:
        raise ReportMissing(f"release {release_id}") from error
    if hashlib.sha256(parts[JSON]).hexdigest() != sha256:
        raise ReportCorrupt(JSON)
    try:
        page = read_json(parts[JSON])["page_sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise ReportCorrupt(JSON) from error
    if hashlib.sha256(parts[PAGE]).hexdigest() != page:
        raise ReportCorrupt(PAGE)
    return parts


def write(parts: dict[str, bytes], release_id: UUID, folder: Path) -> dict[str, Path]:
    """Both parts as files of a folder, by name. Raises FolderUnusable."""
    paths = {name: folder / file_name(release_id, name) for name in parts}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, path in paths.items():
            path.write_bytes(parts[name])
    except OSError as error:
        raise FolderUnusable(error.strerror or "") from error
    return paths
