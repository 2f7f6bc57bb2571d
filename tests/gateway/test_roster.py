"""`refacex roster`: what it takes for a passkey, and which console's passkeys count. It needs no service."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from click.testing import Result
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from typer.testing import CliRunner

from gateway.cli import roster
from tests.workers.custody.test_passkeys import Authenticator, spelt
from workers.custody import keys
from workers.custody.roster import load_roster, write_roster

Refacex = Callable[..., Result]
PASSKEY = Authenticator().passkey
RIGHT = {"id": PASSKEY.id, "public": base64.b64encode(PASSKEY.public).decode()}
NEUTRAL = spelt(Ed25519PublicKey.from_public_bytes((1).to_bytes(32, "little")))


@pytest.fixture
def refacex(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Refacex:
    """The command line, on a roster with nobody on it."""
    monkeypatch.setenv("COLUMNS", "300")
    write_roster(tmp_path / "roster.json", [])
    app = typer.Typer()
    app.add_typer(roster.app, name="roster")

    def run(command: str, *arguments: object, code: int = 0) -> Result:
        given = [str(each) for each in ("--roster", tmp_path / "roster.json", *arguments)]
        result = CliRunner().invoke(app, ["roster", command, *given])
        assert result.exit_code == code, result.output
        return result

    return run


@pytest.fixture
def dora(tmp_path: Path) -> list[object]:
    """All that `roster add` is told of somebody, but for what is in the passkey's file."""
    keys.write_public(tmp_path / "dora.public", keys.create_person_key(tmp_path / "dora"))
    return ["dora", "--public", tmp_path / "dora.public", "--role", "approver", "--passkey", tmp_path / "passkey.json"]


def words(result: Result) -> str:
    """What it said, without the frame that is drawn round it."""
    return " ".join(re.sub(r"[│╭╮╰╯─]", " ", result.output).split())


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (None, "it cannot be read (No such file or directory)"),
        (b"\xff\xfe", "it is no text in UTF-8"),
        (b"{", "it is no JSON at line 1, column 2"),
        (b"[" * 5_000, "nested too deeply"),
        ([RIGHT], "it is no JSON object"),
        ("text", "it is no JSON object"),
        ({"public": RIGHT["public"]}, 'its "id" is missing'),
        (RIGHT | {"id": 7}, 'its "id" is missing, empty or no text'),
        (RIGHT | {"id": ""}, 'its "id" is missing, empty or no text'),
        (RIGHT | {"id": "a"}, 'its "id" is not in base64url'),
        ({"id": RIGHT["id"]}, 'its "public" is missing'),
        (RIGHT | {"public": {"kty": "EC"}}, 'its "public" is missing, empty or no text'),
        (RIGHT | {"public": "§§"}, 'its "public" is not in base64'),
        (RIGHT | {"public": "AAAA"}, 'its "public" is no public key in DER'),
        (RIGHT | {"public": base64.b64encode(NEUTRAL).decode()}, 'its "public" is an Ed25519 key of small order'),
    ],
)
def test_what_is_wrong_with_a_passkeys_file_is_said(
    refacex: Refacex, dora: list[object], tmp_path: Path, said: Any, why: str
) -> None:
    file = tmp_path / "passkey.json"
    if said is not None:
        file.write_bytes(said if isinstance(said, bytes) else json.dumps(said).encode())
    told = words(refacex("add", *dora, code=2))
    assert f"{file} is no passkey, {why}" in told and "DER in base64" in told
    for pythons in ("indices", "Expecting", "Errno", "'id'", "codec", "padding", "argument", "Traceback"):
        assert pythons not in told
    file.write_text(json.dumps(RIGHT))
    refacex("add", *dora)
    assert load_roster(tmp_path / "roster.json").people["dora"].passkeys == (PASSKEY,)


@pytest.mark.parametrize(
    ("domain", "origins"),
    [
        ("example.org", ["https://example.org", "https://refacex.example.org:8443"]),
        ("xn--bcher-kva.example", ["https://a.b.xn--bcher-kva.example"]),
        ("localhost", ["http://localhost:8080", "https://localhost"]),
    ],
)
def test_a_console_is_on_the_domain_or_below_it(
    refacex: Refacex, tmp_path: Path, domain: str, origins: list[str]
) -> None:
    refacex("console", domain, *(part for origin in origins for part in ("--origin", origin)))
    party = load_roster(tmp_path / "roster.json").relying_party
    assert party is not None and (party.id, party.origins) == (domain, tuple(origins))


@pytest.mark.parametrize(
    ("domain", "origin", "why"),
    [
        ("example.org", "http://refacex.example.org", "is not https"),
        ("example.org", "http://example.org:8080", "is not https"),
        ("example.org", "https://example.com", "neither on example.org nor on a host below it"),
        ("example.org", "https://badexample.org", "neither on example.org nor on a host below it"),
        ("refacex.example.org", "https://example.org", "neither on refacex.example.org"),
        ("example.org", "http://localhost", "neither on example.org"),
        ("example.org", "https://example.org/", "is no origin"),
        ("example.org", "https://example.org/console", "is no origin"),
        ("example.org", "https://Example.org", "is no origin"),
        ("example.org", "https://me@example.org", "is no origin"),
        ("example.org", "https://example.org:99999", "is no origin"),
        ("example.org", "https://example.org:", "is no origin"),
        ("example.org", "example.org", "is no origin"),
        ("example.org", "ftp://example.org", "is no origin"),
        ("example.org", "https://", "is no origin"),
        ("example.org", "", "is no origin"),
        ("example.org", "https://example.org:443", "give https://example.org"),
        ("localhost", "http://localhost:80", "give http://localhost"),
        ("https://example.org", "https://example.org", "is no domain"),
        ("example.org:8443", "https://example.org:8443", "is no domain"),
        ("Example.org", "https://example.org", "is no domain"),
        ("127.0.0.1", "https://127.0.0.1", "is no domain"),
        ("-a.org", "https://-a.org", "is no domain"),
        ("", "https://example.org", "is no domain"),
    ],
)
def test_no_browser_would_use_a_passkey_there(
    refacex: Refacex, tmp_path: Path, domain: str, origin: str, why: str
) -> None:
    """It is refused before anybody makes a passkey that then counts for nothing."""
    right = f"https://{domain}"
    assert why in words(refacex("console", "--origin", right, "--origin", origin, "--", domain, code=2))
    assert load_roster(tmp_path / "roster.json").relying_party is None
