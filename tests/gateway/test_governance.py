"""The commands of governance, one after another as people use them, on a real database and bucket."""

from __future__ import annotations

import base64
import io
import json
import re
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import jwt
import numpy as np
import pytest
import typer
from click.testing import Result
from cryptography.hazmat.primitives.asymmetric import ec
from PIL import Image
from sqlalchemy import select
from typer.testing import CliRunner

from gateway.cli import governance, receiving
from gateway.cli.service import name_shown, printable
from refacex_core.types import RecoveredFace as CoreFace
from schemas.policies import Policy
from schemas.tables import Recovery, Ticket
from tests.conftest import Buckets, Database
from tests.governance import POLICY, World, build, copied, submit
from tests.workers.audit.harness import as_superuser
from tests.workers.custody.test_passkeys import CONSOLE, Authenticator
from workers.audit.heads import Anchors, HeadSigner
from workers.audit.notary import Notary
from workers.custody import keys
from workers.custody.judge import Refusal
from workers.custody.orders import OrderRefusal
from workers.custody.pinned import write as pin
from workers.custody.policies import load_policies, write_policies
from workers.custody.roster import load_roster
from workers.recoveries.worker import Recoverer
from workers.refusals import why_no_face, why_no_order
from workers.settings import NotarySettings
from workers.storage import Storage

Refacex = Callable[..., Result]


@pytest.fixture(scope="module")
def world(database: Database, tmp_path_factory: pytest.TempPathFactory) -> World:
    """A released item's rows and events; its people come by the commands."""
    return build(database, tmp_path_factory.mktemp("world"), people=False)


@pytest.fixture
def refacex(world: World, buckets: Buckets, monkeypatch: pytest.MonkeyPatch) -> Refacex:
    """The command line, in process, with the gateway's role and identity."""
    for name, value in buckets.environment("gateway").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("REFACEX_DATABASE_URL", world.database.url_for("gateway"))
    monkeypatch.setenv("REFACEX_HOME", str(world.folder))
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
def people(refacex: Refacex, world: World) -> dict[str, Path]:
    """Key files of three people, made and added by the commands."""
    files = {}
    roles = {"alice": ["--role", "requester"], "bob": ["--role", "approver"], "carol": ["--role", "approver"]}
    for name, options in roles.items():
        files[name] = world.folder / "people" / f"{name}.key"
        if not files[name].exists():
            public = refacex("person", "new-key", files[name]).stdout.strip()
            refacex("person", "add", name, "--public", public, "--tenant", "acme", *options, "--roster", world.roster)
    return files


GROUNDS = ["--reason", "a court asked", "--legal-basis", "Art. 6(1)(c)", "--case", "CASE-17", "--purpose", "a witness"]


def ask(refacex: Refacex, world: World, *faces: str) -> str:
    named = [part for face in faces for part in ("--face", face)]
    who = ["--as", "alice", "--key", world.folder / "people" / "alice.key"]
    return refacex("request", "new", str(world.release)[:8], *named, *who, *GROUNDS).stdout.strip()


def recoverer(world: World, read: Callable[[str], bytes]) -> Recoverer:
    """A recovery worker with networks that always find the same face."""

    class Core:
        model_version = "test"

        def recover(self, data: bytes, given: object, context: object) -> list[CoreFace]:
            return [CoreFace(0, np.full((256, 256, 3), 77, np.uint8), np.eye(2, 3))]

        def mark(self, crop: Any, ticket: bytes) -> Any:
            return crop

    return Recoverer(world.as_("recovery"), world.recovery_key(), (world.ticket_key().public,), read, Core)  # type: ignore[arg-type]


def recover(world: World, request: str) -> None:
    """What custodian and recovery worker do when the messages come."""
    recovery = world.custodian().open(UUID(request)).recovery
    assert recovery is not None
    assert recoverer(world, world.files.__getitem__).recover(recovery) == "recovered"


def test_keys_and_people(refacex: Refacex, people: dict[str, Path], world: World) -> None:
    assert people["bob"].stat().st_mode & 0o777 == 0o600
    assert "private" not in (world.folder / "people" / "bob.key.public").read_text()
    listed = [json.loads(line) for line in refacex("person", "list", "--json").stdout.splitlines()]
    assert {(each["id"], *each["roles"]) for each in listed} >= {("alice", "requester"), ("bob", "approver")}
    assert load_roster(world.roster).people.keys() >= people.keys()
    assert "never overwritten" in refacex("person", "new-key", people["bob"], ok=False).stderr
    options = ["--tenant", "acme", "--roster", world.roster]
    again = ["person", "add", "bob", "--public", f"{people['bob']}.public", "--role", "approver", *options]
    assert "bob was there already, just so (approver)" in refacex(*again).stderr
    taken = refacex(
        "person", "add", "mallory", "--public", f"{people['bob']}.public", "--role", "approver", *options, ok=False
    )
    assert "already" in taken.stderr
    secret = refacex("person", "add", "dora", "--public", people["bob"], "--role", "approver", *options, ok=False)
    assert "public file is needed" in secret.stderr


