"""Risk reports on the real engines: written once beside the files, told in the trail, fetched and checked."""

from __future__ import annotations

import hashlib
import json
import threading
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import func, select, text, update
from sqlalchemy.exc import DBAPIError
from typer.testing import CliRunner

from gateway.cli import releases as commands
from schemas.states import ItemState
from schemas.tables import Item, Outbox, Release
from tests.workers.releases.harness import Service
from tests.workers.releases.standin import StandIn
from workers.app import away
from workers.outbox.reconciler import Reconciler
from workers.releases import reporting
from workers.releases.errors import ReportCorrupt, ReportMissing
from workers.releases.reporting import JSON, PAGE, Reporter
from workers.releases.runner import Runner

FILES = {"anna.png": b"a", "berta.png": b"b", "hold.png": b"HOLD", "bad.png": b"BAD"}


@pytest.fixture
def finished(service: Service, runner: Runner) -> UUID:
    """A finished release of two released images, one held and one failed."""
    release_id = service.submit(FILES)
    with service.sessions() as session:
        items = list(session.scalars(select(Item.id).where(Item.release_id == release_id)))
    runner.run(items)
    return release_id


def stored(service: Service, release_id: UUID) -> dict[str, bytes]:
    bucket = service.release_settings.bucket_releases
    keys = {name: reporting.object_key(release_id, name) for name in (JSON, PAGE)}
    return {name: service.storage.get(bucket, key) for name, key in keys.items() if service.storage.exists(bucket, key)}


def events(service: Service, release_id: UUID, name: str) -> list[dict[str, Any]]:
    with service.sessions() as session:
        found = service._events(session)
    return [fields for event, fields in found if event == name and fields.get("release") == str(release_id)]


def asked(service: Service, release_id: UUID) -> int:
    with service.sessions() as session:
        query = select(func.count()).where(Outbox.task == "releases.report", Outbox.args == [str(release_id)])
        return session.scalars(query).one()


def test_a_finished_release_gets_its_report_once(service: Service, finished: UUID, reporter: Reporter) -> None:
    assert asked(service, finished) == 1
    sha256 = reporter.run(finished)
    parts = stored(service, finished)
    assert sha256 == hashlib.sha256(parts[JSON]).hexdigest() and parts[PAGE].startswith(b"<!DOCTYPE html>")
    report = json.loads(parts[JSON])
    assert report["page_sha256"] == hashlib.sha256(parts[PAGE]).hexdigest()
    assert report["release"] == str(finished) and report["tenant"] == "t" and report["operator"] == "tester"
    assert report["images_by_state"] == {"done": 2, "held": 1, "failed": 1} and len(report["policy"]["sha256"]) == 64
    assert [one["recogniser"] for one in report["similarity_to_source"]] == ["sface", "dlib"]
    assert report["models"] == [{"model_version": StandIn.model_version, "images": 2, "weights": []}]
    assert not any(name.encode() in part for name in FILES for part in parts.values())
    assert [fields["detail"] for fields in events(service, finished, "release:reported")] == [{"sha256": sha256}]
    assert reporter.run(finished) == sha256
    assert stored(service, finished) == parts and len(events(service, finished, "release:reported")) == 1


