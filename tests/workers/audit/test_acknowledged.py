"""A lie in the trail that nobody can take away: an auditor acknowledges it, verification lists it for ever, and nothing else hides."""
# ruff: noqa: S608  the statements are put together from this file's own words

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import func, select, text

from schemas.administration import add_message
from schemas.audit import AuditEvent
from schemas.audit_tables import Event
from schemas.requests import signed_message
from schemas.states import OrderKind, OrderScope
from schemas.tables import Item
from tests.governance import POLICY, Member, World, copied
from tests.governance import _release_item as release_item
from tests.workers.audit.harness import as_superuser, fetched, new_notary, write
from tests.workers.custody.test_proof import done
from workers.audit import append, crosscheck
from workers.audit import verify as verify_module
from workers.audit.acknowledged import fault_of, may_be_acknowledged, settle
from workers.audit.acknowledging import (
    FindingAcknowledged,
    FindingAmbiguous,
    FindingStays,
    FindingUnknown,
    NotAuditor,
    NotTheirSignature,
    ReasonNoCode,
    TookPart,
    acknowledge,
    acknowledge_message,
    find,
)
from workers.audit.findings import Finding, Problem, Verification
from workers.audit.heads import Anchors, HeadSigner
from workers.audit.ledgered import check_ledger
from workers.audit.verify import verify
from workers.custody.holds import Target
from workers.custody.roster import Roster, load_roster
from workers.recoveries import people
from workers.releases import service as releases
from workers.releases.sources import Source

CODE = "stolen-worker-role"
#: Of acme, besides olga: another auditor, one who also approves, one who left. And an auditor of another tenant.
AUDITORS = {"otto": "acme", "ada": "acme", "leo": "acme", "aud2": "beta"}


@dataclass
class Trail:
    """The world's trail, and what verification says of it."""

    world: World
    anchors: Anchors
    signer: HeadSigner

    def verified(self, roster: Roster | None = None) -> Verification:
        """As `refacex audit verify`, with the custodian's key."""
        with self.world.as_("gateway")() as session:
            result = verify(session, self.anchors, self.signer.verifier)
            crosscheck.crosscheck(session, result, roster, self.world.custodian_keys())
            settle(session, result, roster)
        return result

    def only(self) -> Finding:
        """The one finding that is open."""
        (finding,) = self.verified().findings
        return finding

    def lie(self, item: int = 0, **fields: Any) -> Finding:
        """With a stolen worker's role: an item that is done ends a second time. Its finding."""
        about = {"release": self.world.release, "item": self.world.items[item]} | fields
        with self.world.as_("release").begin() as session:
            seq = append(session, AuditEvent.ITEM_HELD, actor="release-worker", **about)
        (finding,) = (each for each in self.verified().findings if each.where == f"event {seq}")
        return finding

    def acknowledge(self, finding: Finding, who: str = "olga", *, key: str | None = None, reason: str = CODE) -> int:
        """As `refacex audit acknowledge`."""
        signature = self.world.people[key or who].signing.sign(acknowledge_message(finding, reason))
        with self.world.as_("gateway").begin() as session:
            return acknowledge(session, finding, who, reason, signature)

    def forge(self, finding: Finding, who: str = "olga", key: str | None = None, **changes: Any) -> int:
        """With a stolen gateway's role, which asks nobody."""
        signature = self.world.people[key or who].signing.sign(acknowledge_message(finding, CODE)).hex()
        detail = {"signature": signature, "reason": CODE} | changes.pop("detail", {})
        detail = {name: value for name, value in detail.items() if value is not None}
        fields = {"actor": who, "request_hash": finding.sha256(), "detail": detail} | changes
        with self.world.as_("gateway").begin() as session:
            return append(session, AuditEvent.FINDING_ACKNOWLEDGED, **fields)


@pytest.fixture
def trail(world: World, anchors: Anchors, signer: HeadSigner, monkeypatch: pytest.MonkeyPatch) -> Trail:
    monkeypatch.setattr(
        verify_module, "MOST_UNANCHORED", timedelta(hours=1)
    )  # the first world is older, by the end of this file
    world.people = dict(world.people)
    for who, tenant in AUDITORS.items():
        world.people[who] = Member(who, ("auditor", "approver") if who == "ada" else ("auditor",))
        with world.as_("gateway").begin() as session:
            people.add(session, world.people[who].on_roster(tenant), "root")
    with world.as_("gateway").begin() as session:
        people.remove(session, "leo", "root")
    return Trail(world, anchors, signer)


