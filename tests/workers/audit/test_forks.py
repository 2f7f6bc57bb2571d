"""A restore from backup: found by verification and by the notary, accepted by the administrator alone, and remembered for ever."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest
import rfc8785
from sqlalchemy import select

from schemas.audit import AuditEvent
from schemas.tables import Alert
from tests.conftest import Database
from tests.governance import copied, sessions
from tests.workers.audit.harness import TABLES, as_owner, disarm, new_notary, rearm
from workers.audit import append
from workers.audit.errors import AuditFork, ForkUnfounded, ForkUnsigned
from workers.audit.forks import Fork, accept_fork
from workers.audit.heads import Anchors, HeadSigner
from workers.audit.notary import Notary
from workers.audit.verify import Problem, Verification, verify


def write(database: Database, count: int, actor: str = "alice") -> None:
    with sessions(database.url_for("gateway")).begin() as session:
        for number in range(count):
            append(session, AuditEvent.RELEASE_SUBMITTED, actor=actor, detail={"n": number})


def check(database: Database, anchors: Anchors, signer: HeadSigner) -> Verification:
    with sessions(database.url_for("gateway"))() as session:
        return verify(session, anchors, signer.verifier)


def accept(database: Database, anchors: Anchors, signer: HeadSigner, *, by: str = "root") -> Fork:
    with sessions(database.url_for("notary")).begin() as session:
        return accept_fork(session, anchors, signer, by=by, reason="disk-failure", keep=timedelta(days=1))


@pytest.fixture
def backup(fresh: Database, notary: Notary) -> Iterator[Database]:
    """A copy of the database from when it held 5 events; the service went on to 9, anchored at 4, 7 and 9."""
    write(fresh, 4)
    notary.anchor()
    with copied(fresh) as backup:
        write(fresh, 2)
        notary.anchor()
        write(fresh, 1)
        notary.anchor()
        yield backup


def problems(result: Verification) -> set[Problem]:
    return {finding.problem for finding in result.findings}


def test_a_restored_backup_goes_on_once_its_fork_is_accepted(
    backup: Database, anchors: Anchors, signer: HeadSigner
) -> None:
    assert problems(check(backup, anchors, signer)) == {Problem.EVENTS_LOST}
    with pytest.raises(AuditFork):
        new_notary(backup, anchors, signer).anchor()
    fork = accept(backup, anchors, signer)
    assert (fork.epoch, fork.size, fork.common_size, [head.size for head in fork.lost]) == (1, 5, 4, [7, 9])
    result = check(backup, anchors, signer)
    assert (result.findings, result.events, result.anchored_to) == ([], 6, 4)
    (note,) = result.notes
    assert "2 anchored heads (of 7 to 9 events) lost by the fork after event 3" in note
    assert "by root (disk-failure)" in note
    notary = new_notary(backup, anchors, signer)
    write(backup, 3)  # size 9 again, and other events than the lost head of 9
    head = notary.anchor()
    assert head is not None
    assert (head.size, head.epoch) == (9, 1)
    assert [anchors.place(each.name) for each in anchors.heads()] == [(0, 4), (0, 7), (0, 9), (1, 9)]
    result = check(backup, anchors, signer)
    assert (result.findings, result.anchored_to, result.notes) == ([], 9, [note])
    with sessions(backup.owner_url)() as session:
        alert = session.execute(select(Alert)).scalar_one()
        assert (alert.kind, alert.detail["by"], alert.detail["common"]) == ("trail_forked", "root", "4")
    with pytest.raises(ForkUnfounded):
        accept(backup, anchors, signer)


def test_a_restarted_notary_goes_on_with_the_new_branch(backup: Database, anchors: Anchors, signer: HeadSigner) -> None:
    accept(backup, anchors, signer)
    for size in (6, 8):
        write(backup, 1) if size > 6 else None
        head = new_notary(backup, anchors, signer).anchor()
        assert head is not None
        assert (head.size, head.epoch) == (size, 1)
    assert check(backup, anchors, signer).ok


def test_a_second_restore_to_before_the_first_fork(backup: Database, anchors: Anchors, signer: HeadSigner) -> None:
    with copied(backup) as older:
        accept(backup, anchors, signer)
        write(backup, 2)
        new_notary(backup, anchors, signer).anchor()
        assert check(backup, anchors, signer).ok
        write(older, 6)
        assert problems(check(older, anchors, signer)) >= {Problem.HISTORY_CHANGED, Problem.FORK}
        fork = accept(older, anchors, signer, by="admin")
        assert (fork.epoch, fork.common_size, [(head.epoch, head.size) for head in fork.lost]) == (2, 4, [(1, 8)])
        new_notary(older, anchors, signer).anchor()
        result = check(older, anchors, signer)
        assert result.findings == []
        assert [note.split(":")[0] for note in result.notes] == ["epoch 1", "epoch 2"]


def test_a_notary_that_kept_running_sees_the_restore_though_the_trail_has_grown(
    fresh: Database, notary: Notary, anchors: Anchors, signer: HeadSigner
) -> None:
    write(fresh, 4)
    notary.anchor()
    write(fresh, 2)
    notary.anchor()
    old = [
        "DELETE FROM audit.events WHERE seq >= 4",
        "DELETE FROM audit.nodes WHERE (position + 1) << level > 4",
        "DELETE FROM audit.tree_heads WHERE size > 4",
        "UPDATE audit.tail SET size = 4",
    ]
    as_owner(fresh, *map(disarm, TABLES), *old, *map(rearm, TABLES))
    write(fresh, 20, "mallory")
    with pytest.raises(AuditFork):
        notary.anchor()
    assert len(anchors.heads()) == 2


def test_a_crash_between_statement_and_event_is_made_up_for(
    backup: Database, anchors: Anchors, signer: HeadSigner
) -> None:
    with sessions(backup.url_for("notary"))() as session:
        accept_fork(session, anchors, signer, by="root", reason="disk-failure", keep=timedelta(days=1))
        session.rollback()
    result = check(backup, anchors, signer)
    assert (problems(result), len(result.findings)) == ({Problem.FORK}, 1)
    assert accept(backup, anchors, signer, by="other").by == "root"
    assert check(backup, anchors, signer).ok
    assert len(anchors.forks()) == 1


def test_no_fork_passes_without_the_notarys_key(backup: Database, anchors: Anchors, signer: HeadSigner) -> None:
    """With the notary's role, and even with its rights to the bucket, but another key."""
    thief = HeadSigner(signer.key_id, bytes(32))
    with sessions(backup.url_for("notary")).begin() as session:
        append(session, AuditEvent.TRAIL_FORKED, actor="root", detail={"epoch": 1, "sha256": "0" * 64})
    assert problems(check(backup, anchors, signer)) == {Problem.EVENTS_LOST, Problem.FORK}
    lost = [{"epoch": 0, "size": size, "root": "00" * 32} for size in (7, 9)]
    fields = {"v": 1, "what": "refacex trail fork", "epoch": 1, "size": 5, "common_size": 4, "common_root": "00" * 32}
    who = {"at": "2026-11-23T00:00:00+00:00", "by": "root", "reason": "x", "key": signer.key_id, "lost": lost}
    body = rfc8785.dumps(fields | who)  # type: ignore[arg-type]
    anchors.lock_away(anchors.fork_name(1), body, thief.sign_bytes(body), timedelta(days=1))
    found = check(backup, anchors, signer)
    assert problems(found) == {Problem.EVENTS_LOST, Problem.FORK}
    assert [finding for finding in found.findings if "statement of a fork does not verify" in finding.words]