def test_where_custodian_and_service_are_apart_a_person_is_entered_in_both(
    refacex: Refacex, world: World, tmp_path: Path
) -> None:
    public = refacex("person", "new-key", tmp_path / "fay.json").stdout.strip()
    fay = ["fay", "--public", public, "--role", "approver", "--tenant", "acme"]
    nowhere = tmp_path / "roster.json"
    assert "There is no roster there" in refacex("person", "add", *fay, "--roster", nowhere, ok=False).stderr
    assert not nowhere.exists() and "fay" not in refacex("person", "list", "--json").stdout
    assert "roster add" in refacex("person", "add", *fay, "--without-roster").stderr
    assert "fay" in refacex("person", "list", "--json").stdout
    assert "fay" not in load_roster(world.roster).people
    refacex("roster", "add", *fay, "--roster", world.roster)
    assert "fay" in refacex("roster", "list", "--json", "--roster", world.roster).stdout


def test_who_signs_in_enrols_with_their_own_keys(refacex: Refacex, world: World, tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    jwks = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(key.public_key())) | {"kid": "k"}
    (tmp_path / "jwks.json").write_text(json.dumps({"keys": [jwks]}))
    about = {"issuer": "https://id", "audience": "refacex", "tenant": "acme", "groups": {"dpo": "approver"}}
    (tmp_path / "provider.json").write_text(json.dumps(about | {"jwks": str(tmp_path / "jwks.json")}))
    now = int(time.time())
    claims = {"iss": "https://id", "aud": "refacex", "sub": "7", "iat": now, "exp": now + 60, "groups": ["dpo"]}
    token = tmp_path / "token"
    token.write_text(jwt.encode(claims | {"preferred_username": "gus"}, key, "ES256", headers={"kid": "k"}))
    public = refacex("person", "new-key", tmp_path / "gus.json").stdout.strip()
    enrol = ["person", "enrol", "--public", public, "--token", token, "--provider", tmp_path / "provider.json"]
    assert "gus of acme enrolled (approver)" in refacex(*enrol).stderr
    events = refacex("audit", "events", "--event", "person:added", "--json").stdout.splitlines()
    told = json.loads(events[-1])["fields"]
    assert (told["subject"], told["detail"]["issuer"], told["detail"]["identity"]) == ("gus", "https://id", "7")
    assert "gus" not in load_roster(world.roster).people, "the roster is the custodian's"
    token.write_text(jwt.encode(claims | {"exp": now - 1}, key, "ES256", headers={"kid": "k"}))
    assert "sign in again" in refacex(*enrol, ok=False).stderr


def test_from_the_request_to_the_face(refacex: Refacex, people: dict[str, Path], world: World, tmp_path: Path) -> None:
    request = ask(refacex, world, "0.png:0")
    shown = refacex("request", "approve", request[:8], "--as", "bob", "--key", people["bob"], answer="y\n")
    for words in ("a court asked", "Art. 6(1)(c)", "CASE-17", "0.png face 0", "alice of acme"):
        assert words in shown.stdout
    assert "is open" in shown.stderr
    refacex("request", "approve", request, "--as", "carol", "--key", people["bob"], "--yes", ok=False)
    done = refacex("request", "approve", request, "--as", "carol", "--key", people["carol"], "--yes")
    assert "is approved" in done.stderr
    early = refacex("request", "fetch", request, "--as", "alice", "--key", people["alice"], "--out", tmp_path, ok=False)
    assert "nothing to fetch" in early.stderr
    recover(world, request)
    wrong = refacex("request", "fetch", request, "--as", "alice", "--key", people["bob"], "--out", tmp_path, ok=False)
    assert "not the one" in wrong.stderr
    (written,) = refacex(
        "request", "fetch", request, "--as", "alice", "--key", people["alice"], "--out", tmp_path / "out"
    ).stdout.split()
    assert Path(written).stat().st_mode & 0o777 == 0o600
    assert np.asarray(Image.open(io.BytesIO(Path(written).read_bytes()))).tolist()[0][0] == [77, 77, 77]
    again = refacex("request", "fetch", request, "--as", "alice", "--key", people["alice"], "--out", tmp_path, ok=False)
    assert "fetched" in again.stderr
    entry = json.loads(refacex("request", "show", request, "--json").stdout)
    assert (entry["state"], entry["recovery"], entry["decisions"]) == (
        "done",
        "fetched",
        {"bob": "approve", "carol": "approve"},
    )
    assert world.one(select(Recovery.state)) == "fetched"
    assert request in refacex("request", "list", "--state", "done", "--json").stdout


