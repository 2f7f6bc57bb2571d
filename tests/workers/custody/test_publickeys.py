"""Public keys that are nobody's: under them anybody signs, and to them anybody's seal opens. None is taken, and nothing verifies."""

from __future__ import annotations

import base64
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from tests.governance import Member
from tests.workers.audit import independent_checker
from tests.workers.custody.test_passkeys import CONSOLE, Authenticator, spelt
from workers.custody import pinned
from workers.custody.errors import RosterKeyUnusable
from workers.custody.judge import verifies
from workers.custody.passkeys import Passkey, fault, key_of
from workers.custody.publickeys import KeyOfNobody, usable_ed25519, usable_x25519
from workers.custody.roster import RosterPerson, add_person, load_roster, remove_person, write_roster

P = 2**255 - 19
Y8 = int.from_bytes(bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"), "little")
# The eight points; the other sign of those that have none; and second spellings of y = 0 and 1.
NOBODYS = [(y | sign << 255).to_bytes(32, "little") for y in (0, 1, P - 1, Y8, P - Y8, P, P + 1) for sign in (0, 1)]
U8 = (1 + Y8) * pow(1 - Y8, -1, P) % P
OPEN_TO_ALL = [u.to_bytes(32, "little") for u in (0, 1, P - 1, U8, pow(U8, -1, P), P, P + 1)]
CONSTANT = (1).to_bytes(32, "little") + bytes(32)  # R is the neutral element and S is 0: made without any secret


def openssl_takes(public: bytes, message: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(CONSTANT, message)
    except InvalidSignature:
        return False
    return True


@pytest.mark.parametrize("public", NOBODYS, ids=bytes.hex)
def test_under_a_key_of_small_order_nothing_verifies(public: bytes) -> None:
    taken = [message for message in (bytes([number]) for number in range(256)) if openssl_takes(public, message)]
    assert taken, "without this check a constant is a signature"
    assert not usable_ed25519(public) and not independent_checker.needs_a_secret(public)
    assert not verifies(public, CONSTANT, taken[0]) and not independent_checker.signed_by(public, CONSTANT, taken[0])
    with pytest.raises(KeyOfNobody, match="anybody may sign"):
        key_of(spelt(Ed25519PublicKey.from_public_bytes(public)))


def test_a_passkey_of_nobodys_answers_nothing() -> None:
    one = Authenticator()
    assertion, _ = one.sign(b"a message")
    neutral = Passkey(
        one.passkey.id, spelt(Ed25519PublicKey.from_public_bytes(NOBODYS[2]))
    )  # every message has one signature
    assert fault([neutral], assertion, CONSTANT, b"a message", CONSOLE) == "its signature is not by that passkey"


@pytest.mark.parametrize("public", OPEN_TO_ALL, ids=bytes.hex)
def test_what_is_sealed_to_a_key_of_small_order_is_sealed_with_nothing(public: bytes) -> None:
    with pytest.raises(ValueError, match="computing shared key"):
        X25519PrivateKey.generate().exchange(X25519PublicKey.from_public_bytes(public))
    assert not usable_x25519(public)


@given(seed=st.binary(min_size=32, max_size=32), length=st.integers(0, 40))
def test_every_key_that_was_made_is_usable_and_no_other_length(seed: bytes, length: int) -> None:
    signing = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
    receiving = X25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
    assert usable_ed25519(signing) and usable_x25519(receiving) and independent_checker.needs_a_secret(signing)
    if length != 32:
        assert not usable_ed25519((signing * 2)[:length]) and not usable_x25519((receiving * 2)[:length])


@given(
    public=st.binary(min_size=32, max_size=32) | st.integers(P - 40, 2**255 - 1).map(lambda y: y.to_bytes(32, "little"))
)
def test_both_checkers_draw_the_line_in_one_place(public: bytes) -> None:
    assert usable_ed25519(public) is independent_checker.needs_a_secret(public)


def cases() -> list[RosterPerson]:
    """Somebody new, with each key that they may bring being nobody's."""
    dave = Member("dave", ("approver",)).on_roster()
    passkey = Passkey("AAAA", spelt(Ed25519PublicKey.from_public_bytes(NOBODYS[2])))
    return [
        *(replace(dave, ed25519_public=public) for public in (*NOBODYS, bytes(31))),
        *(replace(dave, x25519_public=public) for public in (*OPEN_TO_ALL, bytes(31))),
        replace(dave, passkeys=(passkey,)),
    ]


def test_nobody_is_on_the_roster_with_such_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither added nor read: one spelt in two ways would be two people."""
    path = tmp_path / "roster.json"
    write_roster(path, [Member("bob", ("approver",)).on_roster()])
    before = path.read_bytes()
    for person in cases():
        with pytest.raises(RosterKeyUnusable, match="dave"):
            add_person(path, person)
    assert path.read_bytes() == before
    with monkeypatch.context() as patched:  # as an earlier version wrote it
        patched.setattr("workers.custody.roster.unusable_key", lambda person: None)
        add_person(path, cases()[0])
    assert "dave" in str(pinned.read(path, "refacex-roster", 1)[0]["people"])
    with pytest.raises(RosterKeyUnusable, match="dave would sign"):
        load_roster(path)


def test_who_is_on_an_older_roster_with_such_a_key_can_be_taken_off(tmp_path: Path) -> None:
    """The custodian goes by none of it until then."""
    path, bob, mal = tmp_path / "roster.json", Member("bob", ("approver",)), Member("mal", ("approver",))
    write_roster(path, [bob.on_roster(), mal.on_roster()])
    body, _ = pinned.read(path, "refacex-roster", 1)
    body["people"][1]["ed25519_public"] = base64.b64encode(NOBODYS[2]).decode()
    pinned.write(path, "refacex-roster", 1, {name: body[name] for name in ("least_quorum", "people", "webauthn")})
    with pytest.raises(RosterKeyUnusable):
        load_roster(path)
    with pytest.raises(RosterKeyUnusable):
        remove_person(path, "bob")
    assert remove_person(path, "mal")
    assert list(load_roster(path).people) == ["bob"]
