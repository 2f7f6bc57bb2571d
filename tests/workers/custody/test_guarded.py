"""Files that others may write, or secret ones that they may read, are refused, and the error says what mends it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from schemas.policies import Policy
from tests.governance import World
from workers.custody import guarded, keys
from workers.custody.errors import CustodyError, KeyFileLoose, LedgerLoose, PoliciesLoose, RosterLoose
from workers.custody.ledger import Ledger
from workers.custody.policies import load_policies, set_policy, write_policies
from workers.custody.roster import load_roster, remove_person, write_roster

ACME = Policy("acme")
#: How each file is made, the error, and everything that reads it.
FILES: dict[str, tuple[Callable[[Path], Any], type[CustodyError], list[Callable[[Path], Any]]]] = {
    "roster": (
        lambda path: write_roster(path, []),
        RosterLoose,
        [load_roster, lambda path: remove_person(path, "bob")],
    ),
    "policies": (
        lambda path: write_policies(path, [ACME]),
        PoliciesLoose,
        [load_policies, lambda path: set_policy(path, ACME)],
    ),
    "ledger": (
        Ledger.begin,
        LedgerLoose,
        [
            lambda path: Ledger(path).holds(),
            lambda path: Ledger(path).lines(),
            lambda path: Ledger(path).record_spent(uuid4(), uuid4(), uuid4()),
        ],
    ),
}
KEY_FILES = {
    keys.FileKind.CUSTODY: keys.create_custody_keyring,
    keys.FileKind.KEYPAIR: keys.create_keypair,
    keys.FileKind.SIGNING: keys.create_signing_key,
    keys.FileKind.PERSON: keys.create_person_key,
}


def given_away(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is somebody else's, and we are not root."""
    if os.geteuid() == 0:
        os.chown(path, 12345, -1)
    monkeypatch.setattr(guarded.os, "geteuid", lambda: 12346)


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o660])
@pytest.mark.parametrize("name", FILES)
def test_what_others_may_write_is_refused(tmp_path: Path, name: str, mode: int) -> None:
    make, error, readers = FILES[name]
    path = tmp_path / "a file.json"
    make(path)
    before = path.read_bytes()
    path.chmod(mode)
    for reader in readers:
        with pytest.raises(error) as refused:
            reader(path)
        assert f"{path} has mode {mode:04o}: run `chmod go-w '{path}'`" in str(refused.value)
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (before, mode), "nothing was written either"
    for kept in (0o600, 0o644, 0o400):
        path.chmod(kept)
        readers[0](path)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o602, 0o620, 0o601])
@pytest.mark.parametrize("kind", KEY_FILES)
def test_a_key_file_that_others_may_read_or_write_is_refused(tmp_path: Path, kind: keys.FileKind, mode: int) -> None:
    path = tmp_path / "key.json"
    public = KEY_FILES[kind](path)
    path.chmod(mode)
    for read in (keys.load, keys.load_public_half):
        with pytest.raises(KeyFileLoose) as refused:
            read(path, kind)
        assert f"{path} has mode {mode:04o}: run `chmod 600 {path}`" in str(refused.value)
    path.chmod(0o400)
    assert keys.load(path, kind).public_json() == public


@pytest.mark.parametrize("name", [*FILES, *KEY_FILES])
def test_what_belongs_to_somebody_else_is_refused(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file.json"
    if name in FILES:
        make, error, readers = FILES[name]
    else:
        kind = keys.FileKind(name)
        make, error, readers = KEY_FILES[kind], KeyFileLoose, [lambda path: keys.load(path, kind)]
    make(path)
    given_away(path, monkeypatch)
    for reader in readers:
        with pytest.raises(error, match=rf"belongs to user \d+: run `chown \d+ {path}`"):
            reader(path)


def test_what_is_roots_is_as_good_as_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As secrets are that an orchestrator mounts."""
    path = tmp_path / "roster.json"
    write_roster(path, [])
    status = list(path.stat())
    status[4] = 0  # st_uid
    monkeypatch.setattr(guarded.os, "geteuid", lambda: 12345)
    assert guarded.looseness(path, os.stat_result(status)) is None
    status[4] = 12346
    assert guarded.looseness(path, os.stat_result(status)) is not None
    monkeypatch.setattr(guarded.os, "geteuid", lambda: 0)
    assert guarded.looseness(path, os.stat_result(status)) is None, "root looks after a service's files"


def test_the_custodian_opens_nothing_by_files_that_others_may_write(world: World) -> None:
    terms = world.approved()
    custodian = world.custodian()
    assert custodian.ledger.holds().standing() == {}, "it read the ledger before"
    files = {world.roster: RosterLoose, world.policies: PoliciesLoose, world.folder / "tombstones.json": LedgerLoose}
    for path, error in files.items():
        path.chmod(0o620)
        with pytest.raises(error):
            custodian.open(terms.id)
        path.chmod(0o600)
    assert custodian.open(terms.id).recovery is not None
