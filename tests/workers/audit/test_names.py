"""File names are what people go by: whoever owns the database exchanges two, and nobody is deceived without it being seen."""

# ruff: noqa: S608  the statements are put together from this file's own words

from __future__ import annotations

from dataclasses import replace

import pytest
from sqlalchemy.exc import IntegrityError

from schemas.requests import FaceRef, RequestTerms, request_message
from schemas.states import Decision, RecoveryState, RequestState
from tests.governance import World
from tests.workers.audit.harness import as_owner, as_superuser, disarm, rearm, verified
from tests.workers.custody.test_custodian import refused
from tests.workers.recoveries.test_recovery import recoverer
from workers.audit.heads import Anchors, HeadSigner
from workers.custody.judge import Refusal, Signed
from workers.recoveries import decisions, service
from workers.recoveries.errors import NamesChanged, RequestChanged

REQUEST = "its columns, faces or file names are not the terms that were signed"
RELEASE = "its file names are not those that were submitted"


def exchange(world: World) -> None:
    """The first image takes the name of the second, and the other way round."""
    world.names = world.names[::-1]
    for item, name in zip(world.items, world.names, strict=True):
        as_superuser(world, f"UPDATE items SET relative_name = '{name}' WHERE id = '{item}'")


def silence(world: World, word: str = "names_sha256", other: str = "xames_sha256") -> None:
    """The trail's word for the names goes: what the owner can hide from whoever reads the trail while it lasts."""
    said = f"replace(convert_from(canonical, 'UTF8'), '{word}', '{other}')"
    as_owner(
        world.database,
        disarm(),
        f"UPDATE audit.events SET canonical = convert_to({said}, 'UTF8'), leaf = sha256('\\x00'::bytea || convert_to({said}, 'UTF8')) "
        "WHERE event = 'release:submitted'",
        rearm(),
    )


def seen(world: World, anchors: Anchors, signer: HeadSigner) -> dict[str, str]:
    findings = verified(world.database, anchors, signer, None, world.custodian_keys()).findings
    return {each.where: each.words for each in findings}


def test_names_that_were_exchanged_are_neither_asked_for_nor_approved_nor_opened(world: World) -> None:
    asked, approved = world.request((1, 0)), world.approved()
    exchange(world)
    with pytest.raises(NamesChanged):
        world.request()
    with world.as_("gateway")() as session:
        shown = service.load_terms(session, asked.id)
        assert shown.names == {world.items[1]: "0.png"}
        with pytest.raises(NamesChanged):
            service.check_names(session, shown)
        with pytest.raises(RequestChanged):
            decisions.check_decider(session, shown, "bob", None)
    for terms in (asked, shown):  # nor is what is shown signed for what is asked
        with pytest.raises(RequestChanged):
            world.approve(terms, "bob")
    refused(world, approved.id, Refusal.CHANGED)


def test_what_was_shown_is_what_was_signed(world: World, anchors: Anchors, signer: HeadSigner) -> None:
    """Requester and approvers alike are shown the wrong names, the trail's word is out of the way, and all is put back after it."""
    exchange(world)
    silence(world)
    as_superuser(world, "UPDATE releases SET names_salt = NULL")
    terms = world.approved()
    assert terms.names == {world.items[0]: "1.png"}
    assert world.custodian().open(terms.id).recovery is not None
    exchange(world)
    silence(world, "xames_sha256", "names_sha256")
    found = seen(world, anchors, signer)
    assert found[f"request {terms.id}"] == REQUEST
    assert found[f"release {world.release}"] == RELEASE  # the salt is gone


def test_names_that_stay_exchanged_are_found(world: World, anchors: Anchors, signer: HeadSigner) -> None:
    assert seen(world, anchors, signer) == {}
    exchange(world)
    assert seen(world, anchors, signer) == {f"release {world.release}": RELEASE}
    exchange(world)
    assert seen(world, anchors, signer) == {}
    as_superuser(world, "UPDATE releases SET names_salt = sha256(names_salt)")
    assert seen(world, anchors, signer) == {f"release {world.release}": RELEASE}


def test_the_custodian_asks_the_trail_itself(world: World) -> None:
    """Whoever has the early answers out of the way, with signatures that are all in order, is refused there."""
    exchange(world)
    terms = world.smuggled(FaceRef(world.items[0], 0))
    assert terms.names == {world.items[0]: "1.png"}
    refused(world, terms.id, Refusal.NAMES)


def test_a_new_request_signs_names(world: World) -> None:
    """The database takes no other; and where its guard is off, the custodian refuses it."""
    with pytest.raises(IntegrityError, match="names included"):
        unnamed(world)
    world.owner("ALTER TABLE recovery_requests DISABLE TRIGGER guard_new")
    refused(world, unnamed(world).id, Refusal.NAMES)
    with world.as_("gateway")() as session, pytest.raises(NamesChanged):
        service.check_names(session, unnamed(world, approve=False))


def test_names_go_on_as_the_requester_signed_them(world: World) -> None:
    """A request that says it signs no names is another than was signed."""
    terms = world.approved()
    as_superuser(world, f"UPDATE recovery_requests SET signs_names = false WHERE id = '{terms.id}'")
    refused(world, terms.id, Refusal.CHANGED)


def test_a_request_of_before_is_opened_as_it_was_signed(world: World, anchors: Anchors, signer: HeadSigner) -> None:
    """A release that was submitted before the trail knew of names, and a request that signed ids alone."""
    older = replace(world, salt=None).another_release()
    world.owner("ALTER TABLE recovery_requests DISABLE TRIGGER guard_new")
    terms = unnamed(older)
    world.owner("ALTER TABLE recovery_requests ENABLE TRIGGER guard_new")
    assert terms.canonical().count(b'"v":2') == 1
    recovery = older.custodian().open(terms.id).recovery
    assert recovery is not None
    assert recoverer(older).recover(recovery) is RecoveryState.RECOVERED
    assert len(older.fetch(terms, recovery)) == 1
    newer = older.approved()
    assert newer.names == {older.items[0]: "0.png"}
    assert older.custodian().open(newer.id).recovery is not None
    assert seen(older, anchors, signer) == {}


def unnamed(world: World, *, approve: bool = True) -> RequestTerms:
    """What a program of before revision 0007 would have asked for: a request that signs ids alone."""
    terms = replace(world.draft(), names=None)
    signature = world.people["alice"].signing.sign(request_message(terms.sha256()))
    put = (
        service.open_request if world.salt is None else service._insert_request
    )  # the service itself takes it of old releases alone
    with world.as_("gateway").begin() as session:
        put(session, terms, signature)
    for who in ("bob", "carol") if approve else ():
        with world.as_("gateway").begin() as session:
            state = decisions.approve(session, terms.id, who, Signed(world.people[who].sign(terms, Decision.APPROVE)))
    assert not approve or state is RequestState.APPROVED
    return terms
