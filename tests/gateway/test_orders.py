"""`refacex shred`, `hold`, `lift`, `order` and `retention`, as a key officer uses them; the custodian's part in process."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest
import typer
from click.testing import Result
from sqlalchemy import func, select
from typer.testing import CliRunner

from gateway.cli import governance
from schemas.policies import Policy
from schemas.tables import CustodyOrder, Outbox, Release, Subject
from tests.conftest import Database
from tests.governance import POLICY, Member, World, build, copied
from tests.workers.audit.harness import as_superuser
from tests.workers.audit.test_references import insert_subject
from tests.workers.custody.lives import ended
from workers.custody import retention
from workers.custody.orders import carry_out
from workers.custody.policies import write_policies
from workers.custody.roster import write_roster
from workers.recoveries import people
from workers.recoveries.policies import set_policy

Refacex = Callable[..., Result]
APPROVERS = (("bob", ("approver",)), ("carol", ("approver",)))


@pytest.fixture(scope="module")
def _first_world(database: Database, tmp_path_factory: pytest.TempPathFactory) -> World:
    return ended(build(database, tmp_path_factory.mktemp("orders"), people=False))


@pytest.fixture
def world(_first_world: World, tmp_path: Path) -> Iterator[World]:
    with copied(_first_world.database) as fresh:
        yield _first_world.moved(fresh, tmp_path / "home")


@pytest.fixture
def refacex(world: World, monkeypatch: pytest.MonkeyPatch) -> Refacex:
    """The command line, in process, with the gateway's role."""
    for name in ("S3_ENDPOINT", "S3_ACCESS_KEY", "S3_SECRET_KEY"):
        monkeypatch.setenv(f"REFACEX_{name}", "none is needed")
    monkeypatch.setenv("REFACEX_DATABASE_URL", world.database.url_for("gateway"))
    monkeypatch.setenv("COLUMNS", "200")
    app = typer.Typer()
    governance.register(app)

    def run(*arguments: object, ok: bool = True, answer: str | None = None) -> Result:
        result = CliRunner().invoke(app, [str(each) for each in arguments], input=answer)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert (result.exit_code == 0) is ok, result.output
        return result

    return run


@pytest.fixture
def kim(refacex: Refacex, world: World) -> list[object]:
    """The options of a key officer, made and added by the commands."""
    public = refacex("person", "new-key", world.folder / "kim.key").stdout.strip()
    role = ["--role", "key-officer", "--tenant", "acme", "--roster", world.roster]
    refacex("person", "add", "kim", "--public", public, *role)
    return ["--as", "kim", "--key", world.folder / "kim.key", "--reason", "the case is closed"]


def carried(world: World, order: str) -> str:
    """What the custodian does when the message comes."""
    state = carry_out(world.custodian(), UUID(order)).state
    assert state is not None
    return state.value


def given(refacex: Refacex) -> str:
    """The newest order's id."""
    return str(json.loads(refacex("order", "list", "--json").stdout.splitlines()[0])["id"])


def test_a_face_from_the_dry_run_to_its_end(refacex: Refacex, world: World, kim: list[object]) -> None:
    face = f"{str(world.items[0])[:8]}:1"
    shown = refacex("shred", "face", face, "--dry-run").stdout
    for words in (
        f"face {world.items[0]}:1",
        "1 (1 of faces, 0 of layouts)",
        "acme",
        "nothing that the database knows",
    ):
        assert words in shown
    assert "--as, --key and --reason" in refacex("shred", "face", face, ok=False).stderr
    assert world.one(select(func.count()).select_from(CustodyOrder)) == 0, "a dry run writes nothing"
    refacex("shred", "face", face, *kim, answer="n\n", ok=False)
    assert "--yes" in refacex("shred", "face", face, *kim, ok=False).stderr
    assert "as kim?" in refacex("shred", "face", face, *kim, answer="n\n", ok=False).stdout
    assert world.one(select(func.count()).select_from(CustodyOrder)) == 0
    told = refacex("shred", "face", face, *kim, answer="y\n")
    assert "for ever" in told.stdout
    assert "the case is closed" in told.stdout
    order = given(refacex)
    assert f"order show {order[:8]}" in told.stderr
    assert json.loads(refacex("order", "show", order[:8], "--json").stdout)["state"] == "given"
    assert carried(world, order) == "done"
    entry = json.loads(refacex("order", "show", order, "--json").stdout)
    assert (entry["state"], entry["outcome"], entry["ordered_by"], entry["face"]) == ("done", "1", "kim", 1)
    assert "the case is closed" in refacex("order", "show", order).stdout
    listed = refacex("order", "list", "--state", "done").stdout
    assert order in listed and "1 key shredded" in listed
    assert refacex("order", "list", "--state", "given", "--json").stdout == ""
    assert "shredded before" in refacex("shred", "face", face, "--dry-run").stdout


