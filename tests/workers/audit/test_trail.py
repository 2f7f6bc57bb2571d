"""The trail in a real database and a bucket under Object Lock: appending, anchoring, attacks that verify must see."""

from __future__ import annotations

import json
import threading
from datetime import timedelta
from typing import Any

import psycopg
import pytest
import rfc8785
from sqlalchemy import select, text, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from schemas.audit import EVENT_ROLES, AuditEvent, Role
from schemas.audit_tables import Event, Node, TreeHead
from tests.conftest import Database
from tests.governance import sessions
from tests.workers.audit.harness import TABLES, as_owner, disarm, rearm
from workers.audit import append, merkle
from workers.audit.errors import AuditFieldError, AuditFork
from workers.audit.heads import Anchors, HeadSigner
from workers.audit.notary import Notary
from workers.audit.store import StoredNodes, extend_nodes, trail_size
from workers.audit.verify import Problem, Verification, verify


def write(database: Database, count: int, actor: str = "alice") -> None:
    with sessions(database.url_for("gateway")).begin() as session:
        for number in range(count):
            append(session, AuditEvent.RELEASE_SUBMITTED, actor=actor, detail={"n": number})


def check(database: Database, anchors: Anchors, signer: HeadSigner) -> Verification:
    with sessions(database.url_for("gateway"))() as session:
        return verify(session, anchors, signer.verifier)


def test_an_event_is_canonical_json_with_the_roles_own_stamp(fresh: Database) -> None:
    factory = sessions(fresh.url_for("gateway"))
    detail = {"b": [1, None, True, {"z": 1, "a": {}}], "a": 'é "\\\n\x1f € \U0001f600', "x": 1.5, "big": 2**53 - 1}
    with factory.begin() as session:
        assert append(session, AuditEvent.RELEASE_SUBMITTED, actor="alice", release="r1", detail=detail) == 0
    with factory() as session:
        row = session.execute(select(Event)).scalar_one()
    fields = json.loads(row.canonical)
    assert rfc8785.dumps(fields) == row.canonical
    assert row.leaf == merkle.leaf_hash(row.canonical)
    assert fields["role"] == "refacex_gateway"
    assert fields["fields"] == {"actor": "alice", "release": "r1", "detail": detail | {"x": "1.5"}}


@pytest.mark.parametrize("bad", [b"bytes", float("nan"), "zero\x00byte", {"deep": object()}])
def test_what_the_trail_does_not_take(fresh: Database, bad: object) -> None:
    with sessions(fresh.url_for("gateway"))() as session, pytest.raises(AuditFieldError):
        append(session, AuditEvent.RELEASE_SUBMITTED, actor="alice", detail={"x": bad})


def test_an_event_needs_an_actor_and_small_integers(fresh: Database) -> None:
    for fields in ({}, {"actor": ""}, {"actor": "a", "detail": {"n": 2**53}}, {"actor": "a", "detail": {"ключ": 1}}):
        with sessions(fresh.url_for("gateway"))() as session, pytest.raises(DBAPIError):
            session.execute(
                text("SELECT audit.append('release:submitted', CAST(:f AS jsonb))"), {"f": json.dumps(fields)}
            )


@pytest.mark.parametrize("role", [role for role in Role if role is not Role.OWNER])
def test_each_role_writes_its_own_events_and_no_other(fresh: Database, role: Role) -> None:
    factory = sessions(fresh.url_for(role.value))
    for event, roles in EVENT_ROLES.items():
        if role in roles:
            with factory.begin() as session:
                append(session, event, actor="x")
        else:
            with factory() as session, pytest.raises(DBAPIError, match="may not write"):
                append(session, event, actor="x")


def test_a_rolled_back_change_leaves_no_event_and_no_gap(fresh: Database, anchors: Anchors, signer: HeadSigner) -> None:
    factory = sessions(fresh.url_for("gateway"))
    write(fresh, 1)
    with factory() as session:
        append(session, AuditEvent.RELEASE_SUBMITTED, actor="alice")
        session.rollback()
    write(fresh, 1)
    assert check(fresh, anchors, signer).events == 2
    assert check(fresh, anchors, signer).ok


