"""What a bucket's owner can do to anchors under Object Lock, with their own credentials: hide them, write over them. It is found, and
the head that the notary anchored counts.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from schemas.audit import AuditEvent
from tests.conftest import Database
from tests.governance import copied, sessions
from tests.workers.audit.harness import new_notary
from workers.audit import append
from workers.audit.errors import AuditFork
from workers.audit.forks import accept_fork, find_fork
from workers.audit.heads import Anchors, HeadInvalid, HeadSigner, anchor_bytes
from workers.audit.notary import Notary
from workers.audit.verify import Problem, Verification, verify


def write(database: Database, count: int) -> None:
    with sessions(database.url_for("gateway")).begin() as session:
        for _ in range(count):
            append(session, AuditEvent.RELEASE_SUBMITTED, actor="alice")


def check(database: Database, anchors: Anchors, signer: HeadSigner) -> Verification:
    with sessions(database.url_for("gateway"))() as session:
        return verify(session, anchors, signer.verifier)


def found(result: Verification) -> set[tuple[Problem, str]]:
    return {(each.problem, each.where) for each in result.findings}


def test_a_delete_marker_hides_no_head(
    fresh: Database, notary: Notary, anchors: Anchors, signer: HeadSigner, s3_admin: Any
) -> None:
    """Yesterday's database, and a marker over each head since: a listing shows nothing of them."""
    write(fresh, 4)
    notary.anchor()
    with copied(fresh) as backup:
        write(fresh, 2)
        notary.anchor()
        assert check(fresh, anchors, signer).ok
        hidden = anchors.name(7)
        s3_admin.delete_object(Bucket=anchors.bucket, Key=hidden)
        shown = s3_admin.list_objects_v2(Bucket=anchors.bucket, Prefix=anchors.prefix)["Contents"]
        assert [each["Key"] for each in shown] == [anchors.name(4)]
        assert found(check(backup, anchors, signer)) == {(Problem.EVENTS_LOST, "head 7"), (Problem.ANCHOR, hidden)}
        assert found(check(fresh, anchors, signer)) == {(Problem.ANCHOR, hidden)}
        with pytest.raises(AuditFork):
            new_notary(backup, anchors, signer).anchor()
        with sessions(backup.url_for("notary"))() as session:
            fork = find_fork(session, anchors, signer, by="root", reason="x")
        assert fork is not None
        assert [head.size for head in fork.lost] == [7]
    write(fresh, 1)
    assert new_notary(fresh, anchors, signer).anchor() is not None, "with its own database a notary goes on"


def test_what_is_written_over_a_head_does_not_count(
    fresh: Database, notary: Notary, anchors: Anchors, signer: HeadSigner, s3_admin: Any
) -> None:
    write(fresh, 4)
    first = notary.anchor()
    write(fresh, 2)
    second = notary.anchor()
    assert first is not None
    assert second is not None
    thief = HeadSigner(signer.key_id, bytes(32)).sign(7, bytes(32))
    over = [b"{}", anchor_bytes(first.body, first.signature), anchor_bytes(thief.body, thief.signature)]
    for number, content in enumerate(over, 2):
        s3_admin.put_object(Bucket=anchors.bucket, Key=anchors.name(7), Body=content)
        result = check(fresh, anchors, signer)
        assert found(result) == {(Problem.ANCHOR, anchors.name(7))}
        assert f"it has {number} versions" in result.findings[0].words
        assert result.anchored_to == 7
    assert anchors.read(anchors.find(anchors.name(7)), signer.verifier) == second
    write(fresh, 1)
    assert new_notary(fresh, anchors, signer).anchor() is not None


def test_the_oldest_version_that_the_notary_signed_counts(anchors: Anchors, signer: HeadSigner, s3_admin: Any) -> None:
    """Also where the bucket's owner was there before it, and where the notary's key signed twice."""
    s3_admin.put_object(Bucket=anchors.bucket, Key=anchors.name(3), Body=b"before")
    with pytest.raises(HeadInvalid):
        anchors.read(anchors.find(anchors.name(3)), signer.verifier)
    heads = [signer.sign(3, bytes([number]) * 32) for number in range(2)]
    for head in heads:
        content = anchor_bytes(head.body, head.signature)
        anchors.store.put(anchors.bucket, anchors.name(3), content, if_none_match=False)
    assert anchors.read(anchors.find(anchors.name(3)), signer.verifier) == heads[0]
    with pytest.raises(HeadInvalid, match="no version"):
        anchors.read(anchors.find(anchors.name(4)), signer.verifier)


def test_a_hidden_fork_is_still_told(
    fresh: Database, notary: Notary, anchors: Anchors, signer: HeadSigner, s3_admin: Any
) -> None:
    write(fresh, 4)
    notary.anchor()
    with copied(fresh) as backup:
        write(fresh, 2)
        notary.anchor()
        with sessions(backup.url_for("notary")).begin() as session:
            accept_fork(session, anchors, signer, by="root", reason="rehearsal", keep=timedelta(days=1))
        new_notary(backup, anchors, signer).anchor()
        assert check(backup, anchors, signer).ok
        s3_admin.delete_object(Bucket=anchors.bucket, Key=anchors.fork_name(1))
        result = check(backup, anchors, signer)
        assert found(result) == {(Problem.ANCHOR, anchors.fork_name(1))}
        assert "lost by the fork" in result.notes[0]
        write(backup, 1)
        head = new_notary(backup, anchors, signer).anchor()
        assert head is not None
        assert head.epoch == 1


def test_a_marker_where_nothing_was_is_found_and_stops_nobody(
    fresh: Database, notary: Notary, anchors: Anchors, signer: HeadSigner, s3_admin: Any
) -> None:
    s3_admin.delete_object(Bucket=anchors.bucket, Key=anchors.name(9))
    write(fresh, 2)
    assert notary.anchor() is not None
    result = check(fresh, anchors, signer)
    assert found(result) == {(Problem.ANCHOR, anchors.name(9))}
    assert result.anchored_to == 2