def test_targets_by_their_names(refacex: Refacex, world: World) -> None:
    subject = world.one(select(Subject.id))
    for scope, name, keys in (
        ("item", str(world.items[0])[:8], "3 (2 of faces, 1 of layouts)"),
        ("release", str(world.release)[:8], "6 (4 of faces, 2 of layouts)"),
        ("subject", "patient 17", "3 (2 of faces, 1 of layouts)"),
        ("subject", str(subject)[:8], "3 (2 of faces, 1 of layouts)"),
    ):
        assert keys in refacex("shred", scope, name, "--dry-run").stdout
    for scope, name in (("face", "x"), ("face", f"{world.items[0]}:7"), ("item", "abcd"), ("subject", "patient 18")):
        assert "no such face, item, release or subject" in refacex("shred", scope, name, "--dry-run", ok=False).stderr
    assert "no such order" in refacex("order", "show", "abcd", ok=False).stderr


def test_whose_a_subject_is_is_said_and_never_guessed(world: World, refacex: Refacex) -> None:
    """Before anything is signed: a word that could be two, and one that the database has exchanged, stop it."""
    subject = world.one(select(Subject.id))
    told = refacex("shred", "subject", str(subject)[:8], "--dry-run").stderr
    assert told == f"subject {subject} is 'patient 17' of acme\n"
    beginning = str(subject)[:8]
    insert_subject(world, beginning)
    assert (
        "More than one subject could be meant" in refacex("shred", "subject", beginning, "--dry-run", ok=False).stderr
    )
    as_superuser(world, "UPDATE subjects SET reference = 'patient 18' WHERE reference = 'patient 17'")
    for command in (
        ("shred", "subject", "patient 18", "--dry-run"),
        ("hold", "subject", str(subject), "--as", "kim", "--key", "no.key", "--reason", "r"),
    ):
        assert "somebody changed the database" in refacex(*command, ok=False).stderr


def test_a_hold_is_shown_and_lifted(refacex: Refacex, world: World, kim: list[object]) -> None:
    item = str(world.items[0])[:8]
    assert refacex("hold", "list", "--json").stdout == ""
    refacex("hold", "face", f"{item}:0", *kim, answer="n\n", ok=False)
    assert "--yes" in refacex("hold", "face", f"{item}:0", *kim, ok=False).stderr
    assert refacex("order", "list", "--json").stdout == ""
    refacex("hold", "face", f"{item}:0", *kim, "--yes")
    assert refacex("hold", "list", "--json").stdout == "", "the custodian has not carried it out"
    assert carried(world, given(refacex)) == "done"
    (held,) = (json.loads(line) for line in refacex("hold", "list", "--json").stdout.splitlines())
    assert (held["target"], held["by"]) == (f"face {world.items[0]}:0", "kim")
    ledger = world.folder / "tombstones.json"
    assert json.loads(refacex("hold", "list", "--ledger", ledger, "--json").stdout)["target"] == held["target"]
    assert "no ledger" in refacex("hold", "list", "--ledger", world.folder / "none", ok=False).stderr
    shown = refacex("shred", "release", world.release, "--dry-run").stdout
    assert f"hold on face {world.items[0]}:0" in shown
    refacex("shred", "release", world.release, *kim, "--yes")
    assert carried(world, given(refacex)) == "refused"
    assert json.loads(refacex("order", "show", given(refacex), "--json").stdout)["outcome"] == "held"
    assert "A legal hold forbids it" in refacex("order", "show", given(refacex)).stdout
    assert "refused: held" in refacex("order", "list").stdout
    assert "no hold on just this" in refacex("lift", "item", item, *kim, ok=False).stderr
    assert "may be shredded again, as kim?" in refacex("lift", "face", f"{item}:0", *kim, answer="n\n", ok=False).stdout
    refacex("lift", "face", f"{item}:0", *kim, "--yes")
    assert carried(world, given(refacex)) == "done"
    assert refacex("hold", "list", "--json").stdout == ""


