"""Exports on the real engines: what is in one, what makes it fail, and one a window."""

from __future__ import annotations

import hashlib
import json
import subprocess
import tarfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from sqlalchemy import func, select, text, update
from typer.testing import CliRunner

from gateway.cli import exports as commands
from gateway.cli.service import account
from schemas.states import ExportState, ItemState
from schemas.tables import Export, ExportSchedule, Item, Outbox, Release
from tests.workers.releases.harness import Service
from tests.workers.releases.standin import StandIn
from workers.custody import keys as custody_keys
from workers.custody.providers.sealers import sealer_of
from workers.db import session_factory
from workers.exports import fetching, schedules
from workers.exports import service as exports
from workers.exports.errors import ExportCorrupt, ScheduleInvalid
from workers.exports.runner import ExportRunner
from workers.outbox.__main__ import Rounds
from workers.outbox.reconciler import Reconciler
from workers.releases import subjects
from workers.releases.errors import ReleaseUnfinished, ReleaseUnknown
from workers.releases.keys import Sealer
from workers.releases.runner import Runner

NAMES = ("anna.png", "berta.png", "clara.png", "hold.png")


@pytest.fixture
def service(tmp_path: Path, database: Any, buckets: Any, brokers: Any) -> Iterator[Service]:
    made = Service(tmp_path, database, buckets, brokers)
    public = custody_keys.create_signing_key(made.folder / "export.signing.json")
    custody_keys.write_public(made.folder / "export.public.json", public)
    yield made
    made.stop()


@pytest.fixture
def release_id(service: Service) -> UUID:
    """A finished release, made in this process."""
    release_id = service.submit({name: b"HOLD" if name == "hold.png" else name.encode() for name in NAMES})
    _work_off(service, release_id)
    return release_id


def _work_off(service: Service, release_id: UUID) -> None:
    settings = service.release_settings
    sessions = session_factory(settings.database_url)
    sealer = Sealer(sealer_of(settings))
    with service.sessions() as session:
        items = list(session.scalars(select(Item.id).where(Item.release_id == release_id)))
    try:
        Runner(settings, sessions, service.storage, StandIn(), sealer).run(items)
    finally:
        sessions.kw["bind"].dispose()


@pytest.fixture
def runner(service: Service) -> Iterator[ExportRunner]:
    settings = service.release_settings.model_copy(
        update={"export_signing_key": service.folder / "export.signing.json"}
    )
    sessions = session_factory(settings.database_url)
    yield ExportRunner(settings, sessions, service.storage)
    sessions.kw["bind"].dispose()


def _ask(service: Service, release_id: UUID) -> UUID:
    with service.gateway.begin() as session:
        return exports.export_release(session, release_id, "tester")


def _export(service: Service, export_id: UUID) -> Export:
    with service.gateway() as session:
        return exports.export(session, export_id)


