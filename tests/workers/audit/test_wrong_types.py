"""Events that a stolen role fills with what it likes: each is named, and whatever else is wrong with its kind is found beside it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
from sqlalchemy import text

from schemas.audit import AuditEvent
from tests.governance import World, copied
from tests.workers.audit.harness import as_superuser, fetched, verified
from workers.audit import append
from workers.audit.heads import Anchors, HeadSigner
from workers.audit.verify import Problem


@dataclass(frozen=True)
class Bad:
    """Who writes it, what it says (besides ids that fit), and how it is named; what the owner changes meanwhile, and how that
    is; and where the first is told of, if not at the event.
    """

    role: str
    event: AuditEvent
    fields: dict[str, Any]
    words: str
    change: str
    beside: str
    place: str = "event"


SUBMITTED = "UPDATE releases SET submitted_by = 'mallory'", "submitted by somebody else"
QUORUM = "UPDATE recovery_requests SET quorum = 1", "its quorum is not the one"
FACES = "DELETE FROM recovered_faces WHERE face = 1", "another number of recovered faces"
SHREDDED = "UPDATE sealed_keys SET wrapped = NULL, state = 'shredded'", "shredded, and the trail does not say so"
UNFETCHED = "UPDATE recoveries SET state = 'recovered'", "the trail says otherwise of its fetching"
ROLES = "UPDATE people SET roles = '{key-officer}' WHERE id = 'bob'", "their roles are not those"
POLICY = "UPDATE policies SET body = '{}'", "it is not the policy that was set"
KEY = "INSERT INTO custody_keys (id, suite, created_at, rotating) VALUES ('k', 's', now(), true)"
BAD: dict[str, Bad] = {
    "items as words": Bad(
        "gateway", AuditEvent.RELEASE_SUBMITTED, {"detail": {"items": "two"}}, "its items is no integer", *SUBMITTED
    ),
    "items as a list": Bad(
        "gateway", AuditEvent.RELEASE_SUBMITTED, {"detail": {"items": [2]}}, "its items is no integer", *SUBMITTED
    ),
    "a quorum of nothing": Bad(
        "gateway", AuditEvent.REQUEST_OPENED, {"detail": {"quorum": ""}}, "its quorum is no integer", *QUORUM
    ),
    "a quorum too large": Bad(
        "gateway", AuditEvent.REQUEST_OPENED, {"detail": {"quorum": "9" * 40}}, "its quorum is no integer", *QUORUM
    ),
    "many faces": Bad(
        "recovery", AuditEvent.RECOVERY_RECOVERED, {"detail": {"faces": "many"}}, "its faces is no integer", *FACES
    ),
    "a recovery without detail": Bad(
        "recovery", AuditEvent.RECOVERY_RECOVERED, {"detail": "faces"}, "its detail is no object", *FACES
    ),
    "faces of no number": Bad(
        "custodian",
        AuditEvent.KEY_SHREDDED,
        {"detail": {"faces": [0, "x", {}]}},
        "its faces is no list of integers",
        *SHREDDED,
    ),
    "one face and no list": Bad(
        "custodian", AuditEvent.KEY_SHREDDED, {"detail": {"faces": 0}}, "its faces is no list of integers", *SHREDDED
    ),
    "perhaps the layout": Bad(
        "custodian",
        AuditEvent.KEY_SHREDDED,
        {"detail": {"layout": "perhaps"}},
        "its layout is no true or false",
        *SHREDDED,
    ),
    "an item of no id": Bad(
        "custodian",
        AuditEvent.KEY_SHREDDED,
        {"item": "all of them", "detail": {"faces": [1]}},
        "its row is gone",
        *SHREDDED,
        "key of face 1 of item all of them",
    ),
    "recoveries as words": Bad(
        "custodian",
        AuditEvent.KEY_SHREDDED,
        {"detail": {"recoveries": "all"}},
        "its recoveries is no list",
        *UNFETCHED,
    ),
    "a role and no list": Bad(
        "gateway",
        AuditEvent.PERSON_ADDED,
        {"subject": "mallory", "detail": {"roles": "approver"}},
        "its roles is no list",
        *ROLES,
    ),
    "a version of no number": Bad(
        "gateway",
        AuditEvent.POLICY_SET,
        {"detail": {"version": {"of": 1}}},
        "its version is no integer",
        *POLICY,
    ),
    "subjects as words": Bad(
        "gateway",
        AuditEvent.RELEASE_SUBMITTED,
        {"detail": {"subjects": "two"}},
        "its subjects is no integer",
        *SUBMITTED,
    ),
    "a key made soon": Bad(
        "custodian",
        AuditEvent.KEY_CREATED,
        {"detail": {"key": "k", "suite": "s", "created_at": "soon"}},
        "its suite or its beginning is not the one",
        KEY,
        "otherwise of the rotation to it",
        "custody key k",
    ),
    "keys wrapped again as words": Bad(
        "custodian",
        AuditEvent.KEY_REWRAPPED,
        {"detail": {"to": "k", "count": "all"}},
        "its count is no integer",
        KEY,
        "otherwise of the rotation to it",
    ),
    "a list for a detail": Bad(
        "gateway", AuditEvent.POLICY_SET, {"detail": ["version"]}, "its detail is no object", *POLICY
    ),
}


@pytest.fixture(scope="module")
def whole_life(_first_world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[World, dict[str, str]]]:
    with copied(_first_world.database) as fresh:
        world = _first_world.moved(fresh, tmp_path_factory.mktemp("life") / "custody")
        terms, recovery = fetched(world)
        ids = {"release": world.release, "item": world.items[0], "request": terms.id, "recovery": recovery}
        yield world, {name: str(value) for name, value in ids.items()}


@pytest.mark.parametrize("bad", BAD)
def test_an_event_of_a_wrong_type_hides_nothing(
    whole_life: tuple[World, dict[str, str]], anchors: Anchors, signer: HeadSigner, bad: str
) -> None:
    world, ids = whole_life
    one = BAD[bad]
    with copied(world.database) as fresh:
        stolen = replace(world, database=fresh)
        fields = json.dumps({"actor": "mallory"} | ids | one.fields)
        with stolen.as_(one.role).begin() as session:
            append_ = text("SELECT audit.append(:event, CAST(:fields AS jsonb))")
            seq = session.execute(append_, {"event": one.event.value, "fields": fields}).scalar_one()
        as_superuser(stolen, one.change)
        found = verified(fresh, anchors, signer).findings
    named = [each for each in found if one.words in each.words]
    assert named, found
    assert named[0].where == f"event {seq}" or named[0].where.startswith(one.place), found
    assert [each for each in found if one.beside in each.words and each.where != f"event {seq}"], found
    assert not [each for each in found if "could not be held" in each.words]


def test_a_policy_of_no_json_hides_no_other(world: World, anchors: Anchors, signer: HeadSigner) -> None:
    """Row and event agree, and what they agree on is not even text."""
    canonical = b"\xff\x00"
    sha256 = hashlib.sha256(canonical)
    row = (
        "INSERT INTO policies (tenant, name, version, body, canonical, canonical_sha256, set_by) "
        "VALUES ('acme', 'x', 1, '{}', :c, :s, 'root')"
    )
    with world.as_("gateway").begin() as session:
        session.execute(text(row), {"c": canonical, "s": sha256.digest()})
        detail = {"tenant": "acme", "name": "x", "version": 1, "sha256": sha256.hexdigest()}
        append(session, AuditEvent.POLICY_SET, actor="root", detail=detail)
    as_superuser(world, "UPDATE policies SET body = '{}' WHERE name <> 'x'")
    found = verified(world.database, anchors, signer).findings
    assert {(each.problem, each.where) for each in found} == {
        (Problem.ROW, "policy x version 1"),
        (Problem.ROW, "policy strict version 1"),
    }