def test_a_trail_that_was_changed_in_place_is_no_restored_backup(
    fresh: Database, notary: Notary, anchors: Anchors, signer: HeadSigner
) -> None:
    write(fresh, 6)
    notary.anchor()
    edit = (
        "UPDATE audit.events AS e SET canonical = c.b, leaf = sha256('\\x00'::bytea || c.b) FROM (SELECT seq, convert_to("
        "replace(convert_from(canonical, 'UTF8'), 'alice', 'mally'), 'UTF8') AS b FROM audit.events WHERE seq = 2) AS c WHERE e.seq = c.seq"
    )
    as_owner(fresh, disarm(), edit, rearm())
    with pytest.raises(AuditFork, match="heads up to 6 are recorded"):
        accept(fresh, anchors, signer)
    assert anchors.forks() == []


def test_a_head_of_the_old_branch_that_the_statement_does_not_name(
    backup: Database, fresh: Database, notary: Notary, anchors: Anchors, signer: HeadSigner
) -> None:
    """Somebody lets the lost database, too, go on: its notary signs over what was given up."""
    accept(backup, anchors, signer)
    write(fresh, 2)
    assert notary.anchor() is not None
    (found,) = check(backup, anchors, signer).findings
    assert (found.problem, "does not name it" in found.words) == (Problem.FORK, True)


def test_who_accepts_gives_an_id_and_a_code(backup: Database, anchors: Anchors, signer: HeadSigner) -> None:
    for by, reason in (("", "x"), ("root", "a sentence of free text"), ("Root", "x")):
        with sessions(backup.url_for("notary")).begin() as session, pytest.raises(ForkUnsigned):
            accept_fork(session, anchors, signer, by=by, reason=reason, keep=timedelta(days=1))
    with pytest.raises(ForkUnfounded), sessions(backup.url_for("notary")).begin() as session:
        empty = Anchors(anchors.store, anchors.bucket, f"{anchors.prefix}empty/")
        accept_fork(session, empty, signer, by="root", reason="x", keep=timedelta(days=1))
