"""A person's key file under a passphrase, on the command line: from a file, or typed on a terminal."""

from __future__ import annotations

import getpass
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from gateway.cli import build
from gateway.cli.passphrases import NAMED, new_passphrase, own_key
from workers.custody import keys
from workers.custody.errors import PassphraseFileLoose, PassphraseNeeded, PassphraseWrong


def refacex(*arguments: str | Path) -> Result:
    result = CliRunner().invoke(build(), [str(each) for each in arguments])
    NAMED.set(None)  # as another process would find it
    return result


@pytest.fixture
def words(tmp_path: Path) -> Path:
    path = tmp_path / "words"
    path.write_text("of this test\n")
    path.chmod(0o600)
    return path


@pytest.fixture
def key(tmp_path: Path, words: Path) -> Path:
    path = tmp_path / "ann.json"
    said = refacex("--passphrase-file", words, "person", "new-key", path, "--passphrase")
    assert said.exit_code == 0, said.output
    return path


def types(monkeypatch: pytest.MonkeyPatch, *typed: str) -> None:
    """Somebody at a terminal who types these, one a question."""
    answers = iter(typed)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(getpass, "getpass", lambda prompt: next(answers))


def test_a_key_made_with_a_passphrase_is_used_with_it(key: Path, words: Path) -> None:
    assert b'"private"' not in key.read_bytes()
    assert keys.load(key.with_name("ann.json.public"), keys.FileKind.PUBLIC).of(keys.KeyType.ED25519)
    token = NAMED.set(words)
    signing = own_key(key).of(keys.KeyType.ED25519)
    NAMED.reset(token)
    assert len(signing.sign(b"x")) == 64


def test_without_a_file_it_is_asked_for_on_the_terminal(key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    types(monkeypatch, "of this test", "another")
    assert own_key(key).protected
    with pytest.raises(PassphraseWrong):
        own_key(key)


def test_where_nobody_can_be_asked_it_says_so(key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False, raising=False)
    with pytest.raises(PassphraseNeeded, match="no terminal"):
        own_key(key)


def test_without_a_terminal_a_new_one_comes_from_a_file_and_it_says_how(tmp_path: Path) -> None:
    said = refacex("person", "new-key", tmp_path / "bob.json", "--passphrase")
    line = " ".join(said.output.split())
    assert said.exit_code == 1 and not (tmp_path / "bob.json").exists()
    assert "A new passphrase is typed on a terminal" in line and "--passphrase-file FILE person new-key" in line
    assert "This key file has" not in line


def test_a_new_one_is_typed_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    types(monkeypatch, "one", "one", "one", "two", "", "")
    assert new_passphrase(tmp_path / "k") == b"one"
    with pytest.raises(PassphraseWrong, match="differ"):
        new_passphrase(tmp_path / "k")
    with pytest.raises(PassphraseNeeded, match="empty"):
        new_passphrase(tmp_path / "k")


def test_a_file_of_it_that_others_can_read_is_refused(tmp_path: Path, words: Path) -> None:
    words.chmod(0o644)
    said = refacex("--passphrase-file", words, "person", "new-key", tmp_path / "bob.json", "--passphrase")
    assert said.exit_code == 1
    assert " ".join((PassphraseFileLoose.__doc__ or "").split()) in " ".join(said.output.split())
    assert not (tmp_path / "bob.json").exists()


def test_a_key_without_one_stays_as_it_was(tmp_path: Path) -> None:
    assert refacex("person", "new-key", tmp_path / "eve.json").exit_code == 0
    assert not own_key(tmp_path / "eve.json").protected
