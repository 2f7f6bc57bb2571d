"""What else the trail tells of a life, held against the tables: broken glasses and their reviews, erased subjects, reports, exports."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Buckets
from tests.governance import World, copied
from tests.workers.audit.harness import as_superuser, verified
from tests.workers.audit.lives import broken_glass, whole_life
from workers.audit.heads import Anchors, HeadSigner
from workers.audit.verify import Problem
from workers.custody.roster import load_roster

# What a database owner does behind the trail's back: where it is reported, and a part of the words.
ATTACKS: dict[str, tuple[str, str, str]] = {
    "delete a review": ("DELETE FROM reviews", "review", "review:opened, and no row says so"),
    "open a review again": (
        "UPDATE reviews SET closed_at = NULL, closed_by = NULL, conclusion = NULL, signature = NULL",
        "review",
        "review:closed, and no row says so",
    ),
    "replace a conclusion": ("UPDATE reviews SET conclusion = 'all well'", "review", "with another conclusion"),
    "replace who reviewed": ("UPDATE reviews SET closed_by = 'dave'", "review", "closed by somebody else"),
    "replace a review's signature": (
        "UPDATE reviews SET signature = sha256('x') || sha256('y')",
        "review",
        "signature is not the one in the trail",
    ),
    "un-erase a subject": (
        "UPDATE subjects SET reference = 'anna ' || id, erased_at = NULL WHERE erased_at IS NOT NULL",
        "subject",
        "subject:erased, and nobody",
    ),
    "erase a subject by hand": (
        "INSERT INTO subjects (id, tenant, erased_at) VALUES (gen_random_uuid(), 'acme', now())",
        "subject",
        "erased, and the trail does not say so",
    ),
    "change a report": (
        "UPDATE releases SET report_sha256 = repeat('0', 64) WHERE report_sha256 IS NOT NULL",
        "release",
        "another hash of its report",
    ),
    "take a report off": ("UPDATE releases SET report_sha256 = NULL", "event", "release:reported, and no report"),
    "report by hand": (
        "UPDATE releases SET report_sha256 = repeat('0', 64) WHERE report_sha256 IS NULL",
        "release",
        "has a report, and the trail does not say so",
    ),
    "export by hand": (
        "INSERT INTO exports (id, state, object_prefix) VALUES (gen_random_uuid(), 'done', 'x/')",
        "export",
        "no export:finished of it",
    ),
    "take an export back": ("UPDATE exports SET state = 'failed'", "event", "no such export is done"),
    "swap an export's files": (
        'UPDATE exports SET manifest = replace(manifest::text, \'"sha256": "\', \'"sha256": "0\')::jsonb',
        "export",
        "not those that were exported",
    ),
    "delete an export": ("DELETE FROM exports", "event", "no such export is done"),
}


@pytest.fixture(scope="module")
def _lived(_first_world: World, buckets: Buckets, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with copied(_first_world.database) as fresh:
        world = _first_world.moved(fresh, tmp_path_factory.mktemp("lived") / "custody")
        whole_life(world, buckets)
        yield world


@pytest.fixture
def lived(_lived: World, tmp_path: Path) -> Iterator[World]:
    with copied(_lived.database) as fresh:
        yield _lived.moved(fresh, tmp_path / "custody")


def test_a_life_with_all_of_it_agrees_with_its_trail(lived: World, anchors: Anchors, signer: HeadSigner) -> None:
    """A review that is still open as well, and a close by hand of it."""
    result = verified(lived.database, anchors, signer, load_roster(lived.roster), lived.custodian_keys())
    assert (result.findings, result.notes) == ([], [])
    broken_glass(lived, (0, 1))
    assert verified(lived.database, anchors, signer).findings == []
    as_superuser(
        lived,
        "UPDATE reviews SET closed_at = now(), closed_by = 'olga', conclusion = 'x', signature = sha256('x') || sha256('y') "
        "WHERE closed_at IS NULL",
    )
    (found,) = verified(lived.database, anchors, signer).findings
    assert (found.where.split()[0], found.words) == ("review", "the trail has no review:closed of it")


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_change_to_what_else_the_trail_tells_is_found(
    lived: World, anchors: Anchors, signer: HeadSigner, attack: str
) -> None:
    statement, where, words = ATTACKS[attack]
    as_superuser(lived, statement)
    found = verified(lived.database, anchors, signer).findings
    assert [each for each in found if words in each.words], found
    assert {(each.problem, each.where.split()[0]) for each in found} == {(Problem.ROW, where)}, found