def test_writers_side_by_side_leave_a_dense_sequence(fresh: Database, anchors: Anchors, signer: HeadSigner) -> None:
    threads = [threading.Thread(target=write, args=(fresh, 5, f"p{number}")) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    result = check(fresh, anchors, signer)
    assert (result.events, result.findings) == (20, [])


@pytest.mark.parametrize("table", ["events", "nodes", "tree_heads"])
@pytest.mark.parametrize(
    "statement", ["UPDATE audit.{} SET {} = {}", "DELETE FROM audit.{}", "TRUNCATE audit.{} CASCADE"]
)
def test_the_trail_is_append_only_even_for_its_owner(
    fresh: Database, notary: Notary, table: str, statement: str
) -> None:
    write(fresh, 3)
    notary.anchor()
    column = {"events": "role", "nodes": "hash", "tree_heads": "key_id"}[table]
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="append-only"):
        as_owner(fresh, statement.format(table, column, column))


@pytest.mark.parametrize("role", ["release", "custodian", "recovery", "relay", "notary", "gateway"])
def test_services_cannot_write_the_tables_themselves(fresh: Database, role: str) -> None:
    write(fresh, 1)
    statements = [
        "INSERT INTO audit.events SELECT seq + 1, at, role, event, canonical, leaf FROM audit.events",
        "UPDATE audit.events SET role = 'x'",
        "DELETE FROM audit.events",
        "TRUNCATE audit.events",
        "UPDATE audit.tail SET size = 0",
        "INSERT INTO audit.grants VALUES ('ticket:spent', 'refacex_release')",
        "ALTER TABLE audit.events DISABLE TRIGGER append_only",
    ]
    for statement in statements:
        with sessions(fresh.url_for(role))() as session, pytest.raises(DBAPIError) as caught:
            session.execute(text(statement))
        assert caught.value.orig.sqlstate == "42501", statement  # type: ignore[union-attr]


def test_heads_are_anchored_and_verify(fresh: Database, notary: Notary, anchors: Anchors, signer: HeadSigner) -> None:
    write(fresh, 5)
    first = notary.anchor()
    assert notary.anchor() is None, "its own event alone is no news"
    write(fresh, 8)
    second = notary.anchor()
    assert first is not None
    assert second is not None
    assert (first.size, second.size) == (5, 14)
    result = check(fresh, anchors, signer)
    assert (result.ok, result.events, result.heads, result.anchors, result.anchored_to) == (True, 15, 2, 2, 14)
    with sessions(fresh.url_for("gateway"))() as session:
        nodes = StoredNodes(session)
        proof = merkle.consistency_proof(5, 14, nodes)
        assert merkle.check_consistency(5, 14, first.root, second.root, proof)
        leaf = session.execute(select(Event.leaf).where(Event.seq == 7)).scalar_one()
        assert merkle.check_inclusion(leaf, 7, 14, merkle.inclusion_proof(7, 14, nodes), second.root)
        assert session.execute(select(Node).where(Node.level == 3)).scalar_one().position == 0


def test_a_proof_is_made_from_two_statements(fresh: Database, notary: Notary) -> None:
    """Whatever the proof: once read ahead, nothing more is asked of the database."""
    write(fresh, 21)
    notary.anchor()

    def read_ahead(session: Session, indexes: list[int], *sizes: int) -> StoredNodes:
        nodes = StoredNodes(session).prefetch(indexes, *sizes)
        nodes._session = None  # type: ignore[assignment]
        return nodes

    with sessions(fresh.url_for("gateway"))() as session:
        leaves = [bytes(leaf) for leaf in session.execute(select(Event.leaf).order_by(Event.seq)).scalars()]
        roots = [merkle.tree_root(leaves[:size]) for size in range(22)]
        for size in range(1, 22):
            for index in range(size):
                path = merkle.inclusion_proof(index, size, read_ahead(session, [index], size))
                assert merkle.check_inclusion(leaves[index], index, size, path, roots[size])
            for first in range(1, size + 1):
                proof = merkle.consistency_proof(first, size, read_ahead(session, [first - 1], first, size))
                assert merkle.check_consistency(first, size, roots[first], roots[size], proof)


def test_an_anchor_cannot_be_deleted_or_replaced(
    fresh: Database, notary: Notary, anchors: Anchors, s3_admin: Any
) -> None:
    from botocore.exceptions import ClientError

    write(fresh, 2)
    notary.anchor()
    (anchored,) = anchors.heads()
    (version,) = anchored.versions
    with pytest.raises(ClientError):
        s3_admin.delete_object(Bucket=anchors.bucket, Key=anchored.name, VersionId=version)