def test_what_a_killed_worker_left_is_written_again_with_the_same_bytes(
    service: Service, finished: UUID, reporter: Reporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        """Stands for SIGKILL: nothing catches it."""

    def die(point: str) -> None:
        raise Killed(point)

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(reporter._faults, "reach", die)
        reporter.run(finished)
    left = stored(service, finished)
    assert len(left) == 2 and not events(service, finished, "release:reported")
    assert reporter.run(finished) and stored(service, finished) == left


def test_two_workers_write_one_report(service: Service, finished: UUID, reporter: Reporter) -> None:
    given: list[str | None] = []
    threads = [threading.Thread(target=lambda: given.append(reporter.run(finished))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(given) == 4 and len(set(given)) == 1 and None not in given
    assert len(events(service, finished, "release:reported")) == 1


def test_a_release_that_has_work_left_gets_none(service: Service, reporter: Reporter) -> None:
    release_id = service.submit({"a.png": b"a"})
    assert reporter.run(release_id) is None and reporter.run(uuid4()) is None
    assert stored(service, release_id) == {} and asked(service, release_id) == 0


def test_no_event_no_report(service: Service, finished: UUID, reporter: Reporter) -> None:
    with service.sessions.begin() as session:
        session.execute(text("DELETE FROM audit.grants WHERE event = 'release:reported'"))
    try:
        with pytest.raises(DBAPIError, match="may not write"):
            reporter.run(finished)
        with service.sessions() as session:
            assert session.get_one(Release, finished).report_sha256 is None
    finally:
        with service.sessions.begin() as session:
            session.execute(text("INSERT INTO audit.grants VALUES ('release:reported', 'refacex_release')"))
    assert reporter.run(finished)


def test_a_store_that_is_away_is_waited_for(service: Service, finished: UUID, reporter: Reporter, engines: Any) -> None:
    engines.kill("s3")
    try:
        with pytest.raises(Exception, match="store") as raised:
            reporter.run(finished)
        assert away(raised.value)
    finally:
        engines.restart("s3")
    assert reporter.run(finished)


def test_the_reconciler_asks_again_and_sweeps_no_report(
    service: Service, finished: UUID, reporter: Reporter, reconciler: Reconciler
) -> None:
    with service.sessions.begin() as session:
        session.execute(text("DELETE FROM outbox"))  # as if the message had come from a version that wrote none
    reconciler.bring_back(queue_is_empty=False)
    assert asked(service, finished) == 1
    reconciler.bring_back(queue_is_empty=False)
    assert asked(service, finished) == 1
    reporter.run(finished)
    with service.sessions.begin() as session:
        session.execute(text("DELETE FROM outbox"))
    reconciler.bring_back(queue_is_empty=False)
    assert asked(service, finished) == 0
    strange = [f"{uuid4()}/{JSON}", f"{finished}/risk-report.txt", f"{finished}/x/{JSON}"]
    for key in strange:
        service.storage.put(service.release_settings.bucket_releases, key, b"x")
    object.__setattr__(reconciler._settings, "orphan_seconds", 0.0)
    swept = [0]

    def all_swept() -> bool:
        swept[0] += reconciler.sweep_store().objects
        return swept[0] >= len(strange)

    service.eventually(all_swept)
    assert swept[0] == len(strange) and len(stored(service, finished)) == 2


@pytest.mark.parametrize("values", [{"report_sha256": "b" * 64}, {"report_sha256": None}])
def test_a_report_is_told_once(values: dict[str, Any], service: Service, finished: UUID, reporter: Reporter) -> None:
    reporter.run(finished)
    with service.sessions.begin() as session, pytest.raises(DBAPIError, match="reported once"):
        session.execute(update(Release).where(Release.id == finished).values(**values))


def test_no_report_before_the_end(service: Service) -> None:
    release_id = service.submit({"a.png": b"a"})
    with service.worker.begin() as session, pytest.raises(DBAPIError, match="after its end"):
        session.execute(update(Release).where(Release.id == release_id).values(report_sha256="b" * 64))


def _refacex(service: Service, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Any:
    for name, value in service.environment("gateway").items():
        monkeypatch.setenv(name, value)
    return CliRunner().invoke(commands.release_app, list(arguments))


def test_the_command_fetches_both_parts(
    service: Service, finished: UUID, reporter: Reporter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    early = _refacex(service, monkeypatch, "risk", str(finished), "--timeout", "0")
    assert early.exit_code == 1 and "no risk report yet" in early.output
    reporter.run(finished)
    out = tmp_path / "out"
    ran = _refacex(service, monkeypatch, "risk", str(finished)[:8], "--out", str(out))
    assert ran.exit_code == 0, ran.output
    paths = [Path(line) for line in ran.stdout.split()]
    parts = stored(service, finished)
    assert {path.read_bytes() for path in paths} == set(parts.values())
    assert {path.name for path in out.iterdir()} == {f"risk-report-{finished}.{end}" for end in ("json", "html")}


@pytest.mark.parametrize("name", [JSON, PAGE])
def test_a_report_that_somebody_changed_is_refused(
    name: str, service: Service, finished: UUID, reporter: Reporter
) -> None:
    sha256 = reporter.run(finished)
    bucket, key = service.release_settings.bucket_releases, reporting.object_key(finished, name)
    service.storage.put(bucket, key, stored(service, finished)[name] + b" ", if_none_match=False)
    with pytest.raises(ReportCorrupt, match=name):
        reporting.read(service.storage, bucket, finished, str(sha256))
    service.storage.delete(bucket, key)
    with pytest.raises(ReportMissing):
        reporting.read(service.storage, bucket, finished, str(sha256))


def test_the_worker_writes_it_by_itself(service: Service) -> None:
    service.start_relay()
    service.start_worker()
    release_id = service.submit(FILES)
    service.await_finished(release_id)
    assert service.check(release_id) == {ItemState.DONE: 2, ItemState.HELD: 1, ItemState.FAILED: 1}
