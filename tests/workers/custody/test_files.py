"""Key files, roster, ledger and sealing: what they hold, and every way in which a damaged one is refused."""

from __future__ import annotations

import hashlib
import hmac
import json
import threading
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.contexts import KeyContext
from schemas.requests import BundleItem, FaceRef, KeyBundle
from tests.governance import Member
from tests.workers.custody.test_passkeys import spelt
from workers.custody import keys, pinned
from workers.custody.errors import (
    KeyFileCorrupt,
    KeyFileExists,
    KeyFileLoose,
    KeyFileMissing,
    KeyUnknown,
    LedgerExists,
    LedgerInvalid,
    PublicKeyMissing,
    RosterInvalid,
    RosterKeyShared,
    RosterMissing,
    Unwrappable,
)
from workers.custody.holds import Portion
from workers.custody.ledger import Ledger
from workers.custody.opening import open_sealed, unwrap
from workers.custody.passkeys import Passkey, key_of
from workers.custody.roster import add_person, load_roster, write_roster
from workers.custody.sealing import DEFAULT_SUITE, PublicKey, SealSuite, seal, seal_key

VECTORS = json.loads(Path(__file__).with_name("vectors.json").read_text("utf-8"))
CONTEXT = KeyContext.of(
    tenant="acme", release=UUID(int=1), item=UUID(int=2), attempt=UUID(int=3), model_version="m1", policy="p", face=0
)
MAKERS = [
    (keys.FileKind.CUSTODY, keys.create_custody_keyring),
    (keys.FileKind.KEYPAIR, keys.create_keypair),
    (keys.FileKind.SIGNING, keys.create_signing_key),
    (keys.FileKind.PERSON, keys.create_person_key),
]


# --- sealing


def rfc9180_open(private: bytes, sealed: bytes, info: bytes, aad: bytes = b"", aead: int = 2) -> bytes:
    """Base mode of RFC 9180 written from its text, for DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM (`aead` 1: 128)."""

    def extract(suite: bytes, salt: bytes, label: bytes, ikm: bytes) -> bytes:
        return hmac.digest(salt or bytes(32), b"HPKE-v1" + suite + label + ikm, "sha256")

    def expand(suite: bytes, prk: bytes, label: bytes, what: bytes, length: int) -> bytes:
        labelled = length.to_bytes(2, "big") + b"HPKE-v1" + suite + label + what
        return hmac.digest(prk, labelled + b"\x01", "sha256")[:length]

    secret = X25519PrivateKey.from_private_bytes(private)
    encapsulated, ciphertext = sealed[:32], sealed[32:]
    kem, hpke = b"KEM\x00\x20", b"HPKE\x00\x20\x00\x01" + aead.to_bytes(2, "big")
    shared = secret.exchange(X25519PublicKey.from_public_bytes(encapsulated))
    context = encapsulated + secret.public_key().public_bytes_raw()
    shared = expand(kem, extract(kem, b"", b"eae_prk", shared), b"shared_secret", context, 32)
    schedule = b"\x00" + extract(hpke, b"", b"psk_id_hash", b"") + extract(hpke, b"", b"info_hash", info)
    prk = extract(hpke, shared, b"secret", b"")
    key, nonce = expand(hpke, prk, b"key", schedule, 16 * aead), expand(hpke, prk, b"base_nonce", schedule, 12)
    return AESGCM(key).decrypt(nonce, ciphertext, aad)


def test_what_it_is_held_against_is_rfc_9180() -> None:
    """The RFC's own vector, A.1.1.1: the same but for AES-128-GCM, which the RFC has no X25519 vector beside."""
    given = VECTORS["rfc9180"]
    private, sealed, info, aad, plain = (bytes.fromhex(given[n]) for n in ("skRm", "sealed", "info", "aad", "pt"))
    assert rfc9180_open(private, sealed, info, aad, aead=1) == plain == b"Beauty is truth, truth beauty"


def test_sealing_is_rfc_9180() -> None:
    private = bytes(range(1, 33))
    public = X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()
    sealed = seal(public, b"a face's key", b"some context")
    assert rfc9180_open(private, sealed, b"some context") == b"a face's key"
    assert len(sealed) == len(b"a face's key") + DEFAULT_SUITE.overhead
    assert seal(public, b"a face's key", b"some context") != sealed, "each seal has a key of its own"


