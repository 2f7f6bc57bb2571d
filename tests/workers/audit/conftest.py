"""What the tests of the trail share: a corner of the bucket, a notary with a known key, a world whose rows have their events."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from tests.conftest import Buckets, Database
from tests.governance import World, build, copied
from tests.workers.audit.harness import new_notary
from workers.audit.heads import Anchors, HeadSigner
from workers.audit.notary import Notary
from workers.custody.keys import KeyType, key_id
from workers.settings import NotarySettings
from workers.storage import Storage


@pytest.fixture
def fresh(database: Database) -> Iterator[Database]:
    with copied(database) as fresh:
        yield fresh


@pytest.fixture(scope="module")
def _first_world(database: Database, tmp_path_factory: pytest.TempPathFactory) -> World:
    return build(database, tmp_path_factory.mktemp("custody"))


@pytest.fixture
def world(_first_world: World, tmp_path: Path) -> Iterator[World]:
    with copied(_first_world.database) as fresh:
        yield _first_world.moved(fresh, tmp_path / "custody")


@pytest.fixture
def anchors(buckets: Buckets, monkeypatch: pytest.MonkeyPatch) -> Anchors:
    """A corner of the bucket of this test's own, with the notary's identity."""
    for variable, value in buckets.environment("notary").items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setenv("REFACEX_DATABASE_URL", "unused")
    monkeypatch.setenv("REFACEX_AUDIT_SIGNING_KEY", "unused")
    return Anchors(Storage(NotarySettings.load()), buckets.anchors, f"{uuid4()}/")


@pytest.fixture
def signer() -> HeadSigner:
    private = bytes(range(32))
    public = HeadSigner("", private).verifier.public
    return HeadSigner(key_id(KeyType.ED25519, public), private)


@pytest.fixture
def notary(fresh: Database, anchors: Anchors, signer: HeadSigner) -> Notary:
    return new_notary(fresh, anchors, signer)