def test_nobody_signs_or_fetches_under_names_that_were_exchanged(
    refacex: Refacex, people: dict[str, Path], world: World, tmp_path: Path
) -> None:
    request = ask(refacex, world, "0.png:0")

    def named(*names: str) -> None:
        for item, name in zip(world.items, names, strict=True):
            as_superuser(world, f"UPDATE items SET relative_name = '{name}' WHERE id = '{item}'")  # noqa: S608  our own words

    named("1.png", "0.png")
    bob, alice = ["--as", "bob", "--key", people["bob"]], ["--as", "alice", "--key", people["alice"]]
    for decision in ("approve", "deny"):
        refused = refacex("request", decision, request, *bob, "--yes", ok=False)
        assert "is not what its requester signed any more" in refused.stderr
    release = str(world.release)
    refused = refacex("request", "new", release, "--face", "1.png", *alice, *GROUNDS, ok=False)
    assert "are not those that it was submitted with" in refused.stderr
    named("0.png", "1.png")
    assert "is open" in refacex("request", "approve", request, *bob, "--yes").stderr
    refacex("request", "approve", request, "--as", "carol", "--key", people["carol"], "--yes")
    recover(world, request)
    named("1.png", "0.png")
    refacex("request", "fetch", request, *alice, "--out", tmp_path, ok=False)
    named("0.png", "1.png")
    assert refacex("request", "fetch", request, *alice, "--out", tmp_path).stdout.strip().endswith(".png")


def approved(refacex: Refacex, people: dict[str, Path], world: World, face: str) -> str:
    """A request that two people approved."""
    request = ask(refacex, world, face)
    for approver in ("bob", "carol"):
        refacex("request", "approve", request, "--as", approver, "--key", people[approver], "--yes")
    return request


def test_why_a_request_came_to_nothing_is_told_with_what_to_do(
    refacex: Refacex, people: dict[str, Path], world: World, tmp_path: Path
) -> None:
    """The custodian refused a ticket; a recovery failed; one gave fewer faces than were asked for."""
    fetch = ["--as", "alice", "--key", people["alice"], "--out", tmp_path]
    refused = approved(refacex, people, world, "0.png:1")
    book = world.policies.read_bytes()
    write_policies(world.policies, [Policy("acme", POLICY, purposes=("another",))])
    assert world.custodian().open(UUID(refused)).refusal == "purpose_not_allowed"
    world.policies.write_bytes(book)
    failed = approved(refacex, people, world, "0.png:1")
    assert world.custodian().open(UUID(failed)).recovery is not None
    recoverer(world, lambda key: b"another file").recover(world.custodian().open(UUID(failed)).recovery)  # type: ignore[arg-type]
    for request, code, words in (
        (refused, "purpose_not_allowed", "policy does not allow its purpose: see `refacex policy show`"),
        (failed, "object_changed", "is not the one that was released: nothing was recovered"),
    ):
        assert f"{words}" in refacex("request", "show", request).stdout
        assert code in json.loads(refacex("request", "show", request, "--json").stdout)["why"]
        said = refacex("request", "fetch", request, *fetch, ok=False).stderr
        assert words in said and code in said and "nothing to fetch" not in said
    partly = ask(refacex, world, "0.png:0", "1.png:0")
    for approver in ("bob", "carol"):
        refacex("request", "approve", partly, "--as", approver, "--key", people[approver], "--yes")
    one = next(iter(world.files))
    recovery = world.custodian().open(UUID(partly)).recovery
    assert recovery is not None
    assert recoverer(world, lambda key: world.files[key] if key == one else b"x").recover(recovery) == "recovered"
    assert "not every face came back: The released file" in refacex("request", "fetch", partly, *fetch).stderr


@pytest.mark.parametrize(
    "code", [*Refusal, "object_changed", "attempts_used_up", "ticket_invalid", "payload_unreadable"]
)
def test_every_refusal_has_its_words(code: str) -> None:
    assert "does not know" not in why_no_face(str(code))


@pytest.mark.parametrize("code", OrderRefusal)
def test_every_refusal_of_an_order_has_its_words(code: OrderRefusal) -> None:
    assert "does not know" not in why_no_order(code.value) and "does not know" in why_no_order("else")


@pytest.fixture
def recovered(refacex: Refacex, people: dict[str, Path], world: World) -> str:
    """A request whose one face waits to be fetched."""
    request = ask(refacex, world, "1.png:0")
    for approver in ("bob", "carol"):
        refacex("request", "approve", request, "--as", approver, "--key", people[approver], "--yes")
    recover(world, request)
    return request


def state_of(world: World, request: str) -> str:
    query = select(Recovery.state).join(Ticket, Ticket.id == Recovery.ticket_id).where(Ticket.request_id == request)
    return world.one(query)  # type: ignore[no-any-return]


