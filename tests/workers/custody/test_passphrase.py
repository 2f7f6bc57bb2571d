"""Key files under a passphrase: what they hide, what can be read without it, and every way to get it wrong."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import rfc8785
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from workers.custody import keys, passphrase
from workers.custody.errors import (
    KeyFileCorrupt,
    KeyFileLoose,
    PassphraseFileLoose,
    PassphraseNeeded,
    PassphraseWrong,
)

VECTORS = json.loads(Path(__file__).with_name("vectors.json").read_text("utf-8"))["key_files"]
WORDS = b"a passphrase of this test"
CUSTODY = keys.FileKind.CUSTODY


def put(path: Path, document: dict[str, Any]) -> Path:
    """Writes a document with a checksum that fits."""
    body = {name: value for name, value in document.items() if name != "checksum"}
    path.touch(0o600)
    path.write_text(json.dumps(body | {"checksum": hashlib.sha256(rfc8785.dumps(body)).hexdigest()}))
    return path


@pytest.fixture(scope="module")
def protected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ring") / "ring.json"
    keys.create_custody_keyring(path, WORDS)
    return path


@pytest.mark.parametrize("vector", VECTORS, ids=["of before", "with a passphrase"])
def test_a_key_file_that_was_written_once_is_read_for_ever(tmp_path: Path, vector: dict[str, Any]) -> None:
    path = tmp_path / "ring.json"
    path.touch(0o600)
    path.write_text(json.dumps(vector["file"]))
    ring = keys.load(path, CUSTODY, lambda: vector["passphrase"].encode())
    assert [key.secret().hex() for key in ring.keys] == vector["private"]


def test_it_is_argon2id_and_aes_gcm_as_the_file_says() -> None:
    document = dict(VECTORS[1]["file"])
    envelope, _ = document.pop("protected"), document.pop("checksum")
    raw = {name: base64.b64decode(envelope[name]) for name in ("salt", "nonce", "sealed")}
    assert (envelope["memory_kib"], envelope["iterations"], envelope["lanes"]) == (65536, 3, 4), "RFC 9106, 4"
    kdf = Argon2id(salt=raw["salt"], length=32, iterations=3, lanes=4, memory_cost=65536)
    secret = AESGCM(kdf.derive(VECTORS[1]["passphrase"].encode())).decrypt(
        raw["nonce"], raw["sealed"], rfc8785.dumps(document)
    )
    assert secret.hex() == "".join(VECTORS[1]["private"])


def test_no_secret_is_in_the_file_and_its_public_half_needs_no_passphrase(protected: Path) -> None:
    ring = keys.load(protected, CUSTODY, lambda: WORDS)
    raw = protected.read_bytes()
    assert ring.protected
    assert b'"private"' not in raw
    assert base64.b64encode(ring.keys[0].secret()) not in raw
    assert keys.load_public_half(protected, CUSTODY) == ring.public_json()
    assert protected.stat().st_mode & 0o777 == 0o600


def test_without_it_or_with_another_one_nothing_is_read(protected: Path) -> None:
    with pytest.raises(PassphraseNeeded):
        keys.load(protected, CUSTODY)
    for wrong in (b"another one", WORDS + b" ", WORDS.upper()):
        with pytest.raises(PassphraseWrong):
            keys.load(protected, CUSTODY, lambda wrong=wrong: wrong)  # type: ignore[misc]
    with pytest.raises(PassphraseNeeded):
        keys.load(protected, CUSTODY, lambda: b"")
    with pytest.raises(KeyFileCorrupt, match="custody-keyring"):
        keys.load(protected, keys.FileKind.PERSON, lambda: WORDS)


def test_a_file_without_one_never_asks_for_it(tmp_path: Path) -> None:
    keys.create_person_key(tmp_path / "key.json")
    loaded = keys.load(tmp_path / "key.json", keys.FileKind.PERSON, lambda: pytest.fail("it asked"))
    assert not loaded.protected


def test_a_ring_keeps_its_passphrase_when_it_is_written_again(protected: Path) -> None:
    ring = keys.load(protected, CUSTODY, lambda: WORDS)
    longer = ring.with_new(keys.KeyType.X25519)
    keys.rewrite(protected, longer, WORDS)
    again = keys.load(protected, CUSTODY, lambda: WORDS)
    assert [key.id for key in again.keys] == [ring.active, longer.active]
    assert again.active == longer.active
    assert again.without(ring.active).keys == (again.keys[1],)


def test_what_lies_beside_the_secrets_is_bound_to_them(protected: Path, tmp_path: Path) -> None:
    """Somebody who can write the file, but does not know the passphrase, makes another key the active one."""
    document = json.loads(protected.read_text())
    swapped = document | {"keys": [document["keys"][0] | {"created_at": "2001-01-01T00:00:00Z"}, *document["keys"][1:]]}
    with pytest.raises(PassphraseWrong):
        keys.load(put(tmp_path / "ring.json", swapped), CUSTODY, lambda: WORDS)


@pytest.mark.parametrize(
    "change",
    [
        {"memory_kib": 2**30},
        {"memory_kib": 8},
        {"iterations": 10**9},
        {"iterations": 0},
        {"iterations": True},
        {"lanes": 17},
        {"lanes": "4"},
        {"kdf": "md5"},
        {"salt": "c2FsdA=="},
        {"salt": "%"},
        {"sealed": None},
    ],
    ids=str,
)
def test_a_file_cannot_make_its_reader_work_for_hours(protected: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    document = json.loads(protected.read_text())
    bad = put(tmp_path / "ring.json", document | {"protected": document["protected"] | change})
    with pytest.raises(KeyFileCorrupt):
        keys.load(bad, CUSTODY, lambda: WORDS)


def test_a_secret_beside_the_protected_ones_is_refused(protected: Path, tmp_path: Path) -> None:
    document = json.loads(protected.read_text())
    known = base64.b64encode(keys.load(protected, CUSTODY, lambda: WORDS).keys[0].secret()).decode()
    entries = [document["keys"][0] | {"private": known}, *document["keys"][1:]]
    for bad in (document | {"keys": entries}, document | {"version": 1}, document | {"version": 3}):
        with pytest.raises(KeyFileCorrupt):
            keys.load(put(tmp_path / "ring.json", bad), CUSTODY, lambda: WORDS)
    protected.chmod(0o640)
    with pytest.raises(KeyFileLoose):
        keys.load_public_half(protected, CUSTODY)
    protected.chmod(0o600)


def test_a_passphrases_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "words"
    path.write_bytes(WORDS + b"\r\n")
    path.chmod(0o600)
    assert passphrase.from_file(path) == WORDS
    for mode in (0o640, 0o604, 0o660):
        path.chmod(mode)
        with pytest.raises(PassphraseFileLoose):
            passphrase.from_file(path)
    for absent in (tmp_path / "none", tmp_path):
        with pytest.raises(PassphraseNeeded, match="cannot be read"):
            passphrase.from_file(absent)
