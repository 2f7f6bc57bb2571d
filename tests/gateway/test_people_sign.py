"""What submitters and administrators do with the command line: each signs with a key of their own."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jwt
import pytest
import typer
from click.testing import Result
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy import select
from typer.testing import CliRunner

from gateway.cli import governance, releases
from schemas.tables import Release
from tests.conftest import Database
from tests.governance import World, build, copied
from workers.custody import keys
from workers.custody.policies import load_policies
from workers.custody.roster import load_roster

Refacex = Callable[..., Result]


@pytest.fixture(scope="module")
def _first_world(database: Database, tmp_path_factory: pytest.TempPathFactory) -> World:
    return build(database, tmp_path_factory.mktemp("people"), people=False)


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
    monkeypatch.setenv("REFACEX_SOURCE_ROOTS", json.dumps([str(world.folder)]))
    monkeypatch.setenv("REFACEX_HOME", str(world.folder))
    monkeypatch.setenv("COLUMNS", "200")
    app = typer.Typer()
    governance.register(app)
    releases.register(app)

    def run(*arguments: object, ok: bool = True) -> Result:
        result = CliRunner().invoke(app, [str(each) for each in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert (result.exit_code == 0) is ok, result.output
        return result

    return run


def new_key(refacex: Refacex, world: World, name: str) -> list[object]:
    refacex("person", "new-key", world.folder / f"{name}.key")
    return ["--key", world.folder / f"{name}.key"]


def add(refacex: Refacex, world: World, name: str, *roles: str, tenant: str = "acme", **options: Any) -> Result:
    """Their key file is made; with `by`, an administrator signs."""
    if not (world.folder / f"{name}.key").exists():
        new_key(refacex, world, name)
    public = ["--public", world.folder / f"{name}.key.public", "--tenant", tenant, "--roster", world.roster]
    by = options.pop("by", None)
    word = ["--by", by, "--key", world.folder / f"{by}.key"] if by else []
    return refacex(
        "person", "add", name, *public, *(part for role in roles for part in ("--role", role)), *word, **options
    )


def set_policy(refacex: Refacex, world: World, name: str, *more: object, ok: bool = True, **fields: Any) -> Result:
    file = world.folder / "policy.in.json"
    file.write_text(json.dumps({"name": name} | fields))
    return refacex("policy", "set", file, "--tenant", "acme", "--policies", world.policies, *more, ok=ok)


def events(refacex: Refacex, tag: str) -> list[Any]:
    return [
        json.loads(line)["fields"] for line in refacex("audit", "events", "--event", tag, "--json").stdout.splitlines()
    ]


def test_a_submitter_signs_what_they_hand_in(refacex: Refacex, world: World) -> None:
    (world.folder / "a.png").write_bytes(b"a")
    submit = ["release", "submit", world.folder / "a.png", "--tenant", "acme", "--policy", "signed"]
    set_policy(refacex, world, "signed", signed_submissions=True)
    assert "--as ID --key FILE" in refacex(*submit, ok=False).stderr
    add(refacex, world, "sid", "submitter")
    add(refacex, world, "bob", "approver")
    assert "bob as submitter" in refacex(*submit, "--as", "bob", "--key", world.folder / "bob.key", ok=False).stderr
    assert (
        "sign with the key file" in refacex(*submit, "--as", "sid", "--key", world.folder / "bob.key", ok=False).stderr
    )
    assert "one comes with the other" in refacex(*submit, "--as", "sid", ok=False).stderr
    release = refacex(*submit, "--as", "sid", "--key", world.folder / "sid.key").stdout.strip()
    told = events(refacex, "release:submitted")[-1]
    assert (told["release"], told["actor"], len(told["detail"]["signature"])) == (release, "sid", 128)
    assert world.one(select(Release.submitted_by).where(Release.id == release)) == "sid"
    assert "by sid for acme" in refacex("release", "show", release).stdout


def test_who_sets_a_policy_learns_what_it_shuts_out(refacex: Refacex, world: World) -> None:
    said = set_policy(refacex, world, "strict", signed_submissions=True).stderr
    assert "submitted unsigned under it: 1 release," in said
    assert "unsigned" not in set_policy(refacex, world, "other", signed_submissions=True).stderr
    assert json.loads(refacex("policy", "show", "other", "--tenant", "acme").stdout)["signed_submissions"] is True


def test_an_administrator_signs_who_comes_who_goes_and_policies(refacex: Refacex, world: World) -> None:
    add(refacex, world, "ada", "administrator")
    for refused in (
        add(refacex, world, "bob", "approver", ok=False),
        set_policy(refacex, world, "lax", quorum=1, ok=False),
        refacex("person", "remove", "ada", "--roster", world.roster, ok=False),
    ):
        assert "--by ID --key FILE" in refused.stderr
    assert load_roster(world.roster).people.keys() == {"ada"}
    assert ("acme", "lax") not in load_policies(world.policies).policies
    by = ["--by", "ada", "--key", world.folder / "ada.key"]
    add(refacex, world, "bob", "approver", "submitter", by="ada")
    assert "version 1" in set_policy(refacex, world, "lax", *by, quorum=1).stderr
    assert "bob as administrator" in add(refacex, world, "carol", "approver", by="bob", ok=False).stderr
    assert "one comes with the other" in set_policy(refacex, world, "lax", "--by", "ada", ok=False).stderr
    assert "recovered no more" in refacex("person", "remove", "bob", "--roster", world.roster, *by).stderr
    assert "last administrator" in refacex("person", "remove", "ada", "--roster", world.roster, *by, ok=False).stderr
    for tag in ("person:added", "person:removed", "policy:set"):
        told = events(refacex, tag)[-1]
        assert (told["actor"], len(told["detail"]["signature"])) == ("ada", 128)
    add(refacex, world, "carol", "approver", tenant="other")  # which has no administrator
    assert load_roster(world.roster).people.keys() == {"ada", "carol"}


def test_groups_of_an_identity_provider_give_both_roles(refacex: Refacex, world: World) -> None:
    """The first administrator comes by their group; another one by an administrator's signature."""
    key = ec.generate_private_key(ec.SECP256R1())
    jwks = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(key.public_key())) | {"kid": "k"}
    (world.folder / "jwks.json").write_text(json.dumps({"keys": [jwks]}))
    about = {"issuer": "https://id", "audience": "refacex", "tenant": "acme", "jwks": str(world.folder / "jwks.json")}
    groups = {"groups": {"it": "administrator", "photographers": "submitter"}}
    (world.folder / "provider.json").write_text(json.dumps(about | groups))

    def enrol(name: str, group: str, *, ok: bool = True) -> Result:
        now = int(time.time())
        claims = {"iss": "https://id", "aud": "refacex", "sub": name, "iat": now, "exp": now + 60, "groups": [group]}
        token = world.folder / "token"
        token.write_text(jwt.encode(claims | {"preferred_username": name}, key, "ES256", headers={"kid": "k"}))
        new_key(refacex, world, name)
        options = ["--token", token, "--provider", world.folder / "provider.json"]
        return refacex("person", "enrol", "--public", world.folder / f"{name}.key.public", *options, ok=ok)

    assert "ada of acme enrolled (administrator)" in enrol("ada", "it").stderr
    assert "sid of acme enrolled (submitter)" in enrol("sid", "photographers").stderr
    assert "person add" in enrol("abe", "it", ok=False).stderr
    add(refacex, world, "abe", "administrator", by="ada")