def test_a_face_that_does_not_open_is_kept_sealed(
    refacex: Refacex,
    people: dict[str, Path],
    world: World,
    recovered: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fetch = ["request", "fetch", recovered, "--as", "alice", "--key", people["alice"], "--out", tmp_path]

    def full(*_: object) -> Path:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(receiving, "_write_face", full)
        line = refacex(*fetch, ok=False).stderr
    assert state_of(world, recovered) == "fetched"
    (sealed,) = tmp_path.iterdir()
    assert sealed.stat().st_mode & 0o777 == 0o600
    assert f"not opened: kept as {sealed}" in line
    elsewhere = tmp_path / "elsewhere"
    assert "nothing to fetch" in refacex(*fetch[:-1], elsewhere, ok=False).stderr
    elsewhere.rmdir()
    written = Path(refacex(*fetch).stdout.strip())
    assert Image.open(io.BytesIO(written.read_bytes())).size == (256, 256 + 32)
    assert list(tmp_path.iterdir()) == [written]
    assert "nothing to fetch" in refacex(*fetch, ok=False).stderr


def test_the_sealed_face_is_on_disk_before_the_commit(
    refacex: Refacex,
    people: dict[str, Path],
    world: World,
    recovered: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fetch = ["request", "fetch", recovered, "--as", "alice", "--key", people["alice"], "--out", tmp_path]
    sync = receiving._sync_folder
    seen: list[tuple[str, list[str]]] = []

    def broken(folder: Path) -> None:
        raise OSError(28, "No space left on device")

    def nameless(folder: Path) -> None:
        raise OSError

    def watched(folder: Path) -> None:
        sync(folder)
        seen.append((state_of(world, recovered), sorted(path.suffix for path in folder.iterdir())))

    monkeypatch.setattr(receiving, "_sync_folder", broken)
    assert "No space left on device): nothing was fetched" in refacex(*fetch, ok=False).stderr
    assert (state_of(world, recovered), list(tmp_path.iterdir())) == ("recovered", [])
    monkeypatch.setattr(receiving, "_sync_folder", nameless)
    assert f"{tmp_path} cannot be written to: nothing was fetched" in refacex(*fetch, ok=False).stderr
    monkeypatch.setattr(receiving, "_sync_folder", watched)
    refacex(*fetch)
    assert seen == [("recovered", [".sealed"]), ("fetched", [".png", ".sealed"])]


def test_denied_and_withdrawn(refacex: Refacex, people: dict[str, Path], world: World) -> None:
    request = ask(refacex, world, "1.png")
    assert json.loads(refacex("request", "show", request, "--json").stdout)["faces"] == [
        {"face": face, "item": str(world.items[1])} for face in (0, 1)
    ]
    declined = refacex("request", "deny", request, "--as", "bob", "--key", people["bob"], ok=False, answer="n\n")
    assert "recorded" not in declined.stderr
    refacex("request", "deny", request, "--as", "bob", "--key", people["bob"], "--yes")
    assert (
        "not open any more"
        in refacex("request", "approve", request, "--as", "carol", "--key", people["carol"], "--yes", ok=False).stderr
    )
    other = ask(refacex, world, str(world.items[1])[:13] + ":1")
    bob = ["--as", "bob", "--key", people["bob"]]
    assert "Only the requester" in refacex("request", "withdraw", other, *bob, ok=False).stderr
    forged = ["--as", "alice", "--key", people["bob"]]
    assert "signature" in refacex("request", "withdraw", other, *forged, ok=False).stderr
    refacex("request", "withdraw", other, "--as", "alice", "--key", people["alice"])


def test_policies_are_set_in_the_service_and_with_the_custodian(
    refacex: Refacex, people: dict[str, Path], world: World, tmp_path: Path
) -> None:
    file, pinned = tmp_path / "policy.json", ["--policies", world.policies]
    file.write_text(json.dumps({"name": POLICY, "quorum": 3, "purposes": ["a witness"]}))
    assert "version 2" in refacex("policy", "set", file, "--tenant", "acme", *pinned).stderr
    book = load_policies(world.policies)
    assert book.policies["acme", POLICY].quorum == 3
    assert json.loads(refacex("policy", "show", POLICY, "--tenant", "acme").stdout)["quorum"] == 3
    entries = [json.loads(line) for line in refacex("policy", "list", "--json").stdout.splitlines()]
    (listed,) = [each for each in entries if each["name"] != "default"]
    known = [(each["tenant"], each["version"], each["quorum"]) for each in entries if each["name"] == "default"]
    assert ("acme", 0, 2) in known, "what releases go by that name no policy"
    assert (listed["name"], listed["version"], listed["tenant"]) == (POLICY, 2, "acme")
    shown = refacex("request", "show", ask(refacex, world, "0.png:0"), "--json").stdout
    assert json.loads(shown)["quorum"] == 3
    file.write_text(json.dumps({"name": POLICY, "purposes": ["another"]}))
    assert "pin" in refacex("policy", "set", file, "--tenant", "acme", "--without-custodian").stderr
    assert load_policies(world.policies) == book, "the custodian's copy is its own"
    who = ["--as", "alice", "--key", people["alice"]]
    refused = refacex("request", "new", world.release, "--face", "0.png:0", *who, *GROUNDS, ok=False)
    assert "the purpose is one of: another" in refused.stderr
    file.write_text(json.dumps({"name": POLICY}))
    refacex("policy", "set", file, "--tenant", "acme", *pinned)
    file.write_text(json.dumps({"name": POLICY, "break_glass_quorum": 1}))
    refacex("policy", "pin", file, "--tenant", "acme", *pinned)
    assert load_policies(world.policies).policies["acme", POLICY].break_glass_quorum == 1
    refacex("policy", "set", file, "--tenant", "acme", *pinned)
    for wrong, told in (
        ("[]", "one JSON object"),
        ("{", "no JSON at line 1, column 2; a policy is one JSON object"),
        ('{"quorum": 0}', "quorum is 1 to 100, and not 0"),
        ('{"quorum": "2"}', 'quorum is a whole number, and not "2"'),
        ('{"break_glass_quorum": 3}', "break_glass_quorum is 0 (never) to quorum (2), and not 3"),
        ('{"max_items": 1.5}', "max_items is a whole number"),
        ('{"ticket_minutes": 1441}', "ticket_minutes is 1 to 1440"),
        ('{"retain_days": -1}', "retain_days is 0 to 36500, or null"),
        ('{"retain_days": 3000000}', "retain_days is 0 to 36500, or null"),
        ('{"quorum": 99999999999999999999}', "quorum is 1 to 100"),
        ('{"max_items": 9007199254740991}', "max_items is 1 to 100000"),
        ('{"purposes": ["\\ud800"]}', "purposes holds half a character"),
        ('{"v": 7}', "v is 1"),
        ('{"submitter_may_approve": "no"}', "submitter_may_approve is true or false"),
        ('{"purposes": "a witness"}', 'purposes is a list of texts, and not "a witness"'),
        ('{"purposes": [1]}', "purposes is a list of texts, and not 1"),
        ('{"name": "A"}', "name is of lower-case letters"),
        ('{"hours": "8"}', "hours is an object with start and end"),
        ('{"hours": {"start": "8:00", "end": "18:00"}}', 'hours.start is a time as 08:00, and not "8:00"'),
        ('{"hours": {"start": "08:00", "end": "18:00", "days": [0]}}', "hours.days are 1 (Monday) to 7"),
        ('{"hours": {"start": "08:00", "end": "18:00", "days": 1}}', "hours.days is a list"),
        (
            '{"hours": {"start": "08:00", "end": "18:00", "time_zone": "Mars"}}',
            "hours.time_zone is one as Europe/Berlin",
        ),
        ('{"quorum": 3, "quorum": 1}', "quorum stands twice"),
        ('{"approvals": 2}', "a policy has no approvals; it has tenant, name, quorum"),
    ):
        file.write_text(wrong)
        assert f"{file}: " in (line := refacex("policy", "set", file, *pinned, ok=False).stderr) and told in line, line
    broken = tmp_path / "policies.json"
    file.write_text("{}")
    for content, words in (
        ("{", "no JSON at line 1"),
        ("{}", "no refacex-policies of version 1"),
        (None, "There are no policies there"),
    ):
        broken.unlink(missing_ok=True)
        if content is not None:
            broken.write_text(content)
        line = refacex("policy", "pin", file, "--policies", broken, ok=False).stderr
        assert str(broken) in line and words in line, line
    pin(broken, "refacex-policies", 1, {"policies": [Policy("acme").body() | {"quorum": 0}]})
    line = refacex("policy", "pin", file, "--policies", broken, ok=False).stderr
    assert f"{broken}: policy 1: quorum is 1 to 100, and not 0" in line
    assert "cannot be read" in refacex("policy", "set", tmp_path / "none", ok=False).stderr
    assert "no policy of that name" in refacex("policy", "show", "none", ok=False).stderr


def test_a_broken_glass_is_reviewed_and_who_leaves_counts_no_more(
    refacex: Refacex, people: dict[str, Path], world: World, tmp_path: Path
) -> None:
    file, olga = tmp_path / "policy.json", tmp_path / "olga.json"
    file.write_text(json.dumps({"name": POLICY, "break_glass_quorum": 1}))
    refacex("policy", "set", file, "--tenant", "acme", "--policies", world.policies)
    public = refacex("person", "new-key", olga).stdout.strip()
    entry = ["--role", "auditor", "--tenant", "acme", "--roster", world.roster]
    refacex("person", "add", "olga", "--public", public, *entry)
    alice = ["--as", "alice", "--key", people["alice"]]
    new = ["request", "new", world.release, "--face", "0.png:0", *alice, *GROUNDS, "--break-glass"]
    asked = refacex(*new)
    request = asked.stdout.strip()
    told = asked.stderr.splitlines()
    assert "once it is approved the glass is broken" in told[0] and told[1].startswith("it needs 1 approval:"), told
    assert len(told) == 2, "no line of a log"
    assert "AND THE GLASS IS BROKEN" in refacex("request", "show", request).stdout
    refacex("request", "approve", request, "--as", "bob", "--key", people["bob"], "--yes")
    recover(world, request)
    assert request in refacex("review", "list").stdout
    assert "review is" in refacex(*new, ok=False).stderr
    close = ["review", "close", request[:8], "--conclusion", "in order"]
    assert "person" in refacex(*close, "--as", "bob", "--key", people["bob"], ok=False).stderr
    assert "signature" in refacex(*close, "--as", "olga", "--key", people["bob"], ok=False).stderr
    refacex(*close, "--as", "olga", "--key", olga)
    assert refacex("review", "list", "--json").stdout == ""
    (closed,) = (json.loads(line) for line in refacex("review", "list", "--all", "--json").stdout.splitlines())
    assert (closed["request"], closed["by"], closed["conclusion"]) == (request, "olga", "in order") and closed["closed"]
    assert "in order" in refacex("review", "list", "--all").stdout
    refacex("person", "remove", "olga", "--roster", world.roster)
    assert "olga" not in load_roster(world.roster).people
    assert "olga" not in refacex("person", "list").stdout
    assert "no person of that id" in refacex("person", "remove", "olga", "--roster", world.roster, ok=False).stderr
    assert "already" in refacex("person", "add", "olga", "--public", public, *entry, ok=False).stderr


@pytest.mark.parametrize("face", ["nothing.png:0", "0.png:9", "%%%%:0"])
def test_a_face_that_was_not_released(refacex: Refacex, people: dict[str, Path], world: World, face: str) -> None:
    who = ["--as", "alice", "--key", people["alice"]]
    line = refacex("request", "new", world.release, "--face", face, *who, *GROUNDS, ok=False).stderr
    assert "released items" in line


def test_unknown_ids(refacex: Refacex) -> None:
    for given in ("abcd", "%", "00000000-0000-0000-0000-000000000000"):
        assert "no recovery request" in refacex("request", "show", given, ok=False).stderr


def test_somebodys_words_do_not_steer_the_terminal(refacex: Refacex, people: dict[str, Path], world: World) -> None:
    grounds = [*GROUNDS]
    grounds[1] = "\x1b[2J[red]harmless[/red]"
    who = ["--as", "alice", "--key", people["alice"]]
    request = refacex("request", "new", world.release, "--face", "0.png:0", *who, *grounds).stdout.strip()
    shown = refacex("request", "show", request).stdout
    assert "\x1b" not in shown
    assert "[red]harmless[/red]" in shown


SPOOF = "anna.jpg face 0 (item 12345678)\nbob.jpg"


@pytest.mark.parametrize("width", [200, 60])
def test_one_face_is_not_shown_as_two(
    refacex: Refacex, people: dict[str, Path], world: World, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    """A submitter's name of a file, and a requester's reason, stand where approvers read them on no line of their own."""
    other = replace(world, release=uuid4(), items=[], attempts={}, secrets={}, files={}, subject=None)
    other.names = [SPOOF, "\u202egnp.1 face 0"]
    submit(other)
    grounds = [*GROUNDS]
    grounds[1] = "a court asked\nlegal basis  none\u2028quorum 0"
    alice, bob = ["--as", "alice", "--key", people["alice"]], ["--as", "bob", "--key", people["bob"], "--yes"]
    for faces in ([f"{SPOOF}:0"], [f"{str(other.items[0])[:8]}:0", f"{other.items[1]}:1"]):
        named = [part for face in faces for part in ("--face", face)]
        request = refacex("request", "new", other.release, *named, *alice, *grounds).stdout.strip()
        monkeypatch.setenv("COLUMNS", str(width))
        for command in (["show", request], ["approve", request, *bob]):
            shown = refacex("request", *command).stdout
            lines = shown.splitlines()
            assert not [
                line for line in lines if line.strip().startswith(("bob.jpg", "legal basis  none", "quorum"))
            ], shown
            assert len(re.findall(r"face \d \(item [0-9a-f-]{36}\)", shown)) == len(faces), shown
            assert "'anna.jpg face 0 (item 12345678)\\nbob.jpg' face 0" in shown
            assert "a court asked\\nlegal basis  none\\u2028quorum 0" in shown
            assert "\u202e" not in shown and ("'\\u202egnp.1 face 0' face 1" in shown) is (len(faces) == 2)
        monkeypatch.setenv("COLUMNS", "200")
    line = refacex("request", "new", other.release, "--face", "bob.jpg\n:0", *alice, *grounds, ok=False).stderr
    assert "no item is called 'bob.jpg\\n': name it by its id" in line


def test_how_names_and_words_are_shown() -> None:
    plain = ["0.png", "kind-a/b_c.jpg", "Änne.png", "图.png"]
    assert [name_shown(name) for name in plain] == plain
    assert name_shown("two words.png") == "'two words.png'"
    assert name_shown("a\\nb") == "'a\\\\nb'", "and no line break"
    assert printable("a\x1b[2J\n\u202eb\udc80\u200b") == "a\\x1b[2J\\n\\u202eb\\udc80\\u200b"


def test_verify_and_events(
    refacex: Refacex, people: dict[str, Path], world: World, buckets: Buckets, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = world.folder / "keys"
    keys.write_public(folder / "audit.public.json", keys.create_signing_key(folder / "audit.signing.json"))
    key = keys.load(folder / "audit.signing.json", keys.FileKind.SIGNING).of(keys.KeyType.ED25519)
    with monkeypatch.context() as patch:
        for name, value in buckets.environment("notary").items():
            patch.setenv(name, value)
        patch.setenv("REFACEX_AUDIT_SIGNING_KEY", "unused")
        anchors = Anchors(Storage(NotarySettings.load()), buckets.anchors)
    request = ask(refacex, world, str(world.items[0]))
    told = refacex("request", "deny", request, "--as", "bob", "--key", people["bob"], "--yes").stderr
    (receipt,) = re.findall(r"still says so: (\d+:[0-9a-f]{64})$", told, re.M)
    Notary(world.as_("notary"), anchors, HeadSigner(key.id, key.secret()), timedelta(days=1)).anchor()
    assert "the trail holds" in refacex("audit", "verify", "--receipt", receipt).stdout
    other = receipt[:-1] + ("0" if receipt[-1] != "0" else "1")
    line = refacex("audit", "verify", "--receipt", receipt, "--receipt", other, ok=False).stdout
    assert (
        f"event {receipt.split(':')[0]}: a receipt was given for it, and another event stands there [receipt]" in line
    )
    assert (
        "as `refacex request approve` or `deny` printed it"
        in refacex("audit", "verify", "--receipt", "x", ok=False).stderr
    )
    events = [
        json.loads(line) for line in refacex("audit", "events", "--event", "person:added", "--json").stdout.splitlines()
    ]
    assert {each["fields"]["subject"] for each in events} >= {"alice", "bob", "carol"}
    assert refacex("audit", "events", "--request", str(world.release), "--json").stdout == ""
    world.owner(
        "ALTER TABLE audit.events DISABLE TRIGGER append_only",
        "UPDATE audit.events SET role = 'refacex_notary' WHERE seq = 0",
    )
    line = refacex("audit", "verify", ok=False).stdout
    assert "event 0" in line
    assert "THE TRAIL DOES NOT HOLD" in line
    result = json.loads(refacex("audit", "verify", "--json", ok=False).stdout)
    assert {each["problem"] for each in result["findings"]} == {"event_changed", "role", "guard"}


def test_the_database_away_is_one_line(refacex: Refacex, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFACEX_DATABASE_URL", "postgresql+psycopg://refacex_gateway:x@127.0.0.1:9/refacex")
    result = refacex("request", "list", ok=False)
    assert result.stderr.strip().splitlines() == [
        "refacex: the database cannot be reached: start the service with `refacex up`"
    ]


def test_a_time_that_nobody_can_read_is_told_as_that(
    refacex: Refacex, people: dict[str, Path], world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not as a database that is away: starting the service would not help."""
    ask(refacex, world, "0.png:0")
    with copied(world.database) as fresh:
        monkeypatch.setenv("REFACEX_DATABASE_URL", fresh.url_for("gateway"))
        replace(world, database=fresh).owner(
            "ALTER TABLE recovery_requests DROP CONSTRAINT recovery_requests_times",
            "ALTER TABLE recovery_requests DISABLE TRIGGER USER",
            "UPDATE recovery_requests SET expires_at = '20000-01-01'",
        )
        told = refacex("request", "list", ok=False).stderr.strip().splitlines()
    assert told == [
        "refacex: a value cannot be read or written: `refacex audit verify` names rows that nobody can read"
    ]


def test_item_names_are_only_names(refacex: Refacex, people: dict[str, Path], world: World, tmp_path: Path) -> None:
    """A name that climbs out of the folder does not take the face with it."""
    from gateway.cli.receiving import _write_face
    from schemas.requests import face_info
    from workers.custody.sealing import seal
    from workers.recoveries.service import SealedFace

    alice = keys.load(people["alice"], keys.FileKind.PERSON).of(keys.KeyType.X25519)
    item = world.items[0]
    sealed = seal(alice.public, b"png", face_info(item, item, 0))
    for name in ("../../evil", "/etc/passwd", "a\x00b\n", "..."):
        path = _write_face(tmp_path, name, SealedFace(item, item, 0, sealed), alice.secret())
        assert path.parent == tmp_path
        assert path.read_bytes() == b"png"


def test_a_passkey_approves_with_the_requests_hash_as_challenge(
    refacex: Refacex, people: dict[str, Path], world: World, tmp_path: Path
) -> None:
    phone, stranger = Authenticator(), Authenticator()
    passkey, answer = tmp_path / "passkey.json", tmp_path / "answer.json"
    passkey.write_text(json.dumps({"id": phone.passkey.id, "public": base64.b64encode(phone.passkey.public).decode()}))
    public = refacex("person", "new-key", tmp_path / "dora.key").stdout.strip()
    dora = ["dora", "--public", public, "--tenant", "acme", "--role", "approver", "--passkey", passkey]
    refacex("person", "add", *dora, "--roster", world.roster)
    other = refacex("person", "new-key", tmp_path / "dora2.key").stdout.strip()
    same = json.loads(passkey.read_text()) | {"id": "BBBB"}
    (tmp_path / "same.json").write_text(json.dumps(same))
    twice = ["dora2", "--public", other, "--tenant", "acme", "--role", "approver", "--passkey", tmp_path / "same.json"]
    # By the service's own table; the roster refuses it as well.
    assert "with that key, already" in refacex("person", "add", *twice, "--without-roster", ok=False).output
    (tmp_path / "same.json").write_text(json.dumps({"id": "CCCC", "public": "AAAA"}))
    assert "P-256" in refacex("person", "add", *twice, "--without-roster", ok=False).output
    on_roster = ["--roster", world.roster]
    request = ask(refacex, world, str(world.items[0]))
    assert "roster console" in refacex("request", "challenge", request, "--as", "dora", *on_roster, ok=False).output
    refacex("roster", "console", CONSOLE.id, "--origin", CONSOLE.origins[0], *on_roster)

    def answers(by: Authenticator, *options: str) -> None:
        asked = json.loads(refacex("request", "challenge", request, "--as", "dora", *options, *on_roster).stdout)
        assert (asked["rpId"], asked["userVerification"]) == (CONSOLE.id, "required")
        assert [each["id"] for each in asked["allowCredentials"]] == [phone.passkey.id]
        assertion, signature = by.sign(b"", challenge=asked["challenge"])
        kept = assertion.as_json()
        response = {
            "clientDataJSON": kept["client_data"],
            "authenticatorData": kept["authenticator_data"],
            "signature": base64.urlsafe_b64encode(signature).decode().rstrip("="),
        }
        answer.write_text(json.dumps({"id": kept["credential"], "type": "public-key", "response": response}))

    hand_in = ["request", "approve", request, "--as", "dora", "--yes", "--assertion", answer, *on_roster]
    answers(stranger)
    assert "not by that passkey" in refacex(*hand_in, ok=False).output
    answers(phone, "--deny")
    assert "another challenge" in refacex(*hand_in, ok=False).output
    for text in ("{}", "[]", '{"response": 3}', "no JSON"):
        answer.write_text(text)
        said = refacex(*hand_in, ok=False).output
        assert "base64url" in said and "Error" not in said.replace("Error:", "").replace("╭─ Error", "")
        assert "SHA-256" not in said, "nothing is shown for an answer that cannot be read"
    answer.unlink()
    assert "No such file" in refacex(*hand_in, ok=False).output
    answers(phone)
    refacex(*hand_in)
    refacex("request", "approve", request, "--as", "bob", "--key", people["bob"], "--yes")
    recover(world, request)


def test_a_challenge_is_for_who_can_answer_it(refacex: Refacex, people: dict[str, Path], world: World) -> None:
    request = ask(refacex, world, str(world.items[0]))
    challenge = ["request", "challenge", request, "--roster", world.roster, "--as"]
    without = refacex(*challenge, "bob", ok=False)
    assert (without.exit_code, without.stdout) == (1, "")
    assert "bob was added without a passkey" in without.stderr and "--key FILE" in without.stderr
    bob = ["--as", "bob", "--key", people["bob"], "--yes"]
    refacex("request", "approve", request, *bob)
    for again in (refacex(*challenge, "bob", ok=False), refacex("request", "approve", request, *bob, ok=False)):
        assert "decided on this request already" in again.stderr and "SHA-256" not in again.stdout
    refacex("request", "deny", request, "--as", "carol", "--key", people["carol"], "--yes")
    for to_deny in ([], ["--deny"]):
        closed = refacex(*challenge, "carol", *to_deny, ok=False)
        assert (closed.exit_code, closed.stdout) == (1, "")
        assert "not open any more" in closed.stderr and "(denied)" in closed.stderr