def test_an_export_can_be_checked_by_anyone(
    service: Service, release_id: UUID, runner: ExportRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_id = _ask(service, release_id)
    runner.run(export_id)
    for name, value in service.environment("gateway").items():
        monkeypatch.setenv(name, value)
    out = tmp_path / "out"
    ran = CliRunner().invoke(commands.app, ["run", str(release_id), "--out", str(out)])
    assert ran.exit_code == 0, ran.output
    assert (
        subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=out, check=False).returncode
        == 0
    )
    verifier = custody_keys.load_verifier(service.folder / "export.public.json")
    Ed25519PublicKey.from_public_bytes(verifier.public).verify(
        (out / "SHA256SUMS.sig").read_bytes(), (out / "SHA256SUMS").read_bytes()
    )
    manifest = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    lines = [line for line in manifest if "shard" in line]
    assert len({line["shard"] for line in lines}) == 2  # 48 kB each, 120 kB a shard
    for line in lines:
        with tarfile.open(out / line["shard"]) as tar:
            assert hashlib.sha256(tar.extractfile(line["file"]).read()).hexdigest() == line["sha256"]  # type: ignore[union-attr]
    report = json.loads((out / "privacy-report.json").read_text())
    assert report["items"] == {"done": 3, "held": 1} and report["not_released"] == {"no_face": 1}
    assert report["similarity_to_source"] == {"mean": 0.1, "highest": 0.1}
    risks = [line for line in manifest if line.get("what") == "risk report"]
    assert {line["file"] for line in risks} == {f"risk-report-{release_id}.{end}" for end in ("json", "html")}
    sums = (out / "SHA256SUMS").read_text()
    for line in risks:
        assert hashlib.sha256((out / line["file"]).read_bytes()).hexdigest() == line["sha256"]
        assert f"{line['sha256']}  {line['file']}" in sums
    assert json.loads((out / f"risk-report-{release_id}.json").read_text())["images_by_state"] == report["items"]
    told = [
        json.loads(json.loads(line)["canonical"])["event"] for line in (out / fetching.AUDIT).read_text().splitlines()
    ]
    assert told.count("item:released") == 3 and told[-1] == "export:asked"  # by the command, of what was there already
    assert told.count("release:reported") == 1 and told.count("export:finished") == 1
    everything = b"".join(path.read_bytes() for path in out.iterdir())
    assert not any(name.encode() in everything for name in NAMES), "a submitter's file name is in the export"
    again = CliRunner().invoke(commands.app, ["run", str(release_id), "--out", str(out)])
    assert again.exit_code == 0, again.output
    files = len(sums.splitlines()) + 2  # SHA256SUMS and its signature
    assert f"{files} files checked and written, {files} of them there already" in again.output
    (out / "holiday.jpg").write_bytes(b"x")
    mixed = CliRunner().invoke(commands.app, ["run", str(release_id), "--out", str(out)])
    assert mixed.exit_code == 1 and "would mix with the export" in mixed.output
    (out / "holiday.jpg").unlink()
    (out / "manifest.jsonl").write_text("another release's")
    (out / "SHA256SUMS").unlink()
    taken = CliRunner().invoke(commands.app, ["run", str(release_id), "--out", str(out)])
    assert taken.exit_code == 1 and "holds another export" in taken.output
    assert (out / "manifest.jsonl").read_text() == "another release's" and not (out / "SHA256SUMS").exists()


def _events(service: Service, name: str) -> list[dict[str, Any]]:
    with service.sessions() as session:
        return [fields for event, fields in service._events(session) if event == name]


def test_who_asks_for_an_export_is_told(service: Service, release_id: UUID) -> None:
    export_id = _ask(service, release_id)
    _ask(service, release_id)
    told = [fields for fields in _events(service, "export:asked") if fields["release"] == str(release_id)]
    assert [(fields["actor"], fields["detail"]) for fields in told] == [("tester", {"export": str(export_id)})] * 2


def test_no_recipient_is_told_which_images_show_one_person(
    service: Service, runner: ExportRunner, tmp_path: Path
) -> None:
    release_id = service.submit({"a.png": b"a", "b.png": b"b"}, subject="anna")
    _work_off(service, release_id)
    runner.run(export_id := _ask(service, release_id))
    with service.gateway.begin() as session:  # a stolen role fills an event of everybody's trail as it likes
        stolen = '{"actor": "w", "release": {"a": 1}, "request": [1]}'
        session.execute(text("SELECT audit.append('policy:set', CAST(:fields AS jsonb))"), {"fields": stolen})
    with service.gateway() as session:
        export = exports.export(session, export_id)
        out = tmp_path / "out"
        fetching.fetch(service.storage, service.release_settings.bucket_exports, export, out)
        fetching.write_audit(session, export, out)
        pseudonym, shown = subjects.find(session, "t", "anna")
    assert len(shown) == 2
    assert any(fields.get("subject") == str(pseudonym) for fields in _events(service, "item:claimed"))
    everything = b"".join(path.read_bytes() for path in out.iterdir())
    assert b"item:released" in everything and str(pseudonym).encode() not in everything


def test_an_export_is_made_once_and_again_with_the_same_bytes(
    service: Service, release_id: UUID, runner: ExportRunner
) -> None:
    export_id = _ask(service, release_id)
    assert _ask(service, release_id) == export_id
    runner.run(export_id)
    first = _export(service, export_id)
    assert first.state is ExportState.DONE
    with service.sessions.begin() as session:  # as if its worker had been killed before the end
        session.execute(update(Export).where(Export.id == export_id).values(state=ExportState.RUNNING, manifest=None))
    runner.run(export_id)
    assert _export(service, export_id).manifest == first.manifest