@pytest.mark.parametrize("vector", VECTORS["sealed"])
def test_what_was_sealed_once_opens_for_ever(vector: dict[str, str]) -> None:
    private, sealed, info = (bytes.fromhex(vector[name]) for name in ("private", "sealed", "info"))
    plain = bytes.fromhex(vector["plain"])
    assert open_sealed(private, sealed, info, SealSuite(vector["suite"])) == plain
    assert rfc9180_open(private, sealed, info) == plain


def test_contexts_and_requests_keep_their_bytes() -> None:
    assert CONTEXT.canonical().decode() == VECTORS["key_context_2"]
    assert replace(CONTEXT, v=1).canonical().decode() == VECTORS["key_context"], (
        "of before a key was bound to a subject"
    )


def test_a_key_opens_in_its_own_context_only() -> None:
    private = X25519PrivateKey.generate()
    ring = {"k1": private.private_bytes_raw()}
    wrapped = seal_key(PublicKey("k1", private.public_key().public_bytes_raw()), bytes(range(32)), CONTEXT)
    assert unwrap(ring, "k1", DEFAULT_SUITE.value, wrapped, CONTEXT) == bytes(range(32))
    changed = {
        "tenant": "other",
        "release": str(UUID(int=9)),
        "item": str(UUID(int=9)),
        "attempt": str(UUID(int=9)),
        "model_version": "m2",
        "policy": "q",
        "face": 1,
        "subject": str(UUID(int=9)),
        "v": 1,
    }
    for name, value in changed.items():
        with pytest.raises(Unwrappable):
            unwrap(ring, "k1", DEFAULT_SUITE.value, wrapped, replace(CONTEXT, **{name: value}))
    with pytest.raises(KeyUnknown):
        unwrap(ring, "k2", DEFAULT_SUITE.value, wrapped, CONTEXT)
    with pytest.raises(Unwrappable):
        unwrap(ring, "k1", "rot13", wrapped, CONTEXT)
    with pytest.raises(Unwrappable):
        unwrap({"k1": bytes(range(32))}, "k1", DEFAULT_SUITE.value, wrapped, CONTEXT)
    with pytest.raises(ValueError, match="32 bytes"):
        seal_key(PublicKey("k1", private.public_key().public_bytes_raw()), b"short", CONTEXT)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200))
def test_rubbish_never_opens(rubbish: bytes) -> None:
    with pytest.raises(Unwrappable):
        open_sealed(bytes(range(32)), rubbish, b"")


MOMENT = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)


def test_a_bundle_reads_as_it_was_written() -> None:
    item = BundleItem(UUID(int=5), "k", "ab", "m1", "p", bytes(32), {0: b"0" * 32, 11: b"1" * 32})
    ids = [UUID(int=number) for number in range(1, 5)]
    bundle = KeyBundle(
        ids[0], ids[1], ids[2], "cd", "acme", ids[3], "alice", "why", bytes(range(32)), b"t", b"s", (item,), MOMENT
    )
    assert KeyBundle.loads(bundle.dumps()) == bundle
    assert b"0" * 32 not in repr(bundle).encode(), "no key in a log"
    for bad in (b"", b"{}", b"[]", b"null", bundle.dumps()[:-1], bundle.dumps().replace(b"key bundle", b"another one")):
        with pytest.raises(ValueError):
            KeyBundle.loads(bad)


def test_faces_sort_in_the_canonical_form() -> None:
    assert sorted([FaceRef(UUID(int=2), 0), FaceRef(UUID(int=1), 9), FaceRef(UUID(int=1), 2)])[0].face == 2


# --- key files


@pytest.mark.parametrize(("kind", "create"), MAKERS)
def test_a_key_file_is_private_and_never_overwritten(tmp_path: Path, kind: keys.FileKind, create: object) -> None:
    path = tmp_path / "new" / "file.json"
    public = create(path)  # type: ignore[operator]
    assert path.stat().st_mode & 0o777 == 0o600
    loaded = keys.load(path, kind)
    assert loaded.public_json() == public
    assert all(key.secret().hex() not in repr(loaded) for key in loaded.keys)
    before = path.read_bytes()
    with pytest.raises(KeyFileExists):
        create(path)  # type: ignore[operator]
    assert path.read_bytes() == before
    assert [each.name for each in path.parent.iterdir()] == ["file.json"]
    keys.write_public(tmp_path / "public.json", public)
    shared = keys.load(tmp_path / "public.json", keys.FileKind.PUBLIC)
    with pytest.raises(KeyFileCorrupt):
        shared.keys[0].secret()


