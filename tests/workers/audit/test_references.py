"""Whoever owns the database has two subjects exchange their references, or hides one, for a minute: nobody is taken for another."""
# ruff: noqa: S608  the statements are put together from this file's own words

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID, uuid4

import psycopg
import pytest
from sqlalchemy import select

from schemas.states import OrderKind
from schemas.submissions import pseudonym_of
from schemas.tables import Item, Subject
from tests.governance import POLICY, REFERENCE, SUBJECT_SALT, World
from tests.workers.audit.harness import as_superuser
from tests.workers.audit.test_left_out import live, shown
from tests.workers.audit.test_names import silence
from tests.workers.audit.test_shredded import Verify, words
from tests.workers.audit.test_shredded import verify as verify
from tests.workers.audit.test_whose_keys import subject_of
from tests.workers.custody.lives import released
from tests.workers.custody.test_proof import done
from tests.workers.custody.test_proof import world as world
from workers.audit.verify import Problem
from workers.releases import service as releases
from workers.releases import subjects
from workers.releases.errors import SubjectAmbiguous, SubjectsChanged, SubjectUnknown
from workers.releases.sources import Source

OTHER = "its pseudonym was not made for the reference that it has"
UNSHOWN = "no image shows it"


@pytest.fixture
def anna(world: World) -> UUID:
    """Somebody else, whom an image of another release of the tenant shows."""
    return subject_of(released(world, "anna"))


def submitted(world: World, reference: str) -> UUID:
    with world.as_("gateway").begin() as session:
        sources = [Source("file:///a.png", "a.png", reference)]
        options = releases.ReleaseOptions(policy_name=POLICY)
        release = releases.submit(session, tenant="acme", actor="sam", name="s", sources=sources, options=options)
    with world.as_("gateway")() as session:
        pseudonym = session.execute(select(Item.subject_id).where(Item.release_id == release)).scalar_one()
    assert pseudonym is not None
    return pseudonym


def insert_subject(world: World, reference: str) -> None:
    """A subject as the service makes one."""
    made, salt = pseudonym_of("acme", reference, SUBJECT_SALT), SUBJECT_SALT.hex()
    columns, values = "id, tenant, reference, salt", f"'{made}', 'acme', '{reference}', '\\x{salt}'"
    as_superuser(world, f"INSERT INTO subjects ({columns}) VALUES ({values})")


def exchange(world: World, anna: UUID, *columns: str) -> None:
    """Anna and the world's own subject have each other's columns."""
    taken = ", ".join(f"{column} = o.{column}" for column in columns)
    as_superuser(
        world,
        "ALTER TABLE subjects DROP CONSTRAINT subjects_tenant_reference_key",
        f"UPDATE subjects AS s SET {taken} FROM subjects AS o WHERE s.id IN ('{anna}', '{world.subject}') AND o.id <> s.id",
        "ALTER TABLE subjects ADD UNIQUE (tenant, reference)",
    )


@pytest.mark.parametrize("columns", [("reference",), ("reference", "salt")])
def test_references_that_were_exchanged_deceive_nobody(
    world: World, verify: Verify, anna: UUID, columns: tuple[str, ...]
) -> None:
    """Neither the officer who looks one up, nor the submitter whose image would be another's."""
    exchange(world, anna, *columns)
    with world.as_("gateway")() as session:
        for look in (
            lambda: subjects.find(session, "acme", "anna"),
            lambda: subjects.named(session, "anna"),
            lambda: subjects.named(session, "nothing", anna),
            lambda: subjects.subjects(session, "acme", 9),
        ):
            with pytest.raises(SubjectsChanged):
                look()
    with pytest.raises(SubjectsChanged):
        submitted(world, "anna")
    assert words(verify()) == [(Problem.ROW, OTHER), (Problem.ROW, OTHER)]
    exchange(world, anna, *columns)
    assert words(verify()) == []
    with world.as_("gateway")() as session:
        assert subjects.find(session, "acme", "anna")[0] == anna


def hide_by_name(world: World, anna: UUID) -> str:
    return f"UPDATE subjects SET reference = 'somebody' WHERE id = '{anna}'"


def hide_as_older(world: World, anna: UUID) -> str:
    """As if she was of before pseudonyms said whose they are."""
    return f"UPDATE subjects SET reference = 'somebody', salt = NULL WHERE id = '{anna}'"


def hide_as_erased(world: World, anna: UUID) -> str:
    return f"UPDATE subjects SET reference = NULL, salt = NULL, erased_at = now() WHERE id = '{anna}'"