def test_an_export_that_is_being_written_is_left_alone(
    service: Service, release_id: UUID, runner: ExportRunner
) -> None:
    export_id = _ask(service, release_id)
    with runner._alone(export_id) as alone:
        assert alone
        runner.run(export_id)
        assert _export(service, export_id).state is ExportState.PENDING
    runner.run(export_id)
    assert _export(service, export_id).state is ExportState.DONE


def test_a_changed_file_fails_the_export(service: Service, release_id: UUID, runner: ExportRunner) -> None:
    with service.sessions() as session:
        query = select(Item.object_key).where(Item.release_id == release_id, Item.state == ItemState.DONE)
        key = session.scalars(query).first()
    service.storage.put(service.release_settings.bucket_releases, str(key), b"changed", if_none_match=False)
    export_id = _ask(service, release_id)
    with pytest.raises(ExportCorrupt):
        runner.run(export_id)
    assert _export(service, export_id).state is ExportState.FAILED
    assert _ask(service, release_id) == export_id
    assert _export(service, export_id).state is ExportState.PENDING


def test_only_finished_releases_are_exported(service: Service) -> None:
    open_release = service.submit({"a.png": b"x"})
    with service.gateway() as session:
        with pytest.raises(ReleaseUnfinished):
            exports.export_release(session, open_release, "tester")
        with pytest.raises(ReleaseUnknown):
            exports.export_release(session, UUID(int=1), "tester")


def test_one_export_a_window_however_many_beats(service: Service, release_id: UUID, runner: ExportRunner) -> None:
    with service.gateway.begin() as session:
        asked = {"tenant": "t", "name": "hourly", "cron": "0 * * * *", "time_zone": "Europe/Berlin"}
        schedules.set_schedule(session, actor="tester", **asked)
    with service.sessions.begin() as session:
        now = session.scalars(select(func.now())).one()
        inside = now.replace(minute=0, second=0, microsecond=0)
        # As its owner: no service says when a release ended but once, and then.
        session.execute(text("ALTER TABLE releases DISABLE TRIGGER guard"))
        release = update(Release).where(Release.id == release_id)
        session.execute(release.values(finished_at=inside.replace(hour=(inside.hour - 1) % 24)))
        session.execute(text("ALTER TABLE releases ENABLE TRIGGER guard"))
    moment = inside.replace(minute=5)
    release_sessions = session_factory(service.release_settings.database_url)
    with release_sessions.begin() as first, release_sessions.begin() as second:
        made = schedules.record_due(first, moment)
        first.commit()
        assert len(made) == 1 and schedules.record_due(second, moment) == []
    runner.run(made[0])
    done = _export(service, made[0])
    assert done.state is ExportState.DONE
    if inside.hour:  # at midnight the release above finished on the day before
        assert done.manifest is not None and str(release_id) in done.manifest["releases"]
    with service.sessions() as session:
        assert session.scalars(select(Outbox.id).where(Outbox.args == [str(made[0])])).all()
    release_sessions.kw["bind"].dispose()