def test_somebody_else_orders_nothing(refacex: Refacex, world: World, kim: list[object]) -> None:
    public = refacex("person", "new-key", world.folder / "bob.key").stdout.strip()
    options = ["--role", "approver", "--tenant", "acme", "--roster", world.roster]
    refacex("person", "add", "bob", "--public", public, *options)
    bob = ["--as", "bob", "--key", world.folder / "bob.key", "--reason", "x", "--yes"]
    assert "no such person" in refacex("shred", "item", world.items[0], *bob, ok=False).stderr
    forged = ["--as", "kim", *bob[2:]]
    for verb, scope in (("shred", "item"), ("hold", "item"), ("hold", "face")):
        target = world.items[0] if scope == "item" else f"{world.items[0]}:0"
        said = refacex(verb, scope, target, *forged[:-1], answer="y\n", ok=False)
        assert "sign with the key file that was added for them" in said.stderr
        assert "as kim?" not in said.stdout, "nobody is asked for what cannot be signed"
    refacex("hold", "item", world.items[0], *kim, "--yes")
    assert carried(world, given(refacex)) == "done"
    said = refacex("lift", "item", world.items[0], *forged[:-1], answer="y\n", ok=False)
    assert "as kim?" not in said.stdout and "sign with the key file" in said.stderr
    assert world.one(select(func.count()).select_from(CustodyOrder)) == 1, "the hold"


def test_retention_says_what_is_due_and_asks(refacex: Refacex, world: World, kim: list[object]) -> None:
    def keep_for(days: int) -> None:
        policy = Policy("acme", POLICY, retain_days=days)
        write_policies(world.policies, [policy])
        with world.as_("gateway").begin() as session:
            set_policy(session, policy, "root")

    assert refacex("retention", "--dry-run", "--json").stdout == ""
    keep_for(30)
    entry = json.loads(refacex("retention", "--dry-run", "--json").stdout)
    finished = world.one(select(Release.finished_at))
    assert (entry["keys"], entry["held"]) == ("6", "")
    assert entry["due"] == f"{finished + timedelta(days=30):%Y-%m-%d %H:%M}"
    assert (
        "shredded but for what is held: 0 releases; 1 release only later, as listed"
        in refacex("retention", "--dry-run").stderr
    )
    assert "nothing was done" in refacex("retention").stderr
    keep_for(0)
    refacex("hold", "item", world.items[0], *kim, "--yes")
    carried(world, given(refacex))
    shown = json.loads(refacex("retention", "--dry-run", "--json").stdout)
    assert shown["due"].endswith("(now)")
    assert shown["held"] == f"item {world.items[0]}"
    messages = select(func.count()).where(Outbox.task == "custody.retain")
    said = refacex("retention", "--dry-run").stderr
    assert "nothing was done: due today, and shredded but for what is held: 1 release\n" in said
    assert world.one(messages, role="relay") == 0, "a dry run writes nothing"
    assert "asked to shred 1 release;" in refacex("retention").stderr
    assert world.one(messages, role="relay") == 1
    assert retention.retain(world.custodian(), world.release) == retention.Retention(due=True, keys=3, held=1)


def test_a_dry_run_counts_what_waits_for_the_faces(refacex: Refacex, world: World) -> None:
    world.people = {name: Member(name, roles) for name, roles in (("alice", ("requester",)), *APPROVERS)}
    write_roster(world.roster, [member.on_roster() for member in world.people.values()])
    for member in world.people.values():
        with world.as_("gateway").begin() as session:
            people.add(session, member.on_roster(), "root")

    def ends(scope: str, target: object) -> list[str]:
        shown = refacex("shred", scope, target, "--dry-run").stdout.splitlines()
        return [line.split()[-1] for line in shown if " it ends " in line]

    assert ends("release", world.release) == ["0", "0"]
    world.request((0, 0))
    world.approved((0, 1))
    world.withdraw(world.request((0, 0)))
    assert world.custodian().open(world.approved((1, 0)).id).recovery is not None
    assert ends("release", world.release) == ["2", "1"]
    assert ends("item", world.items[0]) == ["2", "0"]
    assert ends("face", f"{world.items[0]}:1") == ["1", "0"]
    assert ends("face", f"{world.items[1]}:0") == ["0", "1"]
