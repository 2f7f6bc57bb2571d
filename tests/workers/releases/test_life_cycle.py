"""The life of a release on the real engines, with the stand-in core: every outcome, uploads, and poison."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import select

from schemas.audit_tables import Event
from schemas.states import ItemState
from schemas.tables import Item
from tests.workers.releases.harness import Service
from workers.releases import service as releases
from workers.releases import sources
from workers.storage import Storage


def test_every_outcome_is_recorded_once(service: Service) -> None:
    service.start_relay()
    service.start_worker()
    files = {f"IMG_{n}.png": b"photograph %d" % n for n in range(6)}
    files |= {"bad.jpg": b"BAD", "hold.webp": b"HOLD", "empty.png": b""}
    release_id = service.submit(files)
    progress = service.await_finished(release_id)
    assert service.check(release_id) == {ItemState.DONE: 7, ItemState.FAILED: 1, ItemState.HELD: 1}
    assert progress.ended == progress.total == 9
    with service.gateway() as session:
        report = list(releases.report(session, release_id))
    assert [entry["position"] for entry in report] == list(range(9))
    assert next(entry for entry in report if entry["name"] == "bad.jpg")["error_code"] == "bad_image"
    assert next(entry for entry in report if entry["name"] == "hold.webp")["reason"] == "no_face"
    for log in (service.log("release"), service.log("relay")):
        assert "photographs" not in log and "bad.jpg" not in log, "a file name reached a log"
    with service.gateway() as session:
        trail = b"".join(session.scalars(select(Event.canonical)))
    assert str(release_id).encode() in trail
    assert not [name for name in ("photographs", *files) if name.encode() in trail], "a file name reached the trail"


def test_a_poison_image_is_quarantined_and_its_neighbours_are_done(service: Service) -> None:
    service.start_relay()
    service.start_worker()
    release_id = service.submit({"a.png": b"a", "b.png": b"POISON", "c.png": b"c", "d.png": b"BREAK"})
    service.await_finished(release_id, 90)
    assert service.check(release_id) == {ItemState.DONE: 2, ItemState.QUARANTINED: 2}
    with service.sessions() as session:
        query = select(Item).where(Item.release_id == release_id, Item.state == ItemState.QUARANTINED)
        assert {item.attempts for item in session.scalars(query)} == {3}


def test_an_uploaded_copy_goes_when_its_item_ends(service: Service, tmp_path: Path) -> None:
    storage, bucket = Storage(service.gateway_settings), service.gateway_settings.bucket_input
    outside = tmp_path / "elsewhere"
    outside.mkdir()
    (outside / "x.png").write_bytes(b"x")
    (outside / "y.png").write_bytes(b"BAD")
    release_id = releases.uuid4()
    found = sources.upload(storage, bucket, release_id, sources.collect([str(outside)]))
    assert len(list(storage.list(bucket, f"{release_id}/"))) == 2
    with service.gateway.begin() as session:
        releases.submit(session, tenant="t", actor="tester", name="u", sources=found, release_id=release_id)
    service.start_relay()
    service.start_worker()
    service.await_finished(release_id)
    assert service.check(release_id) == {ItemState.DONE: 1, ItemState.FAILED: 1}
    assert not list(storage.list(bucket, f"{release_id}/"))


def test_a_file_outside_the_roots_is_never_read(service: Service, tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(b"secret")
    (service.photographs / "link.png").symlink_to(tmp_path / "secret.png")
    found = [
        sources.Source("file://" + str(service.photographs / "link.png"), "link.png"),
        sources.Source("file://" + str(tmp_path / "secret.png"), "secret.png"),
        sources.Source("file:///etc/passwd", "p"),
        sources.Source("http://127.0.0.1/x.png", "h"),
        sources.Source("file://" + str(service.photographs / "gone.png"), "gone.png"),
    ]
    with service.gateway.begin() as session:
        release_id = releases.submit(session, tenant="t", actor="tester", name="o", sources=found)
    service.start_relay()
    service.start_worker()
    service.await_finished(release_id)
    assert service.check(release_id) == {ItemState.FAILED: 5}
    with service.sessions() as session:
        query = select(Item.error_code).where(Item.release_id == release_id).order_by(Item.position)
        assert session.scalars(query).all() == ["source_refused"] * 4 + ["source_missing"]
