"""Approvals by passkey: an authenticator in software, and everything about its answer that may be wrong."""
# ruff: noqa: S608  the statements are put together from this file's own words

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from schemas.requests import RequestTerms, decision_message
from schemas.states import Decision, RequestState
from tests.governance import World
from tests.workers.custody.test_custodian import forge, refused
from workers.custody.judge import Refusal, Signed, unsigned
from workers.custody.passkeys import Assertion, Passkey, RelyingParty, challenge, fault
from workers.custody.roster import load_roster, write_roster
from workers.recoveries import decisions
from workers.recoveries.errors import PasskeyRefused


def asserts(party: RelyingParty, passkey: Passkey, assertion: Assertion, signature: bytes, message: bytes) -> bool:
    return fault((passkey,), assertion, signature, message, party) is None


CONSOLE = RelyingParty("example.org", ("https://refacex.example.org",))
MESSAGE = b"refacex v2\napprove\n00\n"


@dataclass
class Authenticator:
    """What a phone or a security key does."""

    key: Any = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    @property
    def passkey(self) -> Passkey:
        public = self.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return Passkey("cHJpdmF0ZQ", public)

    def sign(self, message: bytes, **changes: Any) -> tuple[Assertion, bytes]:
        """An answer; `changes` are what is wrong with it."""
        client = {
            "type": changes.get("type", "webauthn.get"),
            "challenge": changes.get("challenge", challenge(message)),
            "origin": changes.get("origin", CONSOLE.origins[0]),
            "crossOrigin": changes.get("cross", False),
        }
        data = json.dumps(client).encode()
        party = hashlib.sha256(changes.get("party", CONSOLE.id).encode()).digest()
        seen = party + bytes([changes.get("flags", 0x05)]) + (7).to_bytes(4, "big")
        signed = seen + hashlib.sha256(data).digest()
        if isinstance(self.key, Ed25519PrivateKey):
            signature = self.key.sign(signed)
        else:
            signature = self.key.sign(signed, ec.ECDSA(hashes.SHA256()))
        return Assertion(changes.get("credential", self.passkey.id), seen, data), signature


def spelt(key: Any, compressed: bool = False) -> bytes:
    """A public key as a passkey's DER; a P-256 one with its point written long or short."""
    if not compressed:
        return bytes(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    point = key.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    algorithm = bytes.fromhex("301306072a8648ce3d020106082a8648ce3d030107")
    body = algorithm + b"\x03" + bytes([len(point) + 1]) + b"\x00" + point
    return b"\x30" + bytes([len(body)]) + body


MAKERS = [Authenticator, lambda: Authenticator(Ed25519PrivateKey.generate())]


@pytest.mark.parametrize("make", MAKERS)
def test_its_holders_answer_counts(make: Any) -> None:
    one = make()
    assertion, signature = one.sign(MESSAGE)
    assert asserts(CONSOLE, one.passkey, assertion, signature, MESSAGE)
    assert Assertion.of(assertion.as_json()) == assertion
    assert not asserts(CONSOLE, make().passkey, assertion, signature, MESSAGE), "another key"


def flipped(data: bytes) -> Iterator[bytes]:
    """`data` with one bit of one byte changed, for every byte; which bit goes round."""
    for place in range(len(data)):
        yield data[:place] + bytes([data[place] ^ 1 << place % 8]) + data[place + 1 :]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"type": "webauthn.create"}, "not of signing"),
        ({"challenge": challenge(b"refacex v2\ndeny\n00\n")}, "another challenge"),
        ({"challenge": None}, "another challenge"),
        ({"origin": "https://refacex.example.org.evil.net"}, "another page than https://refacex.example.org"),
        ({"cross": True}, "another page"),
        ({"party": "evil.net"}, "another domain than example.org"),
        ({"flags": 0x01}, "did not verify"),  # present alone
        ({"flags": 0x04}, "did not verify"),
        ({"credential": "another"}, "not added for them"),
    ],
)
def test_an_answer_to_anything_else_does_not(changes: dict[str, Any], why: str) -> None:
    """And whoever gave it is told why."""
    one = Authenticator()
    assertion, signature = one.sign(MESSAGE, **changes)
    assert why in str(fault([one.passkey], assertion, signature, MESSAGE, CONSOLE))