def test_a_notary_that_died_before_its_commit_goes_on(
    fresh: Database, notary: Notary, anchors: Anchors, signer: HeadSigner
) -> None:
    write(fresh, 3)
    with sessions(fresh.url_for("notary"))() as session:
        leaves = session.execute(select(Event.leaf).order_by(Event.seq)).scalars()
        anchors.put(signer.sign(3, merkle.tree_root(leaves)), timedelta(days=1))
    write(fresh, 2)
    head = notary.anchor()
    assert head is not None
    with sessions(fresh.url_for("notary"))() as session:
        assert list(session.execute(select(TreeHead.size).order_by(TreeHead.size)).scalars()) == [3, head.size]
        assert trail_size(session) == 7
    assert check(fresh, anchors, signer).ok


# The owner rewrites an event's bytes and works its leaf up again, so that the row fits together.
REWRITE = "UPDATE audit.events AS e SET canonical = c.b, leaf = sha256('\\x00'::bytea || c.b) FROM ({}) AS c WHERE e.seq = c.seq"
EDIT = REWRITE.format(
    "SELECT seq, convert_to(replace(convert_from(canonical, 'UTF8'), 'alice', 'mally'), 'UTF8') AS b "
    "FROM audit.events WHERE seq = 2"
)
REORDER = (
    REWRITE.format(
        "SELECT a.seq, convert_to(regexp_replace(convert_from(o.canonical, 'UTF8'), "
        "'\"seq\":[0-9]+', '\"seq\":' || a.seq), 'UTF8') AS b "
        "FROM audit.events a JOIN audit.events o ON o.seq = 3 - a.seq WHERE a.seq IN (1, 2)"
    ),
    "UPDATE audit.events SET at = (convert_from(canonical, 'UTF8')::json ->> 'at')::timestamptz WHERE seq IN (1, 2)",
)
# Room for a third event, and one that mallory submitted in it; every later one says its new number.
INSERT = (
    "UPDATE audit.events SET seq = seq + 1000 WHERE seq >= 3",
    "UPDATE audit.events SET seq = seq - 999 WHERE seq >= 1000",
    REWRITE.format(
        "SELECT seq, convert_to(regexp_replace(convert_from(canonical, 'UTF8'), '\"seq\":[0-9]+', '\"seq\":' || seq), 'UTF8') AS b "
        "FROM audit.events WHERE seq > 3"
    ),
    "INSERT INTO audit.events SELECT 3, at, role, event, b, sha256('\\x00'::bytea || b) FROM (SELECT *, convert_to(replace(replace("
    "convert_from(canonical, 'UTF8'), '\"seq\":2', '\"seq\":3'), 'alice', 'mally'), 'UTF8') AS b FROM audit.events WHERE seq = 2) AS e",
    "UPDATE audit.tail SET size = size + 1",
)
ATTACKS = {
    "edit": ([EDIT], {Problem.HISTORY_CHANGED}),
    "edit bytes only": (
        [
            "ALTER TABLE audit.events DROP CONSTRAINT events_check",
            "UPDATE audit.events SET canonical = '\\x7b7d' WHERE seq = 2",
        ],
        {Problem.EVENT_CHANGED, Problem.HISTORY_CHANGED},
    ),
    "edit a column": (
        ["UPDATE audit.events SET role = 'refacex_release' WHERE seq = 2"],
        {Problem.EVENT_CHANGED, Problem.ROLE},
    ),
    "delete in the middle": (["DELETE FROM audit.events WHERE seq = 2"], {Problem.GAP, Problem.EVENTS_LOST}),
    "cut off the end": (
        ["DELETE FROM audit.events WHERE seq >= 4", "UPDATE audit.tail SET size = 4"],
        {Problem.EVENTS_LOST},
    ),
    "delete all": (["DELETE FROM audit.events", "UPDATE audit.tail SET size = 0"], {Problem.EVENTS_LOST}),
    "reorder": (REORDER, {Problem.HISTORY_CHANGED}),
    "insert between": (INSERT, {Problem.HISTORY_CHANGED}),
}
REWRITTEN = {"edit": (EDIT,), "reorder": REORDER, "insert between": INSERT}


@pytest.mark.parametrize("attack", ATTACKS)
def test_verify_sees_what_the_owner_did(
    fresh: Database, notary: Notary, anchors: Anchors, signer: HeadSigner, attack: str
) -> None:
    write(fresh, 6)
    notary.anchor()
    assert check(fresh, anchors, signer).ok
    statements, expected = ATTACKS[attack]
    as_owner(fresh, disarm(), *statements, rearm())
    result = check(fresh, anchors, signer)
    assert expected <= {finding.problem for finding in result.findings}, result.findings


