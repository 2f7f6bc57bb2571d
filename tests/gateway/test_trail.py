"""`refacex audit ...` as people use it: verification with the roster, evidence and its offline check, a fork that is accepted."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import typer
from click.testing import Result
from sqlalchemy import select, text
from typer.testing import CliRunner

from gateway.cli import governance, trail
from schemas.tables import Ticket
from tests.conftest import Buckets, Database
from tests.governance import World, build, copied
from tests.workers.audit.harness import fetched, write_deep
from workers.audit.heads import Anchors, HeadSigner
from workers.audit.notary import Notary
from workers.custody import keys
from workers.settings import NotarySettings
from workers.storage import Storage

Refacex = Callable[..., Result]


@pytest.fixture
def world(database: Database, tmp_path: Path) -> Iterator[World]:
    with copied(database) as fresh:
        world = build(fresh, tmp_path / "world")
        keys.write_public(
            world.folder / "keys" / "audit.public.json", keys.create_signing_key(world.folder / "audit.json")
        )
        yield world


@pytest.fixture
def refacex(monkeypatch: pytest.MonkeyPatch, world: World, buckets: Buckets) -> Refacex:
    """The command line with the gateway's role and identity, or those of another process."""
    app = typer.Typer()
    governance.register(app)

    def run(*arguments: object, ok: bool = True, role: str = "gateway", database: Database | None = None) -> Result:
        with monkeypatch.context() as patch:
            for name, value in buckets.environment(role).items():
                patch.setenv(name, value)
            patch.setenv("REFACEX_DATABASE_URL", (database or world.database).url_for(role))
            patch.setenv("REFACEX_AUDIT_SIGNING_KEY", str(world.folder / "audit.json"))
            patch.setenv("REFACEX_ANCHOR_DAYS", "1")
            patch.setenv("REFACEX_HOME", str(world.folder))
            result = CliRunner().invoke(app, [str(each) for each in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert (result.exit_code == 0) is ok, result.output
        return result

    return run


@pytest.fixture
def notary(world: World, buckets: Buckets, monkeypatch: pytest.MonkeyPatch) -> Notary:
    """As the command line finds its heads: at the bucket's own place, which is this module's and emptied of nothing."""
    for name, value in buckets.environment("notary").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("REFACEX_DATABASE_URL", "unused")
    monkeypatch.setenv("REFACEX_AUDIT_SIGNING_KEY", "unused")
    key = keys.load(world.folder / "audit.json", keys.FileKind.SIGNING).of(keys.KeyType.ED25519)
    anchors = Anchors(Storage(NotarySettings.load()), buckets.anchors)
    return Notary(world.as_("notary"), anchors, HeadSigner(key.id, key.secret()), timedelta(days=1))


def test_events_that_a_stolen_role_filled_are_shown(refacex: Refacex, world: World) -> None:
    for fields in ('{"actor": {"a": 1}, "detail": "x"}', '{"actor": [1], "request": {}, "detail": {"x": [1]}}'):
        with world.as_("release").begin() as session:
            said = {"fields": fields}
            session.execute(text("SELECT audit.append('item:claimed', CAST(:fields AS jsonb))"), said)
    shown = refacex("audit", "events", "--limit", 2).stdout
    assert "{'a': 1}" in shown and "request {}" in shown
    write_deep(world)
    shown = refacex("audit", "events", "--limit", 2)
    assert "request {}" in shown.stdout and "an event cannot be read: see `refacex audit verify`" in shown.stderr


def test_from_evidence_to_a_fork_that_is_accepted(
    refacex: Refacex, world: World, notary: Notary, tmp_path: Path
) -> None:
    """One story on one bucket, because what is anchored stays."""
    fetched(world)
    out = tmp_path / "evidence.zip"
    about = str(world.release)[:8]
    assert "wait for the notary" in refacex("audit", "evidence", about, "--out", out, ok=False).stderr
    notary.anchor()
    ledger = world.folder / "tombstones.json"
    roster = ["--roster", world.roster, "--ledger", ledger]
    assert "4 signatures of people" in refacex("audit", "verify", *roster).stdout
    keys.write_public(tmp_path / "other.json", keys.create_signing_key(tmp_path / "other.key"))
    wrong = refacex("audit", "verify", "--custodian-key", tmp_path / "other.json", ok=False).stdout
    assert "its signature is not the custodian's [signature]" in wrong

    assert "4 of the custodian" in refacex("audit", "verify", *roster).stdout
    for what in ("ledger", "roster"):
        missing = refacex("audit", "verify", f"--{what}", tmp_path / "none.json", ok=False).stderr
        assert f"there is no {what} at {tmp_path / 'none.json'}" in missing

    public = ["--public-key", world.folder / "keys" / "audit.public.json"]
    ticket = world.one(select(Ticket.id))
    file, other = tmp_path / "released.png", tmp_path / "other.png"
    file.write_bytes(next(iter(world.files.values())))
    other.write_bytes(b"x")
    signed = ["--custodian-key", world.folder / "keys" / "ticket.public.json"]
    for each, options in ((about, []), (str(ticket), [*signed, "--before-signatures"])):
        told = refacex("audit", "evidence", each, "--out", out).stdout
        (command,) = re.findall("`refacex (audit check .*)`", told)
        assert "all of it holds" in refacex(*shlex.split(command)).stdout, "as it stands there"
        shown = refacex("audit", "check", out, *public, "--file", file, *options).stdout
        assert "all of it holds" in shown
        assert "is the released file of image" in shown
        assert "not proven: That nothing is missing" in shown
        assert "IS NO FILE" in refacex("audit", "check", out, *public, "--file", other, ok=False).stdout
    missing = refacex("audit", "check", out, *public, "--file", tmp_path / "none.png", ok=False)
    assert (
        f"the file to look for in the evidence cannot be read ({tmp_path / 'none.png'}: No such file" in missing.stderr
    )
    missing = refacex("audit", "check", tmp_path / "none.zip", *public, ok=False)
    assert "the evidence bundle cannot be read" in missing.stderr and "was changed" not in missing.stderr
    nobodys = refacex("audit", "check", out, "--public-key", tmp_path / "none.json", ok=False).stderr
    assert "have whoever holds the key send it" in nobodys and str(tmp_path / "none.json") in nobodys
    foreign = refacex("audit", "check", out, "--public-key", tmp_path / "other.json", ok=False).stdout
    assert "WRONG: it names another notary's key than yours" in foreign
    assert "\nproven" not in foreign
    out.write_bytes(out.read_bytes().replace(b"bob", b"eve"))
    assert "no evidence bundle" in refacex("audit", "check", out, *public, ok=False).stderr
    assert "knows no release" in refacex("audit", "evidence", "abcd1234", "--out", out, ok=False).stderr

    with copied(world.database) as backup:
        world.request((0, 1))
        notary.anchor()
        assert "only" in refacex("audit", "verify", ok=False, database=backup).stdout
        accept = ["audit", "accept-fork", "--as", "root", "--reason-code", "disk-failure"]
        asked = refacex(*accept, ok=False, role="notary", database=backup)
        assert "1 anchored head (" in asked.stderr
        accepted = refacex(*accept, "--yes", role="notary", database=backup).stdout
        assert "accepted as epoch 1" in accepted
        verified = refacex("audit", "verify", *roster, database=backup)
        assert "the trail holds" in verified.stdout
        assert "accepted on" in verified.stderr
        assert "no fork to accept" in refacex(*accept, "--yes", ok=False, role="notary", database=backup).stderr


def test_a_stranger_among_the_approvers_is_told(refacex: Refacex, world: World, tmp_path: Path) -> None:
    public = refacex("person", "new-key", tmp_path / "mallory.key").stdout.strip()
    added = ["person", "add", "mallory", "--public", public, "--tenant", "acme", "--role", "approver"]
    refacex(*added, "--without-roster")
    result = refacex("audit", "verify", "--roster", world.roster, ok=False).stdout
    assert "person mallory: is not on the roster [roster]" in result


def test_an_event_is_shown_with_whole_ids_and_a_hash_that_is_cut_says_so() -> None:
    fields = {"release": "1" * 8 + "-0000-4000-8000-000000000000", "actor": "ann", "detail": {"sha256": "ab" * 32}}
    event = {"seq": 7, "at": "2026-01-05T12:00:00Z", "event": "item:released", "fields": fields}
    what = trail._row(event, whole=False)[-1]
    assert what == f"release {fields['release']} sha256=abababababab…"
    assert trail._row(event, whole=True)[-1] == f"release {fields['release']} sha256={'ab' * 32}"
