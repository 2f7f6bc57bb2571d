"""The main path on the networks themselves: a photograph submitted by the command line comes out as a stego file, and the keys
that were sealed on the way open it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from sqlalchemy import select
from sqlalchemy.orm import undefer
from typer.testing import CliRunner

from gateway.cli import releases as commands
from refacex_core.errors import WrongKey
from refacex_core.types import RecoveryKeys, SealContext
from schemas.contexts import LAYOUT_FACE, KeyContext
from schemas.states import ItemState
from schemas.tables import Attempt, Item, SealedKey
from tests.workers.releases.harness import ROOT, Service
from workers.core import load_core
from workers.custody import keys as custody_keys
from workers.custody.opening import unwrap
from workers.releases import reporting

PHOTOGRAPHS = ROOT / "gateway" / "demo_images"


@pytest.fixture
def service(tmp_path: Path, database: Any, buckets: Any, brokers: Any) -> Iterator[Service]:
    made = Service(tmp_path, database, buckets, brokers, stand_in=False)
    yield made
    made.stop()


@pytest.mark.slow
@pytest.mark.timeout(900)  # seconds on an idle machine, minutes on one that trains networks meanwhile
def test_a_photograph_is_released_and_its_keys_open_it(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one.png", "again.png"):
        shutil.copy(PHOTOGRAPHS / "astronaut.png", service.photographs / name)
    (service.photographs / "two.jpg").write_bytes(b"not a photograph")
    manifest = service.photographs / "manifest.csv"
    manifest.write_text("path,subject\none.png,the astronaut\ntwo.jpg,nobody\nagain.png,the astronaut\n")
    for name, value in service.environment("gateway").items():
        monkeypatch.setenv(name, value)
    run = CliRunner()
    how = ["--format", "jpeg", "--donor-policy", "stable"]
    submitted = run.invoke(commands.release_app, ["submit", str(manifest), *how])
    assert submitted.exit_code == 0, submitted.output
    release_id = UUID(submitted.stdout.split()[0])
    service.start_relay()
    service.start_worker(PATIENCE_SECONDS="60", CLAIM_SECONDS="30")
    service.await_finished(release_id, 600)
    assert service.check(release_id) == {ItemState.DONE: 2, ItemState.FAILED: 1}
    waited = run.invoke(commands.release_app, ["wait", str(release_id)[:8]])
    assert waited.exit_code == 1 and "2 done, 1 failed" in waited.stdout
    report = [
        json.loads(line) for line in run.invoke(commands.release_app, ["report", str(release_id)]).stdout.splitlines()
    ]
    assert report[0]["faces"][0]["released"] and report[0]["payload_bytes"] > 0 and report[0]["stego_psnr"] > 30
    assert report[1]["error_code"] == "bad_image"
    assert report[0]["faces"][0]["donor"] == report[2]["faces"][0]["donor"], "one subject, one donor"
    _look_at_risk(service, release_id)
    _recover(service, release_id)


def _look_at_risk(service: Service, release_id: UUID) -> None:
    bucket = service.release_settings.bucket_releases
    report = json.loads(service.storage.get(bucket, reporting.object_key(release_id, reporting.JSON)))
    figures = {one["recogniser"]: one for one in report["similarity_to_source"]}
    assert {name: one["count"] for name, one in figures.items()} == {"sface": 2, "dlib": 2}
    assert figures["sface"]["highest"] <= report["thresholds"]["released_up_to"]
    assert report["made_as"]["donors"] == "stable" and len(report["models"][0]["weights"]) == 8


def _recover(service: Service, release_id: UUID) -> None:
    """What the custodian and the recovery worker do, without the governance around it."""
    with service.sessions() as session:
        item = session.scalars(select(Item).where(Item.release_id == release_id, Item.position == 0)).one()
        attempt = session.scalars(select(Attempt).where(Attempt.item_id == item.id)).one()
        query = select(SealedKey).where(SealedKey.attempt_id == attempt.id).options(undefer(SealedKey.wrapped))
        sealed = session.scalars(query).all()
    ring = custody_keys.load(service.folder / "custody.keyring.json", custody_keys.FileKind.CUSTODY)
    private = {key.id: key.secret() for key in ring.keys}
    opened = {}
    for row in sealed:
        context = KeyContext.of(
            tenant="default",
            release=release_id,
            item=item.id,
            attempt=attempt.id,
            model_version=attempt.model_version,
            policy="default",
            face=None if row.face == LAYOUT_FACE else row.face,
            subject=item.subject_id,
        )
        opened[row.face] = unwrap(private, row.custody_key_id, row.suite, row.wrapped or b"", context)
    data = service.storage.get(service.release_settings.bucket_releases, str(item.object_key))
    context = SealContext("default", str(release_id), str(item.id), attempt.model_version, "default")
    core = load_core(service.release_settings)
    assert core.inspect(data).locator == item.locator == attempt.locator
    layout = opened.pop(LAYOUT_FACE)
    faces = core.recover(data, RecoveryKeys(layout, opened), context)
    assert [face.index for face in faces] == [0]
    assert np.asarray(faces[0].crop).std() > 20
    with pytest.raises(WrongKey):
        core.recover(data, RecoveryKeys(bytes(32), opened), context)