def test_a_lie_that_nobody_can_take_away_is_acknowledged_and_told_for_ever(trail: Trail) -> None:
    finding = trail.lie()
    assert (finding.problem, finding.words) == (Problem.ROW, "item:held, and it is not so")
    assert trail.only() == finding
    trail.acknowledge(finding)
    new_notary(trail.world.database, trail.anchors, trail.signer).anchor()
    for _ in range(2):
        result = trail.verified()
        assert (result.ok, result.findings, result.signatures) == (True, [], 1)
        ((told, (by,)),) = [(each.finding, each.by) for each in result.acknowledged]
        assert told == finding
        assert (by.who, by.tenant, by.reason) == ("olga", "acme", CODE)
        assert datetime.fromisoformat(by.at) == trail.world.one(select(Event.at).where(Event.seq == by.seq))
        assert result.notes == ["that who acknowledged findings is an auditor, the trail alone says: see --roster"]
    again = trail.lie()
    result = trail.verified()
    assert (result.findings, [each.finding for each in result.acknowledged]) == ([again], [finding])


def test_a_findings_id_is_the_hash_of_what_it_says() -> None:
    said = {"problem": "row", "v": 1, "what": "refacex finding", "where": "event 7", "words": "ä"}
    canonical = json.dumps(said, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    finding = Finding(Problem.ROW, "event 7", "ä")
    assert finding.sha256() == hashlib.sha256(canonical.encode()).digest()
    canonical = json.dumps(said | {"seen": "ab"}, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert replace(finding, seen="ab").sha256() == hashlib.sha256(canonical.encode()).digest()
    others = [("event 8", "ä", ""), ("event 7", "a", ""), ("event 7", "ä", "00"), ("event 7", "\ud800", "")]
    ids = {Finding(Problem.ROW, *each).sha256() for each in others} | {
        Finding(Problem.SIGNATURE, "event 7", "ä").sha256()
    }
    assert len(ids - {finding.sha256()}) == 5


def test_a_row_that_was_changed_is_put_right_and_not_acknowledged(trail: Trail) -> None:
    """Else it would be used as it is, and could be changed so again behind what somebody acknowledged."""
    change = f"UPDATE releases SET submitted_by = '{{}}' WHERE id = '{trail.world.release}'"
    for _ in range(2):
        as_superuser(trail.world, change.format("zed"))
        finding = trail.verified().findings[0]
        assert finding.where == f"release {trail.world.release}"
        with pytest.raises(FindingStays):
            trail.acknowledge(finding)
        seq = trail.forge(finding)
        result = trail.verified()
        assert (result.acknowledged, finding in result.findings) == ([], True)
        as_superuser(trail.world, change.format("sam"))
        assert trail.verified().ok, "what is not found is a note"
        assert [each for each in trail.verified().notes if each.startswith(f"event {seq}:")]


def test_each_thing_that_is_wrong_with_a_row_is_told(trail: Trail) -> None:
    """What is mended of it, or acknowledged, hides nothing else."""
    world = trail.world
    as_superuser(
        world,
        f"UPDATE releases SET submitted_by = 'zed' WHERE id = '{world.release}'",
        f"UPDATE items SET relative_name = 'other.png', subject_id = NULL WHERE id = '{world.items[0]}'",
    )
    words = {each.words for each in trail.verified().findings if each.where == f"release {world.release}"}
    assert words >= {
        "submitted by somebody else than the trail says",
        "its file names are not those that were submitted",
        "its images show other subjects than the trail says",
    }


#: What a stolen role writes once: the role, the event, and what it says besides the release.
LIES: dict[str, tuple[str, AuditEvent, dict[str, Any]]] = {
    "a denial": ("gateway", AuditEvent.REQUEST_DENIED, {"request": "", "request_hash": ""}),
    "an expiry": ("relay", AuditEvent.REQUEST_EXPIRED, {"request": ""}),
    "the policy again": (
        "gateway",
        AuditEvent.POLICY_SET,
        {"detail": {"tenant": "acme", "name": "strict", "version": 1, "sha256": "00" * 32}},
    ),
    "the release again": ("gateway", AuditEvent.RELEASE_SUBMITTED, {"detail": {"items": 9, "names_sha256": "00"}}),
    "an item again": ("release", AuditEvent.ITEM_RELEASED, {"item": "", "detail": {"sha256": "00" * 32}}),
    "another end of an item": ("release", AuditEvent.ITEM_QUARANTINED, {"item": ""}),
    "a person again": ("gateway", AuditEvent.PERSON_ADDED, {"subject": "bob", "detail": {"tenant": "acme"}}),
    "a removal": ("gateway", AuditEvent.PERSON_REMOVED, {"subject": "bob"}),
    "a shredded key": ("custodian", AuditEvent.KEY_SHREDDED, {"item": "", "detail": {"faces": [0], "layout": False}}),
    "a shredded key of no item": ("custodian", AuditEvent.KEY_SHREDDED, {"detail": {"faces": [0], "layout": True}}),
    "an order carried out": (
        "custodian",
        AuditEvent.ORDER_DONE,
        {"request_hash": "00" * 32, "detail": {"kind": "hold"}},
    ),
    "a ledger": ("custodian", AuditEvent.LEDGER_BEGUN, {"detail": {"ledger": "another"}}),
    "a ticket": ("custodian", AuditEvent.TICKET_SPENT, {"request": "", "ticket": "none"}),
    "a rotation": ("custodian", AuditEvent.KEY_REWRAPPED, {"detail": {"to": "k", "count": 7}}),
    "about an auditor": ("release", AuditEvent.ITEM_HELD, {"item": "", "subject": "olga", "actor": "olga"}),
    "of no tenant": ("release", AuditEvent.ITEM_HELD, {"item": "", "detail": {"tenant": {"x": [1]}}}),
    "of a tenant of nobody's": ("release", AuditEvent.ITEM_HELD, {"item": "", "detail": {"tenant": "nowhere"}}),
}


@pytest.mark.parametrize("lie", LIES)
def test_whatever_one_event_says_it_can_be_acknowledged(trail: Trail, lie: str) -> None:
    """Who stole a role for a moment does not keep verification from passing for ever; but for the custodian's, whose word is all there is
    of keys.
    """
    world, (role, event, said) = trail.world, LIES[lie]
    terms = world.request((0, 0))
    real = {"request": terms.id, "request_hash": terms.sha256(), "item": world.items[0]}
    fields = {"actor": "stolen", "release": world.release} | {name: value or real[name] for name, value in said.items()}
    with world.as_(role).begin() as session:
        append(session, event, **fields)
    with world.as_("gateway")() as session:
        found = Verification()
        crosscheck.crosscheck(session, found, None, world.custodian_keys())
        check_ledger(session, world.ledger, found)
        settle(session, found)
    assert found.findings
    for finding in found.findings:
        if finding.problem is not Problem.CUSTODIAN:
            trail.acknowledge(finding)
    left = trail.verified().findings
    assert [each.problem for each in left] == ([Problem.CUSTODIAN] if role == "custodian" else [])


#: What a stolen role appends to a recovery that was fetched.
ENDS = {
    "recovery:failed": ("recovery", AuditEvent.RECOVERY_FAILED),
    "recovery:refused": ("recovery", AuditEvent.RECOVERY_REFUSED),
    "recovery:expired": ("relay", AuditEvent.RECOVERY_EXPIRED),
    "request:expired": ("relay", AuditEvent.REQUEST_EXPIRED),
}


@pytest.mark.parametrize("end", ENDS)
def test_an_end_that_never_was_is_found_and_acknowledged(trail: Trail, end: str) -> None:
    terms, recovery = fetched(trail.world)
    role, event = ENDS[end]
    with trail.world.as_(role).begin() as session:
        seq = append(session, event, actor="stolen", release=terms.release, request=terms.id, recovery=recovery)
    finding = trail.only()
    state = "done" if end == "request:expired" else "fetched"
    assert (finding.where, finding.words) == (f"event {seq}", f"{end}, and it is {state}")
    trail.acknowledge(finding)
    assert trail.verified().ok


def test_an_event_of_no_readable_ids_stops_nothing_once_somebody_acknowledged(trail: Trail) -> None:
    trail.acknowledge(trail.lie())
    said = json.dumps({"actor": "x", "release": str(trail.world.release), "request": [1]})
    with trail.world.as_("gateway").begin() as session:
        append_ = text("SELECT audit.append('request:opened', CAST(:said AS jsonb))")
        session.execute(append_, {"said": said})
    result = trail.verified()
    assert (len(result.acknowledged), result.ok) == (1, False)


def test_who_enrolled_is_no_auditor_where_an_administrator_is_but_by_the_roster(trail: Trail) -> None:
    """A stolen gateway can invent an identity provider's word."""
    world = trail.world
    for name, role, vouched in (("ida", "administrator", {}), ("fay", "auditor", {"issuer": "https://id"})):
        world.people[name] = Member(name, (role,))
        with world.as_("gateway").begin() as session:
            people.add(session, world.people[name].on_roster(), name, **vouched)
    finding = trail.lie()
    trail.acknowledge(finding, "fay")
    result = trail.verified()
    assert (result.findings, result.acknowledged) == ([finding], [])
    assert any("an identity provider's word alone" in each and "--roster" in each for each in result.notes)
    roster = load_roster(world.roster)
    pinned = replace(roster, people=roster.people | {"fay": world.people["fay"].on_roster()})
    assert [each.finding for each in trail.verified(pinned).acknowledged] == [finding]


def test_more_about_the_same_event_is_another_finding(trail: Trail) -> None:
    """`item:released` twice for one item, and then a third time."""
    query = select(Event.canonical).where(Event.event == AuditEvent.ITEM_RELEASED.value).limit(1)
    told = json.loads(trail.world.one(query))["fields"]
    for times in (2, 3):
        with trail.world.as_("release").begin() as session:
            append(session, AuditEvent.ITEM_RELEASED, **told)
        finding = trail.only()
        assert f"{times} times" in finding.words
        trail.acknowledge(finding)
        assert trail.verified().ok


REFUSED: dict[str, tuple[type[Exception], dict[str, Any]]] = {
    "no auditor": (NotAuditor, {"who": "bob"}),
    "nobody": (NotAuditor, {"who": "zed", "key": "olga"}),
    "an auditor who left": (NotAuditor, {"who": "leo"}),
    "an auditor of another tenant": (NotAuditor, {"who": "aud2"}),
    "another's key": (NotTheirSignature, {"who": "olga", "key": "otto"}),
    "a reason in words": (ReasonNoCode, {"reason": "Anna's photograph"}),
}


@pytest.mark.parametrize("case", REFUSED)
def test_an_acknowledgement_is_refused(trail: Trail, case: str) -> None:
    error, how = REFUSED[case]
    finding = trail.lie()
    with pytest.raises(error):
        trail.acknowledge(finding, **how)
    assert trail.only() == finding


def test_who_took_part_does_not_acknowledge(trail: Trail) -> None:
    """ada approved the request. olga has a denial in her name, which is not hers: that keeps her from nothing."""
    terms = trail.world.request((0, 0))
    trail.world.approve(terms, "ada")
    about = {"release": terms.release, "request": terms.id}
    with trail.world.as_("relay").begin() as session:
        append(session, AuditEvent.REQUEST_EXPIRED, actor="reconciler", request=terms.id)
    with trail.world.as_("gateway").begin() as session:
        append(session, AuditEvent.REQUEST_DENIED, actor="olga", request_hash=terms.sha256(), **about)
    found = trail.verified().findings
    assert found
    for finding in found:
        with pytest.raises(TookPart):
            trail.acknowledge(finding, "ada")
    for finding in found:
        trail.acknowledge(finding, "olga")
    assert trail.verified().ok


#: What verification says of it, and how it is forged.
FORGED: dict[str, tuple[str, dict[str, Any]]] = {
    "nobody signed": ("olga did not sign it", {"detail": {"signature": "no"}}),
    "somebody else signed": ("the signature is not one by the key that olga was added with", {"key": "otto"}),
    "no auditor": ("bob is no auditor", {"who": "bob"}),
    "a removed auditor": ("leo signed it after having been removed", {"who": "leo"}),
    "somebody unknown": ("no person:added before it gives the public key of zed", {"who": "zed", "key": "olga"}),
    "another tenant's auditor": ("aud2 is of another tenant than what it acknowledges", {"who": "aud2"}),
    "signed for another finding": (
        "the signature is not one by the key that olga was added with",
        {"detail": {"signature": "00" * 64}},
    ),
    "another reason than was signed": (
        "the signature is not one by the key that olga was added with",
        {"detail": {"reason": "all-well"}},
    ),
    "a reason in words": ("its reason is no code", {"detail": {"reason": "all well\nsee there"}}),
}


@pytest.mark.parametrize("case", FORGED)
def test_a_forged_acknowledgement_is_found_and_hides_nothing(trail: Trail, case: str) -> None:
    words, how = FORGED[case]
    finding = trail.lie()
    if case == "a reason in words":
        signed = signed_message("acknowledge all well\nsee there", finding.sha256())
        how = {"detail": how["detail"] | {"signature": trail.world.people["olga"].signing.sign(signed).hex()}}
    seq = trail.forge(finding, **how)
    result = trail.verified()
    assert [(each.where, each.words) for each in result.findings] == [
        (finding.where, finding.words),
        (f"event {seq}", f"finding:acknowledged: {words}"),
    ]
    assert (result.acknowledged, result.ok) == ([], False)


def test_an_unsigned_acknowledgement_is_none_whatever_came_before(trail: Trail) -> None:
    """Where nothing else in the trail is signed either."""
    finding = trail.lie()
    seq = trail.forge(finding, detail={"signature": None})
    result = trail.verified()
    assert [each.where for each in result.findings] == [finding.where, f"event {seq}"]
    assert (result.acknowledged, result.findings[1].words) == ([], "finding:acknowledged: olga did not sign it")


def test_a_forged_acknowledgement_is_acknowledged_too(trail: Trail) -> None:
    """Nobody keeps verification from passing by writing some; not even olga, in whose name it is, is kept from saying so."""
    trail.forge(trail.lie(), key="otto")
    lie, forged = trail.verified().findings
    for finding, who in ((lie, "otto"), (forged, "olga")):
        trail.acknowledge(finding, who)
    assert trail.verified().ok


def test_an_acknowledgement_acknowledges_neither_itself_nor_what_is_to_come(trail: Trail) -> None:
    """aud2 knows which number the event will have, and what will be said of it, and not its hash, where its own is in it."""
    lie = trail.lie()
    size = trail.world.one(select(func.max(Event.seq))) + 1
    words = "finding:acknowledged: the signature is not one by the key that aud2 was added with"
    itself = Finding(Problem.SIGNATURE, f"event {size}", words)
    assert trail.forge(itself, "aud2", key="olga") == size
    forged = trail.verified().findings[-1]
    assert replace(forged, seen="") == itself
    trail.acknowledge(lie)
    trail.forge(lie, "ada")
    (mine, early) = trail.verified().acknowledged[0].by
    with trail.world.as_("gateway")() as session:
        assert fault_of(session, lie, early) is None
        early = replace(early, seq=int(lie.where.split()[1]))
        assert fault_of(session, lie, early) == "it came before what it acknowledges"
        assert fault_of(session, forged, replace(mine, seq=size)) == "it came before what it acknowledges"


def test_another_event_under_the_same_number_is_another_finding(trail: Trail) -> None:
    """After a restored backup a copied acknowledgement hides nothing, though every word is the same."""
    with copied(trail.world.database) as backup:
        finding = trail.lie()
        trail.acknowledge(finding)
        restored = replace(trail, world=replace(trail.world, database=backup))
        again = restored.lie()
        assert replace(again, seen="") == replace(finding, seen="")
        restored.forge(finding)
        result = restored.verified()
    assert (result.findings, result.acknowledged) == ([again], [])


def test_an_approval_that_somebody_acknowledged_still_counts_for_no_quorum(trail: Trail) -> None:
    """Whoever forged it had the custodian's role as well: that the ticket lacks its quorum is another finding."""
    terms = trail.world.request((0, 0))
    trail.world.approve(terms, "carol")
    about = {"release": terms.release, "request": terms.id, "request_hash": terms.sha256()}
    with trail.world.as_("gateway").begin() as session:
        append(session, AuditEvent.REQUEST_APPROVED, actor="bob", **about)
    with trail.world.as_("custodian").begin() as session:
        append(session, AuditEvent.TICKET_ISSUED, actor="custodian", ticket=terms.id, **about)
    found = trail.verified().findings
    for finding in found:
        if "request:approved" in finding.words:
            trail.acknowledge(finding)
    left = trail.verified().findings
    assert len(left) < len(found)
    assert "ticket:issued: it was issued on 1 approvals, and 2 are needed" in [each.words for each in left]


def test_two_forged_acknowledgements_do_not_vouch_for_each_other(trail: Trail) -> None:
    """The second is about what is wrong with the first, and nobody who signed it may say so."""
    trail.forge(trail.lie(), "aud2")
    lie, first = trail.verified().findings
    seq = trail.forge(first, "aud2")
    result = trail.verified()
    assert [each.where for each in result.findings] == [lie.where, first.where, f"event {seq}"]
    assert "aud2 took part" in result.findings[-1].words
    seq = trail.forge(result.findings[-1], "aud2")
    assert [each.where for each in trail.verified().findings][-1] == f"event {seq}"
    assert trail.verified().acknowledged == []


def test_what_nobody_may_acknowledge(trail: Trail) -> None:
    """A guard that is gone; a row that the trail does not bear out by itself; who is on the roster. By nobody's signature."""
    world = trail.world
    world.owner("ALTER TABLE audit.nodes DISABLE TRIGGER append_only")
    terms = world.request((0, 0))
    as_superuser(world, f"UPDATE recovery_requests SET reason = 'another' WHERE id = '{terms.id}'")
    found = trail.verified(load_roster(world.roster)).findings
    stays = [each for each in found if each.problem in (Problem.GUARD, Problem.ROSTER) or "terms" in each.words]
    assert {each.problem for each in stays} == {Problem.GUARD, Problem.ROSTER, Problem.ROW}
    for finding in stays:
        with pytest.raises(FindingStays):
            trail.acknowledge(finding)
        trail.forge(finding)
    result = trail.verified(load_roster(world.roster))
    assert result.acknowledged == []
    assert [each for each in result.findings if each in stays] == stays
    assert sum("nobody may acknowledge that" in each.words for each in result.findings) == len(stays)


@pytest.mark.parametrize("problem", Problem)
def test_each_kind_of_problem_is_acknowledged_or_not(problem: Problem) -> None:
    may = problem in (Problem.ROW, Problem.SIGNATURE)
    assert may_be_acknowledged(Finding(problem, "event 7", "x", "00" * 32)) is may
    assert not may_be_acknowledged(Finding(problem, "event 7", "x"))
    for where in (
        "events 5 to 7",
        "head 7",
        "tail",
        "releases",
        "request 7",
        "item 7",
        "key of face 0 of item 7",
        "event x",
    ):
        assert not may_be_acknowledged(Finding(problem, where, "x", "00" * 32))


def test_what_concerns_two_tenants_takes_an_auditor_of_each(trail: Trail) -> None:
    """An item of acme's, said to be of a release of beta's."""
    other = trail.world.another_release("beta")
    finding = trail.lie(release=other.release)
    trail.acknowledge(finding, "aud2")
    result = trail.verified()
    assert (result.findings, result.acknowledged) == ([finding], [])
    assert any("by no auditor of acme" in each for each in result.notes)
    trail.acknowledge(finding, "olga")
    (told,) = trail.verified().acknowledged
    assert [each.tenant for each in told.by] == ["beta", "acme"]


def test_whose_release_it_is_the_trail_says_as_well_as_its_row(trail: Trail) -> None:
    """An owner who moves a release to another tenant has no auditor of that one acknowledge what is about it."""
    finding = trail.lie()
    as_superuser(trail.world, f"UPDATE releases SET tenant = 'beta' WHERE id = '{trail.world.release}'")
    trail.forge(finding, "aud2")
    assert finding in trail.verified().findings


def test_with_the_roster_those_on_it_count_alone(trail: Trail) -> None:
    """otto is an auditor by the trail, and the custodian never heard of him. Then olga loses the role, and her key."""
    finding, roster = trail.lie(), load_roster(trail.world.roster)
    trail.acknowledge(finding, "otto")
    assert trail.verified().ok
    known = roster.people["olga"]
    changed = (
        replace(known, roles=("approver",)),
        replace(known, ed25519_public=bytes(32)),
        replace(known, tenant="beta"),
    )
    for person in (None, *changed):
        pinned = replace(roster, people=roster.people | {"olga": person}) if person is not None else roster
        if person is not None:
            trail.acknowledge(finding, "olga")
        result = trail.verified(pinned)
        assert finding in result.findings
        assert any("is no auditor of acme on the roster" in each for each in result.notes)
    (told,) = trail.verified(roster).acknowledged
    assert {each.who for each in told.by} == {"olga"}


def test_who_is_an_auditor_by_a_forged_word_acknowledges_nothing(trail: Trail) -> None:
    """A stolen gateway adds an administrator, whom nobody signed for, who signs an auditor, who acknowledges just that."""
    world = trail.world
    word = world.people["ida"] = Member("ida", ("administrator",))
    with world.as_("gateway").begin() as session:
        people.add(session, word.on_roster(), "root")
    zoe, fay = Member("zoe", ("administrator",)), Member("fay", ("auditor",))
    for member, by in ((zoe, None), (fay, zoe)):
        person = member.on_roster()
        detail = {"tenant": "acme", "roles": list(member.roles)}
        detail |= {"ed25519": person.ed25519_public.hex(), "x25519": person.x25519_public.hex()}
        sha256 = people.terms_of(person).sha256()
        signed = {} if by is None else {"signature": by.signing.sign(add_message(sha256)).hex()}
        world.people[member.id] = member
        with world.as_("gateway").begin() as session:
            session.add(people.Person(id=person.id, tenant="acme", roles=list(member.roles), passkeys=[],
                ed25519_public=person.ed25519_public, x25519_public=person.x25519_public))  # fmt: skip
            append(session, AuditEvent.PERSON_ADDED, actor="root" if by is None else by.id, subject=person.id,
                request_hash=sha256, detail=detail | signed)  # fmt: skip
    finding = trail.only()
    assert "acme has an administrator, and none signed it" in finding.words
    trail.acknowledge(finding, "fay")
    result = trail.verified()
    assert (result.findings, result.acknowledged) == ([finding], [])
    assert any(f"does not count: {finding.where} is found fault with" in each for each in result.notes)
    trail.acknowledge(finding, "olga")
    lie = trail.lie()
    trail.acknowledge(lie, "fay")
    assert trail.only() == lie, "not even when somebody else acknowledged how fay came to be"


def test_a_name_that_a_thief_took_before_is_an_administrators_to_give(
    trail: Trail, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stolen gateway tells of a dora; a service that does not look there adds the real one, for whom the administrator signs."""
    monkeypatch.setattr(people, "_is_told", lambda *_: False)
    world, adam = trail.world, Member("adam", ("administrator",))
    with world.as_("gateway").begin() as session:
        people.add(session, adam.on_roster(), "root")
    thief, dora = Member("dora", ("approver", "auditor")), Member("dora", ("approver", "auditor"))
    keys = {"ed25519": thief.on_roster().ed25519_public.hex(), "x25519": thief.on_roster().x25519_public.hex()}
    detail = {"tenant": "acme", "roles": ["approver", "auditor"], **keys}
    with world.as_("gateway").begin() as session:
        append(session, AuditEvent.PERSON_ADDED, actor="root", subject="dora", detail=detail)
    with world.as_("gateway").begin() as session:
        signed = adam.signing.sign(add_message(people.terms_of(dora.on_roster()).sha256()))
        people.add(session, dora.on_roster(), "root", people.Word("adam", signed))
    world.people["dora"] = dora
    world.approve(world.request((0, 0)), "dora")
    finding = trail.only()
    assert finding.words == "person:added: acme has an administrator, and none signed it"
    trail.acknowledge(finding)
    assert trail.verified().ok
    lie = trail.lie()
    trail.acknowledge(lie, "dora")
    assert trail.verified().ok, "what she says counts"
    with world.as_("gateway").begin() as session:
        seq = append(session, AuditEvent.PERSON_ADDED, actor="root", subject="dora", detail=detail)
    found = trail.verified().findings
    assert {each.where for each in found} == {f"event {seq}"}, "and she is nobody else from there on"
    for finding in found:
        trail.acknowledge(finding)
    assert trail.verified().ok


def test_who_invents_a_first_administrator_does_not_shut_the_tenant(trail: Trail) -> None:
    """There is nobody to sign for the real one: that she was added is acknowledged, and what she signs counts."""
    world, ida, nora = trail.world, Member("ida", ("administrator",)), Member("nora", ("auditor",))
    detail = {"tenant": "acme", "roles": ["administrator"], "ed25519": "0" * 64, "x25519": "0" * 64}
    with world.as_("gateway").begin() as session:
        append(session, AuditEvent.PERSON_ADDED, actor="stolen", subject="zoe", detail=detail)
    with world.as_("gateway").begin() as session:
        people.add(session, ida.on_roster(), "root")
    with world.as_("gateway").begin() as session:
        signed = ida.signing.sign(add_message(people.terms_of(nora.on_roster()).sha256()))
        people.add(session, nora.on_roster(), "root", people.Word("ida", signed))
    for finding in trail.verified().findings:
        trail.acknowledge(finding)
    assert trail.verified().ok


@pytest.mark.parametrize("before", [True, False])
def test_what_the_custodian_did_not_say_of_a_key_is_never_acknowledged(trail: Trail, before: bool) -> None:
    """Somebody with its database role destroys a key and tells of it, in either order."""
    world = trail.world
    gone = f"UPDATE sealed_keys SET wrapped = NULL, state = 'shredded' WHERE item_id = '{world.items[0]}'"
    if before:
        as_superuser(world, gone)
    about = {"actor": "custodian", "release": str(world.release), "item": str(world.items[0])}
    about |= {"subject": str(world.subject)}
    write(world, "key:shredded", about | {"detail": {"reason": "order", "faces": [0, 1], "layout": True}})
    (finding,) = [each for each in trail.verified().findings if each.problem is Problem.CUSTODIAN]
    assert not may_be_acknowledged(finding)
    trail.forge(finding, "olga")
    as_superuser(world, gone)
    assert finding in trail.verified().findings


def test_what_somebody_signed_and_is_gone_is_never_acknowledged(trail: Trail) -> None:
    """A request with its faces, taken out of the tables."""
    world = trail.world
    terms = world.request((0, 0))
    for table, column in (("request_faces", "request_id"), ("recovery_requests", "id")):
        as_superuser(world, f"DELETE FROM {table} WHERE {column} = '{terms.id}'")
    finding = trail.only()
    assert (finding.where, finding.words) == (f"request {terms.id}", "request:opened, and the request is gone")
    assert not may_be_acknowledged(finding)


def test_a_key_that_somebody_took_away_is_found(trail: Trail) -> None:
    as_superuser(trail.world, f"DELETE FROM sealed_keys WHERE item_id = '{trail.world.items[0]}' AND face = 1")
    finding = trail.only()
    assert finding.words == "item:committed with 3 keys, and the attempt has 2 of them, and 0 besides"


def test_one_acknowledgement_lets_no_other_key_go(trail: Trail) -> None:
    """There is a key too many, which an auditor acknowledges; then the owner takes others away, and puts some in their place."""
    world = trail.world
    item, attempt = world.items[0], world.attempts[world.items[0]]

    def add(face: int) -> None:
        columns = "id, attempt_id, item_id, kind, face, suite, custody_key_id, wrapped, context"
        values = f"gen_random_uuid(), '{attempt}', '{item}', 'face', {face}, 's', 'k', 'x', 2"
        as_superuser(world, f"INSERT INTO sealed_keys ({columns}) VALUES ({values})")

    add(2**31 - 1)
    finding = trail.only()
    assert finding.words == "item:committed with 3 keys, and the attempt has 3 of them, and 1 besides"
    trail.acknowledge(finding)
    assert trail.verified().ok
    gone = f"DELETE FROM sealed_keys WHERE item_id = '{item}' AND face IN ({{}})"
    as_superuser(world, gone.format("0"))
    assert trail.only().words == "item:committed with 3 keys, and the attempt has 2 of them, and 1 besides"
    add(7)
    add(3)
    as_superuser(world, gone.format("2147483647"))
    assert trail.only().words == "item:committed with 3 keys, and the attempt has 2 of them, and 2 besides"
    as_superuser(world, gone.format("-1, 0, 1, 3, 7"))
    assert trail.only().words == "item:committed with 3 keys, and the attempt has 0 of them, and 0 besides"


def test_one_acknowledgement_lets_no_other_file_or_item_stand(trail: Trail) -> None:
    world = trail.world
    attempt = world.attempts[world.items[0]]
    for change, words in (
        (f"sha256 = '{'1' * 64}'", f"item:committed, and the attempt made the file {'1' * 64}"),
        (f"sha256 = '{'2' * 64}'", f"item:committed, and the attempt made the file {'2' * 64}"),
        (
            f"item_id = '{world.items[1]}', fence = 9, state = 'abandoned'",
            f"item:committed, and the attempt is at item {world.items[1]}",
        ),
    ):
        as_superuser(world, f"UPDATE attempts SET {change} WHERE id = '{attempt}'")
        found = {each.words: each for each in trail.verified().findings}
        trail.acknowledge(found[words])
        assert words not in {each.words for each in trail.verified().findings}


def test_what_a_worker_says_of_a_held_release_is_no_false_alarm_for_ever(trail: Trail) -> None:
    """It says that an image is of a release that is held, before anybody else does; and the image is shredded honestly later."""
    world = trail.world
    with world.as_("gateway").begin() as session:
        sources, options = [Source("file:///a", "a.png")], releases.ReleaseOptions(policy_name=POLICY)
        release = releases.submit(session, tenant="acme", actor="sam", name="s", sources=sources, options=options)
        item = session.execute(select(Item.id).where(Item.release_id == release)).scalar_one()
    attempt = uuid4()
    columns = "id, item_id, fence, state, object_key, sha256, locator, size_bytes, model_version"
    values = f"'{attempt}', '{item}', 9, 'abandoned', 'k', repeat('0', 64), sha256('x'), 1, 'm'"
    as_superuser(world, f"INSERT INTO attempts ({columns}) VALUES ({values})")
    with world.as_("release").begin() as session:
        detail = {"attempt": str(attempt), "sha256": "0" * 64, "keys": 0}
        append(session, AuditEvent.ITEM_COMMITTED, actor="stolen", release=world.release, item=item, detail=detail)
    release_item(replace(world, release=release, attempts={}, secrets={}, files={}), item)
    done(world, OrderKind.HOLD, Target(OrderScope.RELEASE, world.release))
    done(world, OrderKind.SHRED, Target(OrderScope.ITEM, item))
    finding = trail.only()
    assert finding.words == "key:shredded as of another release than its item was made in"
    trail.acknowledge(finding)
    result = trail.verified()
    with world.as_("gateway")() as session:
        check_ledger(session, world.ledger, result)
    assert result.findings == []


def test_more_findings_than_are_shown_cannot_be_acknowledged_away(
    trail: Trail, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crosscheck, "AT_MOST", 2)
    for finding in (trail.lie(0), trail.lie(1)):
        trail.acknowledge(finding)
    finding = trail.only()
    assert finding.words == "only the first 2 findings are shown"
    assert not may_be_acknowledged(finding)


def test_a_finding_is_found_by_the_beginning_of_its_id(trail: Trail) -> None:
    finding = trail.lie()
    name = finding.sha256().hex()
    result = trail.verified()
    for beginning in (name[:4], name[:12].upper(), name):
        assert find(result, beginning) == finding
    for beginning in ("", name[:3], "zzzz", name + "0"):
        with pytest.raises(FindingUnknown):
            find(result, beginning)
    many = Verification(findings=[Finding(Problem.ROW, f"event {number}", "x") for number in range(2_000)])
    names = sorted(each.sha256().hex() for each in many.findings)
    beginning = next(one[:4] for one, other in pairwise(names) if one[:4] == other[:4])
    with pytest.raises(FindingAmbiguous):
        find(many, beginning)
    trail.acknowledge(finding)
    with pytest.raises(FindingAcknowledged):
        find(trail.verified(), name[:12])


def test_what_was_acknowledged_and_is_not_found_any_more_is_a_note(trail: Trail) -> None:
    finding = trail.lie()
    trail.acknowledge(finding)
    as_superuser(trail.world, f"UPDATE items SET state = 'held' WHERE id = '{trail.world.items[0]}'")
    result = trail.verified()
    assert [each for each in result.notes if f"{finding.sha256().hex()[:12]}, which is not found now" in each]
    assert [each.words for each in result.findings] == ["item:released, and no item is done that it could be of"]