@pytest.mark.parametrize("make", MAKERS)
def test_no_byte_of_it_may_change(make: Any) -> None:
    one = make()
    assertion, signature = one.sign(MESSAGE)
    for data in flipped(assertion.authenticator_data):
        assert not asserts(CONSOLE, one.passkey, replace(assertion, authenticator_data=data), signature, MESSAGE)
    for data in flipped(assertion.client_data):
        assert not asserts(CONSOLE, one.passkey, replace(assertion, client_data=data), signature, MESSAGE)
    for changed in flipped(signature):
        assert not asserts(CONSOLE, one.passkey, assertion, changed, MESSAGE)
    spaced = assertion.client_data.replace(b", ", b",  ", 1)
    assert json.loads(spaced) == json.loads(assertion.client_data)
    assert not asserts(CONSOLE, one.passkey, replace(assertion, client_data=spaced), signature, MESSAGE), (
        "its bytes, not what they say"
    )
    assert not asserts(CONSOLE, one.passkey, replace(assertion, client_data=b"[]"), signature, MESSAGE)
    assert not asserts(CONSOLE, one.passkey, replace(assertion, authenticator_data=b""), signature, MESSAGE)
    assert not asserts(CONSOLE, one.passkey, assertion, signature[:-1], MESSAGE)
    assert not asserts(CONSOLE, replace(one.passkey, public=b"no key"), assertion, signature, MESSAGE)
    other = ec.generate_private_key(ec.SECP384R1())
    assertion, signature = Authenticator(other).sign(MESSAGE)
    assert not asserts(CONSOLE, Authenticator(other).passkey, assertion, signature, MESSAGE), (
        "a curve we did not agree on"
    )


def test_no_byte_of_a_signed_approval_may_change(world: World) -> None:
    """Each one at the judge, and one of them all the way."""
    terms, bob = world.request(), world.people["bob"]
    message, right = decision_message(Decision.APPROVE, terms.sha256()), bob.sign(terms)
    assert not unsigned(bob.on_roster(), None, Signed(right), message)
    for wrong in flipped(right):
        assert unsigned(bob.on_roster(), None, Signed(wrong), message)
    for said in flipped(message):
        assert unsigned(bob.on_roster(), None, Signed(right), said)
    world.approve(terms, "carol")
    forge(world, terms, "bob", right[:-1] + bytes([right[-1] ^ 1]))
    refused(world, terms.id, Refusal.FORGED)


def enrol(world: World, who: str, passkey: Passkey, party: RelyingParty | None = CONSOLE) -> None:
    """Puts a passkey on the custodian's roster and into the service."""
    people = [member.on_roster() for member in world.people.values()]
    found = [replace(each, passkeys=(passkey,)) if each.id == who else each for each in people]
    write_roster(world.roster, found, relying_party=party)
    in_the_database(world, who, passkey)


def in_the_database(world: World, who: str, passkey: Passkey) -> None:
    rows = json.dumps([{"id": passkey.id, "public": passkey.public.hex()}])
    world.owner("ALTER TABLE people DISABLE TRIGGER USER", f"UPDATE people SET passkeys = '{rows}' WHERE id = '{who}'")


def approve(world: World, terms: RequestTerms, who: str, one: Authenticator, said: Decision = Decision.APPROVE) -> Any:
    assertion, signature = one.sign(decision_message(said, terms.sha256()))
    with world.as_("gateway").begin() as session:
        return decisions.approve(session, terms.id, who, Signed(signature, assertion.as_json()), CONSOLE)


def test_a_key_file_and_a_passkey_reach_the_quorum_together(world: World) -> None:
    one = Authenticator()
    enrol(world, "carol", one.passkey)
    assert load_roster(world.roster).people["carol"].passkeys == (one.passkey,)
    terms = world.request()
    world.approve(terms, "bob")
    with pytest.raises(PasskeyRefused, match="not by that passkey"):
        approve(world, terms, "carol", Authenticator())
    with pytest.raises(PasskeyRefused, match="another challenge"):
        approve(world, terms, "carol", one, Decision.DENY)
    with pytest.raises(PasskeyRefused, match="was not added for them"):
        approve(world, world.request(), "dave", one)
    with world.as_("gateway")() as session, pytest.raises(PasskeyRefused, match="not an assertion"):
        decisions.approve(session, terms.id, "carol", Signed(b"", {"credential": "x"}), CONSOLE)
    assert approve(world, terms, "carol", one) is RequestState.APPROVED
    told = world.events()[-1]["fields"]["detail"]
    assertion = Assertion.of(told["assertion"])
    message = decision_message(Decision.APPROVE, terms.sha256())
    assert asserts(CONSOLE, one.passkey, assertion, bytes.fromhex(told["signature"]), message), "from the trail alone"
    assert world.custodian().open(terms.id).recovery is not None


def test_a_passkey_that_is_not_on_the_roster_does_not_count(world: World) -> None:
    """The database owner gives carol another passkey, or the roster names no console."""
    one, two = Authenticator(), Authenticator()
    for mine, party in ((two, CONSOLE), (one, None)):
        enrol(world, "carol", one.passkey, party)
        in_the_database(world, "carol", mine.passkey)
        terms = world.request()
        world.approve(terms, "bob")
        assert approve(world, terms, "carol", mine) is RequestState.APPROVED
        assert world.custodian().open(terms.id).refusal is Refusal.FORGED


def test_what_is_no_assertion_is_refused() -> None:
    good = Authenticator().sign(MESSAGE)[0].as_json()
    for bad in ({}, good | {"client_data": 7}, good | {"authenticator_data": "§"}):
        with pytest.raises(ValueError, match="not an assertion"):
            Assertion.of(bad)
    assert base64.urlsafe_b64decode(challenge(MESSAGE) + "=") == hashlib.sha256(MESSAGE).digest()