def hide_at_another_tenants(world: World, anna: UUID) -> str:
    return f"UPDATE subjects SET tenant = 'elsewhere' WHERE id = '{anna}'"


def hide_with_her_images(world: World, anna: UUID) -> str:
    return f"UPDATE items SET subject_id = '{world.subject}' WHERE subject_id = '{anna}'; DELETE FROM subjects WHERE id = '{anna}'"


@pytest.mark.parametrize(
    "hide", [hide_by_name, hide_as_older, hide_as_erased, hide_at_another_tenants, hide_with_her_images]
)
@pytest.mark.parametrize("shown_too", [False, True])
def test_nobody_is_put_in_the_place_of_another(
    world: World, verify: Verify, anna: UUID, hide: Callable[[World, UUID], str], shown_too: bool
) -> None:
    """Her row is out of sight, and another one of her name, made as it should be, stands there; with images of its own, if need be."""
    as_superuser(world, hide(world, anna))
    if shown_too:
        submitted(world, "anna")
    else:
        insert_subject(world, "anna")
    with world.as_("gateway")() as session:
        with pytest.raises(SubjectsChanged):
            subjects.find(session, "acme", "anna")
        with pytest.raises((SubjectsChanged, SubjectAmbiguous)):  # hers elsewhere, and this one: it could be either
            subjects.named(session, "anna")
    assert words(verify()) != []


def test_a_subject_that_no_image_shows_is_found(world: World, verify: Verify) -> None:
    insert_subject(world, "anna")
    assert words(verify()) == [(Problem.ROW, UNSHOWN)]


def test_a_pseudonym_says_whom_it_stands_for(world: World) -> None:
    one = pseudonym_of("acme", "anna", SUBJECT_SALT)
    assert one == UUID("a6002034-3e8e-81af-abc2-c54afdff9a8f")
    for tenant, reference, salt in (
        ("acne", "anna", SUBJECT_SALT),
        ("acme", "annb", SUBJECT_SALT),
        ("acme", "anna", SUBJECT_SALT[::-1]),
    ):
        assert pseudonym_of(tenant, reference, salt) != one
    with pytest.raises(psycopg.errors.CheckViolation, match="made from its tenant"):
        world.owner(f"INSERT INTO subjects (id, tenant, reference) VALUES ('{one}', 'acme', 'anna')")


def test_subjects_of_before_are_still_found_and_submitted(world: World, verify: Verify) -> None:
    """Their pseudonyms are random, and say nothing; where a release of before shows them, they are taken."""
    older = uuid4()
    as_superuser(
        world,
        f"INSERT INTO subjects (id, tenant, reference) VALUES ('{older}', 'acme', 'berta')",
        f"UPDATE items SET subject_id = '{older}' WHERE subject_id = '{world.subject}'",
    )
    silence(world, "pseudonyms", "qseudonyms")
    assert submitted(world, "berta") == older
    assert OTHER not in [found for _, found in words(verify())]
    silence(world, "qseudonyms", "pseudonyms")
    with pytest.raises(SubjectsChanged):
        submitted(world, "berta")
    assert OTHER in [found for _, found in words(verify())]


def test_a_subject_that_was_shredded_keeps_no_salt(world: World, verify: Verify) -> None:
    """And whoever is submitted under its reference afterwards is somebody new."""
    done(world, OrderKind.SHRED, shown(world))
    assert live(world) == 0
    with world.as_("gateway")() as session:
        row = session.get_one(Subject, world.subject)
        assert (row.reference, row.salt) == (None, None)
        with pytest.raises(SubjectUnknown):
            subjects.find(session, "acme", REFERENCE)
    assert submitted(world, REFERENCE) != world.subject
    with world.as_("gateway")() as session:
        assert [each.reference for each in subjects.subjects(session, "acme", 9)] == [REFERENCE, None]
    assert words(verify()) == []


def test_a_reference_goes_before_the_beginning_of_a_pseudonym(world: World, anna: UUID) -> None:
    """A word that could be either is refused; the gateway's command gives the pseudonym that begins so as `other`."""
    beginning = str(anna)[:8]
    submitted(world, beginning)
    with world.as_("gateway")() as session:
        with pytest.raises(SubjectAmbiguous):
            subjects.named(session, beginning, anna)
        known = subjects.named(session, str(anna), anna)
        assert known is not None and known.reference == "anna"
        assert subjects.named(session, "nobody") is None