def test_who_enrols_is_told_which_file_is_wrong(refacex: Refacex, world: World) -> None:
    new_key(refacex, world, "gus")
    token, provider = world.folder / "token", world.folder / "provider.json"
    enrol = ["person", "enrol", "--public", world.folder / "gus.key.public", "--token", token, "--provider", provider]
    assert refacex(*enrol, ok=False).stderr == (
        f"refacex: {token} cannot be read (No such file or directory): give --token the file that your ID token is in, "
        "as your organisation's sign-in gave it\n"
    )
    token.write_bytes(b"\xff")
    assert "token is no text: give --token" in refacex(*enrol, ok=False).stderr
    token.write_text("a.b.c")
    for text, why in (("[]", "it is no JSON object"), ('{"issuer": "x"}', "it lacks audience, jwks, tenant, groups")):
        provider.write_text(text)
        said = refacex(*enrol, ok=False).stderr
        assert f"provider.json: {why}" in said and "Error" not in said


def test_a_public_file_whose_key_needs_no_secret_is_not_taken(refacex: Refacex, world: World) -> None:
    """Well-formed as it is: the neutral element, and the same in its second spelling."""
    new_key(refacex, world, "mal")
    made = keys.load(world.folder / "mal.key.public", keys.FileKind.PUBLIC)
    for number in (1, 2**255 - 18):
        public = number.to_bytes(32, "little")
        weak = replace(made.of(keys.KeyType.ED25519), id=keys.key_id(keys.KeyType.ED25519, public), public=public)
        file = replace(made, keys=(weak, made.of(keys.KeyType.X25519)), active=weak.id)
        keys.write_public(world.folder / "mal.key.public", file.public_json())
        said = add(refacex, world, "mal", "approver", ok=False).stderr
        assert "what mal would sign with is" in said and "person new-key" in said
        on_roster = ["mal", "--public", world.folder / "mal.key.public", "--role", "approver", "--roster", world.roster]
        assert "what mal would sign with is" in refacex("roster", "add", *on_roster, ok=False).stderr
    assert (events(refacex, "person:added"), load_roster(world.roster).people) == ([], {})


def test_a_submitter_who_leaves_may_stay_on_the_roster_as_that_alone(refacex: Refacex, world: World) -> None:
    for name in ("sid", "sally"):
        add(refacex, world, name, "submitter", "approver")
    refacex("person", "remove", "sid", "--roster", world.roster, "--keep-submitter")
    assert load_roster(world.roster).people["sid"].roles == ("submitter",)
    refacex("person", "remove", "sally", "--without-roster")
    assert (
        "but for what they submitted"
        in refacex("roster", "remove", "sally", "--keep-submitter", "--roster", world.roster).stderr
    )
    assert load_roster(world.roster).people["sally"].roles == ("submitter",)