def test_a_key_file_of_another_kind_loose_or_missing(tmp_path: Path) -> None:
    path = tmp_path / "key.json"
    keys.create_keypair(path)
    with pytest.raises(KeyFileCorrupt, match="keypair"):
        keys.load(path, keys.FileKind.CUSTODY)
    with pytest.raises(KeyFileCorrupt):
        keys.load(path, keys.FileKind.KEYPAIR).of(keys.KeyType.ED25519)
    path.chmod(0o640)
    with pytest.raises(KeyFileLoose):
        keys.load(path, keys.FileKind.KEYPAIR)
    for absent in (tmp_path / "none.json", tmp_path, path / "below"):
        with pytest.raises(KeyFileMissing, match="refacex person new-key") as missing:
            keys.load(absent, keys.FileKind.KEYPAIR)
        assert missing.value.detail == str(absent)
        with pytest.raises(PublicKeyMissing, match="whoever holds the key") as missing:
            keys.load_verifier(absent)
        assert missing.value.detail == str(absent) and "new-key" not in str(missing.value)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_one_byte_off_is_seen(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "key.json"
    if not path.exists():
        keys.create_person_key(path)
    good = path.read_bytes()
    place = data.draw(st.integers(0, len(good) - 1))
    other = data.draw(st.integers(0, 255).filter(lambda byte: byte != good[place]))
    damaged = tmp_path / "damaged.json"
    damaged.write_bytes(good[:place] + bytes([other]) + good[place + 1 :])
    damaged.chmod(0o600)
    try:
        loaded = keys.load(damaged, keys.FileKind.PERSON)
    except KeyFileCorrupt:
        return
    # White space between the values is not part of them.
    assert loaded == keys.load(path, keys.FileKind.PERSON)


def test_a_secret_that_does_not_belong_to_its_public_half(tmp_path: Path) -> None:
    first, second = tmp_path / "1.json", tmp_path / "2.json"
    keys.create_keypair(first)
    keys.create_keypair(second)
    mixed = json.loads(first.read_text())
    mixed["keys"][0]["private"] = json.loads(second.read_text())["keys"][0]["private"]
    body = {name: value for name, value in mixed.items() if name != "checksum"}
    import rfc8785

    first.write_text(json.dumps(body | {"checksum": hashlib.sha256(rfc8785.dumps(body)).hexdigest()}))
    with pytest.raises(KeyFileCorrupt):
        keys.load(first, keys.FileKind.KEYPAIR)


# --- roster


def test_one_key_signs_for_one_person_however_it_is_written(tmp_path: Path) -> None:
    """The same passkey under another id, its point written short, or somebody's key file as another's passkey: one is no quorum."""
    path, phone = tmp_path / "roster.json", ec.generate_private_key(ec.SECP256R1()).public_key()
    assert key_of(spelt(phone)) == key_of(spelt(phone, compressed=True)) and spelt(phone) != spelt(
        phone, compressed=True
    )
    bob, carol = (Member(name, ("approver",)) for name in ("bob", "carol"))
    write_roster(path, [bob.on_roster(), replace(carol.on_roster(), passkeys=(Passkey("AAAA", spelt(phone)),))])
    before = path.read_bytes()
    of_bob = Ed25519PublicKey.from_public_bytes(bob.on_roster().ed25519_public)
    for other in (
        Passkey("AAAA", spelt(ec.generate_private_key(ec.SECP256R1()).public_key())),
        Passkey("BBBB", spelt(phone)),
        Passkey("BBBB", spelt(phone, compressed=True)),
        Passkey("BBBB", spelt(of_bob)),
    ):
        with pytest.raises(RosterKeyShared, match="two people with one"):
            add_person(path, replace(Member("dave", ("approver",)).on_roster(), passkeys=(other,)))
    for useless in (b"", bytes(3), spelt(rsa.generate_private_key(65537, 2048).public_key())):
        with pytest.raises(RosterInvalid, match="a passkey of dave"):
            add_person(path, replace(Member("dave", ("approver",)).on_roster(), passkeys=(Passkey("CCCC", useless),)))
    assert path.read_bytes() == before


def test_a_roster_keeps_people_apart(tmp_path: Path) -> None:
    path = tmp_path / "roster.json"
    alice, bob = Member("alice", ("requester",)), Member("bob", ("approver",))
    write_roster(path, [alice.on_roster()], least_quorum=3)
    add_person(path, bob.on_roster())
    roster = load_roster(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert (roster.least_quorum, set(roster.people)) == (3, {"alice", "bob"})
    assert roster.find("bob", "acme", "approver") == bob.on_roster()
    assert roster.find("bob", "acme", "requester") is None
    assert roster.find("bob", "another tenant", "approver") is None
    twin = Member("bob2", ("approver",), bob.signing, Member("x", ()).receiving)
    receiver = Member("bob3", ("requester",), Member("x", ()).signing, bob.receiving)
    for taken, same in ((bob, "one id"), (twin, "one key that signs"), (receiver, "one x25519_public")):
        with pytest.raises(RosterInvalid, match=same):
            add_person(path, taken.on_roster())
    with pytest.raises(RosterInvalid):
        write_roster(path, [], least_quorum=0)
    with pytest.raises(RosterMissing, match=r"none\.json"):
        load_roster(tmp_path / "none.json")
    with pytest.raises(RosterMissing):  # never made by the way: the custodian would read another one
        add_person(tmp_path / "none.json", alice.on_roster())


def test_what_is_wrong_with_a_roster_is_said_and_where(tmp_path: Path) -> None:
    path = tmp_path / "roster.json"
    write_roster(path, [Member("bob", ("approver",)).on_roster()])
    right = path.read_text()
    lacking = json.loads(right)
    del lacking["people"][0]["tenant"]
    pinned.write(tmp_path / "other.json", "refacex-policies", 1, {})
    pinned.write(tmp_path / "lacking.json", "refacex-roster", 1, {"least_quorum": 2, "people": lacking["people"]})
    for text, words in (
        ("{", "roster.json: it is no JSON at line 1, column 2"),
        ("[]", "roster.json: it is no JSON object"),
        (right.replace("bob", "eve"), "it is no refacex-roster of version 1, or its checksum is another"),
        ((tmp_path / "other.json").read_text(), "it is no refacex-roster of version 1"),
        ((tmp_path / "lacking.json").read_text(), "an entry lacks a part"),
    ):
        path.write_text(text)
        with pytest.raises(RosterInvalid, match=words):
            load_roster(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(RosterInvalid, match="Is a directory"):
        load_roster(path)


# --- ledger


def test_the_ledger_remembers_and_writes_once(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "ledger.json"
    ledger, request, item = Ledger.begin(path), uuid4(), uuid4()
    assert not ledger.spent(request)
    for _ in range(2):
        ledger.record_spent(request, uuid4(), uuid4())
        ledger.record_shredded([Portion(item, request, None, (1,))])
    assert Ledger(path).spent(request)
    assert Ledger(path).shredded(item, 1)
    assert not ledger.shredded(item, 0)
    assert len(path.read_text().splitlines()) == 3
    with pytest.raises(LedgerExists):
        Ledger.begin(path)
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_torn_last_line_is_taken_away_and_any_other_damage_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "ledger.json"
    ledger, requests = Ledger.begin(path), [uuid4() for _ in range(3)]
    for request in requests:
        ledger.record_spent(request, uuid4(), uuid4())
    good = path.read_bytes()
    path.write_bytes(good[:-20])
    assert [ledger.spent(request) for request in requests] == [True, True, False]
    ledger.record_spent(requests[2], uuid4(), uuid4())
    assert all(ledger.spent(request) for request in requests)
    lines = good.splitlines(keepends=True)
    again = good + lines[0].replace(b"0" * 64, hashlib.sha256(lines[3].rstrip()).hexdigest().encode())  # begun twice
    for damaged in (
        lines[1] + lines[2],
        lines[0] + lines[2],
        good.replace(b"spent", b"other", 1),
        again,
        b"{}\n",
        b"\xff\n",
    ):
        path.write_bytes(damaged)
        with pytest.raises(LedgerInvalid):
            ledger.spent(requests[0])
        with pytest.raises(LedgerInvalid):
            ledger.record_spent(uuid4(), uuid4(), uuid4())


def test_writers_of_the_ledger_side_by_side(tmp_path: Path) -> None:
    path, requests = tmp_path / "ledger.json", [uuid4() for _ in range(12)]
    Ledger.begin(path)
    threads = [
        threading.Thread(target=Ledger(path).record_spent, args=(request, uuid4(), uuid4())) for request in requests
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(Ledger(path).spent(request) for request in requests)
