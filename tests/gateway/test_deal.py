"""What each process gets when the home folder is dealt out."""

from __future__ import annotations

import stat
import sys
from pathlib import Path

import pytest

from gateway.deal import DEALT, become, deal
from gateway.engines import EngineUrls
from gateway.engines.errors import EngineUnknown, HomeNotReady
from gateway.engines.seaweed import new_identities
from gateway.provision import OWNER, ROLES, Home, create_keys, environments, read_env, write_env
from gateway.status import look
from workers.custody import keys

URLS = EngineUrls("redis://r", "redis://p", "postgresql://admin:x@db:5432/postgres", "http://s3", "admin", "secret")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home as provisioning leaves it, without engines."""
    home = Home(tmp_path / "home")
    for folder in ("env", "keys", "logs", "run"):
        (home.path / folder).mkdir(parents=True)
    create_keys(home)
    for process, variables in environments(
        home, URLS, new_identities(), dict.fromkeys((OWNER, *ROLES), "pw"), []
    ).items():
        write_env(home.env(process), variables)
    return home


def test_each_process_gets_its_own_keys_only(home: Home, tmp_path: Path) -> None:
    deal(home, tmp_path / "deal", seen_as=Path("/refacex"))
    dealt = {process: {path.name for path in (tmp_path / "deal" / process / "keys").iterdir()} for process in DEALT}
    assert dealt == {
        "release": {"custody.public.json", "export.signing.json"},
        "custodian": {
            "custody.keyring.json",
            "custody.public.json",
            "ticket.signing.json",
            "recovery.public.json",
            "roster.json",
            "policies.json",
            "tombstones.json",
        },
        "recovery": {"recovery.private.json", "ticket.public.json"},
        "notary": {"audit.signing.json"},
        "gateway": {"audit.public.json", "export.public.json", "ticket.public.json"},
        "relay": set(),
        "beat": set(),
    }
    variables = read_env(tmp_path / "deal/custodian/env/custodian.env")
    assert variables["REFACEX_CUSTODY_KEYRING"] == "/refacex/keys/custody.keyring.json"
    assert variables["REFACEX_TOMBSTONES"] == "/refacex/keys/tombstones.json"
    assert not (tmp_path / "deal/custodian/env/release.env").exists()
    secret = tmp_path / "deal/custodian/keys/custody.keyring.json"
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600


def test_dealing_again_never_takes_back_roster_and_tombstones(home: Home, tmp_path: Path) -> None:
    deal(home, tmp_path / "deal", seen_as=Path("/refacex"))
    own = tmp_path / "deal/custodian/keys"
    (own / "roster.json").write_text("changed by the custodian's people")
    (own / "tombstones.json").write_text("one key shredded")
    home.key("tombstones.json").write_text("none")
    deal(home, tmp_path / "deal", seen_as=Path("/refacex"))
    assert (own / "roster.json").read_text() == "changed by the custodian's people"
    assert (own / "tombstones.json").read_text() == "one key shredded"


def test_a_ledger_that_was_lost_is_not_dealt_again(home: Home, tmp_path: Path) -> None:
    """The home's own is as it was begun: in the lost one's place it would forget everything without a word."""
    deal(home, tmp_path / "deal", seen_as=Path("/refacex"))
    own = tmp_path / "deal/custodian/keys/tombstones.json"
    for lose in (own.unlink, lambda: own.write_bytes(b"")):
        assert own.read_bytes() == home.key("tombstones.json").read_bytes()
        lose()
        deal(home, tmp_path / "deal", seen_as=Path("/refacex"))
        assert not own.exists() or own.stat().st_size == 0
        deal(home, tmp_path / "deal", seen_as=Path("/refacex"), ledger_may_begin=True)


def test_dealing_again_keeps_a_rotated_key_ring_and_hands_its_public_half_on(home: Home, tmp_path: Path) -> None:
    """A ring that is put back loses the key that everything was wrapped again under."""
    deal(home, tmp_path / "deal", seen_as=Path("/refacex"))
    ring = tmp_path / "deal/custodian/keys/custody.keyring.json"
    rotated = keys.load(ring, keys.FileKind.CUSTODY).with_new(keys.KeyType.X25519)
    keys.rewrite(ring, rotated)
    deal(home, tmp_path / "deal", seen_as=Path("/refacex"))
    assert keys.load(ring, keys.FileKind.CUSTODY) == rotated
    for process in ("custodian", "release"):
        assert keys.load_public(tmp_path / "deal" / process / "keys/custody.public.json").id == rotated.active


def test_what_was_chosen_about_custody_outlives_the_next_set_up(home: Home) -> None:
    path = home.env("custodian")
    chosen = {"REFACEX_CUSTODY_PASSPHRASE_FILE": "/secrets/words", "REFACEX_KMS_ENDPOINT": "https://kms"}
    write_env(path, read_env(path) | chosen | {"REFACEX_LEFT_OVER": "x"})
    again = environments(home, URLS, new_identities(), dict.fromkeys((OWNER, *ROLES), "pw"), [])
    assert {name: again["custodian"].get(name) for name in chosen} == chosen
    assert "REFACEX_LEFT_OVER" not in again["custodian"]
    assert not set(chosen) & set(again["release"])


def test_a_process_is_started_in_our_place_with_its_env_file(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, list[str], dict[str, str]]] = []
    monkeypatch.setattr("os.execve", lambda *arguments: seen.append(arguments))
    monkeypatch.chdir(home.path)
    become("relay", home)
    program, command, environment = seen[0]
    assert program == sys.executable and command[1:] == ["-m", "workers.outbox"]
    assert environment["REFACEX_PRIVILEGED_BROKER_URL"] == "redis://p"
    with pytest.raises(EngineUnknown):
        become("owner", home)
    with pytest.raises(HomeNotReady):
        become("relay", Home(home.path / "elsewhere"))
    with pytest.raises(HomeNotReady):
        look(home.path / "elsewhere")