def test_who_sets_a_schedule_is_told(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in service.environment("gateway").items():
        monkeypatch.setenv(name, value)
    before = len(_events(service, "schedule:set"))

    def run(*arguments: str, ok: bool = True) -> str:
        ran = CliRunner().invoke(commands.app, list(arguments))
        assert (ran.exit_code == 0) is ok, ran.output
        return ran.output

    first = run("schedule", "told", "--cron", "0 6 * * *").strip()
    assert run("schedule", "told", "--cron", "0 7 * * *", "--time-zone", "Europe/Berlin").strip() == first
    assert "another tenant" in run("schedule", "told", "--cron", "0 6 * * *", "--tenant", "other", ok=False)
    run("unschedule", "told")
    assert "no running schedule" in run("unschedule", "told", ok=False)
    with service.sessions() as session:
        schedule = session.get_one(ExportSchedule, UUID(first))
        assert (schedule.cron, schedule.time_zone, schedule.enabled) == ("0 7 * * *", "Europe/Berlin", False)
    told = _events(service, "schedule:set")[before:]
    assert [(each["detail"].get("cron"), each["detail"]["enabled"]) for each in told] == [
        ("0 6 * * *", True),
        ("0 7 * * *", True),
        (None, False),
    ]
    assert all(each["actor"] == account() and each["detail"]["schedule"] == first for each in told)


def test_windows_missed_while_nothing_ran_are_made_up_for(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the reconciler's own role, a few at a time, beside a schedule that nobody can read."""
    with service.gateway.begin() as session:
        made = {"tenant": "t", "cron": "0 * * * *", "time_zone": "Europe/Berlin", "actor": "tester"}
        schedule = schedules.set_schedule(session, name="missed", **made)
    with service.sessions.begin() as session:
        session.execute(update(ExportSchedule).where(ExportSchedule.id != schedule).values(enabled=False))
        session.add(ExportSchedule(tenant="t", name="unreadable", cron="x", time_zone="UTC"))
    relay = session_factory(service.relay_settings.database_url)
    moment = datetime.now(UTC).replace(minute=5)

    def starts() -> list[datetime]:
        with service.sessions() as session:
            query = select(Export.window_start).where(Export.schedule_id == schedule).order_by(Export.window_start)
            return [start for start in session.scalars(query) if start is not None]

    try:
        with relay.begin() as session:
            assert len(schedules.record_due(session, moment - timedelta(hours=30))) == 1
        monkeypatch.setattr(schedules, "AT_ONCE", 20)
        for expected in (21, 31, 31):
            with relay.begin() as session:
                schedules.record_due(session, moment)
            assert len(starts()) == expected
        assert {later - earlier for earlier, later in pairwise(starts())} == {timedelta(hours=1)}
        with service.sessions() as session:
            asked = select(func.count()).where(
                Export.schedule_id == schedule, Outbox.args == func.jsonb_build_array(Export.id)
            )
            assert session.scalars(asked).one() == len(starts())
        with service.gateway.begin() as session:
            schedule = schedules.set_schedule(session, name="round", **made)
        Rounds(service.relay_settings, Reconciler(service.relay_settings, relay, service.storage))()
        assert len(starts()) == 1
    finally:
        with service.sessions.begin() as session:
            session.execute(update(ExportSchedule).values(enabled=False))
        relay.kw["bind"].dispose()


@pytest.mark.parametrize("day", ["2026-03-27", "2026-10-23"])
@pytest.mark.parametrize("cron", ["30 2 * * *", "0 2 * * *", "*/15 * * * *"])
def test_windows_leave_no_gap_where_the_clocks_change(cron: str, day: str) -> None:
    start = datetime.fromisoformat(day).replace(tzinfo=UTC)
    windows = list(schedules.windows_after(start, cron, "Europe/Berlin", start + timedelta(days=5)))
    assert all(earlier.end == later.start for earlier, later in pairwise(windows))
    assert all(window.start < window.end for window in windows) and len(windows) >= 4


@pytest.mark.parametrize(
    ("now", "start", "end"),
    [  # Europe/Berlin, daily at 02:30; that time is skipped on 29 March 2026 and comes twice on 25 October 2026
        ("2026-03-28T12:00", "2026-03-27T01:30", "2026-03-28T01:30"),
        ("2026-03-30T12:00", "2026-03-29T01:00", "2026-03-30T00:30"),
        ("2026-07-01T00:30", "2026-06-30T00:30", "2026-07-01T00:30"),
    ],
)
def test_windows_follow_the_wall_clock(now: str, start: str, end: str) -> None:
    window = schedules.latest_window("30 2 * * *", "Europe/Berlin", datetime.fromisoformat(now).replace(tzinfo=UTC))
    assert f"{window.end:%Y-%m-%dT%H:%M}" == end
    if "03-29" not in start:
        assert f"{window.start:%Y-%m-%dT%H:%M}" == start


@pytest.mark.parametrize(
    ("cron", "zone"), [("* * * *", "UTC"), ("x", "UTC"), ("0 6 * * *", "Mars/Base"), ("99 * * * *", "UTC")]
)
def test_a_bad_schedule_is_refused(cron: str, zone: str) -> None:
    with pytest.raises(ScheduleInvalid):
        schedules.latest_window(cron, zone, datetime.now(UTC))