@pytest.mark.parametrize("attack", REWRITTEN)
def test_verify_sees_a_rewritten_tree(
    fresh: Database, notary: Notary, anchors: Anchors, signer: HeadSigner, attack: str
) -> None:
    """The owner changes the events, works the nodes up again and drops the heads: the bucket still knows."""
    write(fresh, 6)
    notary.anchor()
    drop = ["DELETE FROM audit.nodes", "DELETE FROM audit.tree_heads"]
    as_owner(fresh, *map(disarm, TABLES), *REWRITTEN[attack], *drop, *map(rearm, TABLES))
    assert {finding.problem for finding in check(fresh, anchors, signer).findings} == {Problem.HISTORY_CHANGED}
    forger = Notary(sessions(fresh.url_for("notary")), anchors, signer, timedelta(days=1))
    with pytest.raises(AuditFork):
        forger.anchor()


@pytest.mark.parametrize("attack", REWRITTEN)
def test_verify_sees_a_rewritten_tree_with_heads_of_its_own(
    fresh: Database, notary: Notary, anchors: Anchors, signer: HeadSigner, attack: str
) -> None:
    """The owner also makes the head's row again, which all fits together; only the notary's signature is not theirs to give."""
    write(fresh, 6)
    notary.anchor()
    as_owner(fresh, *map(disarm, TABLES), *REWRITTEN[attack], "DELETE FROM audit.nodes")
    with sessions(fresh.owner_url).begin() as session:
        head = HeadSigner(signer.key_id, bytes(32)).sign(6, extend_nodes(session, 0, 6).root())
        row = {"root": head.root, "at": head.at, "body": head.body, "signature": head.signature}
        session.execute(update(TreeHead).values(row))
    as_owner(fresh, *map(rearm, TABLES))
    found = {(finding.problem, finding.where) for finding in check(fresh, anchors, signer).findings}
    assert found == {(Problem.HISTORY_CHANGED, "head 6"), (Problem.HEAD_SIGNATURE, "head 6")}


def test_verify_sees_yesterdays_backup(fresh: Database, notary: Notary, anchors: Anchors, signer: HeadSigner) -> None:
    """Everything is taken back to an older, consistent state, heads and nodes included."""
    write(fresh, 4)
    notary.anchor()
    write(fresh, 6)
    notary.anchor()
    old = [
        "DELETE FROM audit.events WHERE seq >= 5",
        "DELETE FROM audit.nodes WHERE (position + 1) << level > 4",
        "DELETE FROM audit.tree_heads WHERE size > 4",
        "UPDATE audit.tail SET size = 5",
    ]
    as_owner(fresh, *map(disarm, TABLES), *old, *map(rearm, TABLES))
    result = check(fresh, anchors, signer)
    assert [finding.problem for finding in result.findings] == [Problem.EVENTS_LOST]
    restarted = Notary(sessions(fresh.url_for("notary")), anchors, signer, timedelta(days=1))
    with pytest.raises(AuditFork):
        restarted.anchor()


def test_verify_sees_a_changed_node_head_or_guard(
    fresh: Database, notary: Notary, anchors: Anchors, signer: HeadSigner
) -> None:
    write(fresh, 6)
    notary.anchor()
    as_owner(fresh, disarm("nodes"), "UPDATE audit.nodes SET hash = sha256('x') WHERE level = 1 AND position = 0")
    as_owner(fresh, disarm("tree_heads"), "UPDATE audit.tree_heads SET root = sha256('x')")
    as_owner(fresh, "INSERT INTO audit.grants VALUES ('ticket:spent', 'refacex_release')")
    found = {(finding.problem, finding.where) for finding in check(fresh, anchors, signer).findings}
    assert found == {
        (Problem.NODE, "node 1/0"),
        (Problem.HEAD, "head 6"),
        (Problem.GUARD, "trigger audit.nodes.append_only"),
        (Problem.GUARD, "trigger audit.tree_heads.append_only"),
        (Problem.GUARD, "audit.grants"),
    }


def test_another_key_or_a_forged_anchor_is_refused(
    fresh: Database, notary: Notary, anchors: Anchors, signer: HeadSigner
) -> None:
    write(fresh, 2)
    notary.anchor()
    other = HeadSigner(signer.key_id, bytes(32))
    problems = {finding.problem for finding in check(fresh, anchors, other).findings}
    assert problems == {Problem.HEAD_SIGNATURE, Problem.ANCHOR}
    anchors.put(other.sign(99, bytes(32)), timedelta(days=1))
    assert {finding.problem for finding in check(fresh, anchors, signer).findings} == {Problem.ANCHOR}
