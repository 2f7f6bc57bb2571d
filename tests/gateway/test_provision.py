"""Provisioning a home folder with the real engines: what it makes, what it keeps, and who may read it."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from dotenv import dotenv_values

from gateway.engines import Engines
from gateway.engines.errors import HomeUnusable
from gateway.provision import DATABASE, Home, create_keys, create_roles, provision, read_env, sqlalchemy_url, write_env
from schemas.audit import AuditEvent
from tests.conftest import Database
from tests.governance import sessions
from workers.audit import append
from workers.custody.errors import KeyFileCorrupt
from workers.custody.ledger import Ledger
from workers.custody.roster import load_roster
from workers.settings import (
    BeatSettings,
    CustodianSettings,
    GatewaySettings,
    NotarySettings,
    RecoverySettings,
    RelaySettings,
    ReleaseSettings,
)


@pytest.fixture(scope="module")
def provisioned(
    engines: Engines, _database_template: Database, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Home]:
    """A home on the shared engines; its database is dropped afterwards, so that another test can have the name."""
    if engines.external.urls:
        pytest.skip("provisions the real database names, which a server of one's own may hold already")
    yield provision(tmp_path_factory.mktemp("provisioned"), engines)
    with psycopg.connect(engines.urls.postgres_admin, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {DATABASE} WITH (FORCE)")
    create_roles(engines.urls.postgres_admin, _database_template.passwords)  # the roles are the whole server's


PROCESSES = ("release", "custodian", "recovery", "relay", "notary", "beat", "gateway", "owner")


def test_provisioning_twice_keeps_keys_and_passwords(tmp_path: Path, provisioned: Home, engines: Engines) -> None:
    before = {path: path.read_bytes() for path in provisioned.path.rglob("*") if path.is_file()}
    assert {path.name for path in before} >= {"custody.keyring.json", "recovery.private.json", "audit.signing.json"}
    assert load_roster(provisioned.key("roster.json")).least_quorum == 2, "one approver alone opens nothing"
    again = provision(provisioned.path, engines, source_roots=[tmp_path])
    changed = {path.name for path, content in before.items() if path.read_bytes() != content}
    assert changed == {"release.env", "gateway.env"}, "only the source folders are new"
    assert str(tmp_path) in read_env(again.env("release"))["REFACEX_SOURCE_ROOTS"]
    provision(provisioned.path, engines)
    assert str(tmp_path) in read_env(again.env("release"))["REFACEX_SOURCE_ROOTS"], "an allowed folder stays allowed"


def test_a_ledger_is_begun_with_the_keys_and_not_over_lost_work(provisioned: Home, engines: Engines) -> None:
    ledger = provisioned.key("tombstones.json")
    begun = ledger.read_bytes()
    assert Ledger(ledger).id is not None
    url = sqlalchemy_url(
        engines.urls.postgres_admin,
        role="refacex_custodian",
        password=provisioned.password("refacex_custodian"),
        database=DATABASE,
    )
    for emptied in (False, True):  # an installation of before ledgers were begun
        ledger.unlink()
        if emptied:
            ledger.touch(0o600)
        provision(provisioned.path, engines)
        assert Ledger(ledger).id is not None
    with sessions(url).begin() as session:
        append(session, AuditEvent.TICKET_SPENT, actor="custodian")
    assert provision(provisioned.path, engines).ledger_begun, "what is there stays"
    ledger.unlink()
    provision(provisioned.path, engines)
    assert not ledger.exists(), "what it would have to remember is lost: nobody begins another by the way"
    ledger.touch(0o600)
    ledger.write_bytes(begun)


def test_secrets_are_for_their_owner_alone(provisioned: Home) -> None:
    files = [path for path in provisioned.path.rglob("*") if path.is_file() and "public" not in path.name]
    assert len(files) >= len(PROCESSES)
    assert not [path.name for path in files if stat.S_IMODE(path.stat().st_mode) & 0o077]


def test_each_process_reads_its_settings_and_no_more(provisioned: Home) -> None:
    classes = {
        "release": ReleaseSettings,
        "custodian": CustodianSettings,
        "recovery": RecoverySettings,
        "relay": RelaySettings,
        "notary": NotarySettings,
        "beat": BeatSettings,
        "gateway": GatewaySettings,
    }
    for process, settings in classes.items():
        loaded = settings.load(provisioned.env(process))
        with psycopg.connect(loaded.database_url.replace("+psycopg", "")) as connection:  # type: ignore[attr-defined]
            assert connection.execute("SELECT to_regclass('audit.events') IS NOT NULL").fetchone() == (True,)
    names = {process: set(read_env(provisioned.env(process))) for process in PROCESSES}
    holders = {process for process in PROCESSES if any("KEYRING" in name for name in names[process])}
    assert holders == {"custodian"}, "only the custodian may know where the custody key ring is"
    assert {p for p in PROCESSES if "REFACEX_RECOVERY_PRIVATE_KEY" in names[p]} == {"recovery"}
    privileged = read_env(provisioned.env("custodian"))["REFACEX_BROKER_URL"]
    assert {p for p in PROCESSES if privileged in read_env(provisioned.env(p)).values()} == {"custodian"}
    place = privileged.rsplit("@", 1)[1]
    knowing = {p for p in PROCESSES if any(place in value for value in read_env(provisioned.env(p)).values())}
    assert knowing == {"custodian", "recovery", "relay"}, "each with a user of its own"


def test_a_damaged_key_is_told_and_kept(tmp_path: Path) -> None:
    home = Home(tmp_path)
    create_keys(home)
    ring = home.key("custody.keyring.json")
    ring.write_bytes(ring.read_bytes().replace(b"1", b"2", 1))
    damaged = ring.read_bytes()
    with pytest.raises(KeyFileCorrupt):
        create_keys(home)
    assert ring.read_bytes() == damaged


def test_env_files_round_trip_and_refuse_what_they_cannot_hold(tmp_path: Path) -> None:
    variables = {"REFACEX_A": '["/a b", "/c"]', "REFACEX_B": "redis://:p=#$w@host/0"}
    write_env(tmp_path / "x.env", variables)
    assert read_env(tmp_path / "x.env") == variables == dict(dotenv_values(tmp_path / "x.env", interpolate=False))
    with pytest.raises(HomeUnusable):
        write_env(tmp_path / "y.env", {"REFACEX_A": "it's"})
