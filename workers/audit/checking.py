"""Checking an evidence bundle with nothing but public keys, the notary's and the custodian's: no database, no bucket, no service."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from workers.audit.attested import AttestedHistory, is_custodians
from workers.audit.evidence import About, Evidence, named, ticket_of, unpack
from workers.audit.heads import HeadInvalid, HeadVerifier, SignedHead
from workers.audit.merkle import check_consistency, check_inclusion, leaf_hash
from workers.audit.shredded import ShreddedHistory
from workers.audit.signed import SignedHistory, signer_of
from workers.audit.summary import LIMITS, PROVES, counted, released
from workers.words import number_of

Body = Mapping[str, Any]
_PEOPLE = ("person:added", "person:removed")


@dataclass
class Checked:
    """What checking a bundle gave. `problems` empty: everything in `proves` holds. `limits`: what it cannot prove, always."""

    about: str
    problems: list[str] = field(default_factory=list)
    proves: tuple[str, ...] = PROVES
    limits: list[str] = field(default_factory=lambda: list(LIMITS))
    facts: list[str] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether everything in the bundle holds."""
        return not self.problems

    def item_of(self, file: bytes) -> str | None:
        """The item that a released file is of; None for a file that the bundle does not know."""
        return self.files.get(hashlib.sha256(file).hexdigest())


def check_bundle(
    data: bytes,
    verifier: HeadVerifier,
    custodian: Mapping[str, bytes] | None = None,
    *,
    before_signatures: bool = False,
) -> Checked:
    """Checks every byte of a bundle against the notary's public key, and the custodian's events against its keys, by their ids.

    Without `custodian`, that it wrote them is one of the limits. With it, an unsigned one is a problem: who made the bundle chose its
    events, so nothing in it tells which are of before signatures. `before_signatures`: the caller knows that they are, and unsigned
    ones ahead of the first signed one are a limit. Raises EvidenceUnreadable for what is no bundle.
    """
    evidence, summary = unpack(data)
    checked = Checked(f"{evidence.about.value} {evidence.id}")
    if (evidence.notary_key, evidence.notary_public) != (verifier.key_id, verifier.public):
        checked.problems.append("it names another notary's key than yours")
    heads = _check_heads(evidence, verifier, checked)
    bodies = _check_events(evidence, heads, checked) if heads else None
    if bodies is None or not heads:
        return checked
    checked.problems += [
        f"event {body['seq']}: it has nothing to do with the {checked.about}" for body in _strangers(evidence, bodies)
    ]
    _check_signed(bodies, checked)
    _see(ShreddedHistory(), bodies, checked)
    _check_attested(bodies, custodian, checked, before_signatures)
    if evidence.summary() != summary or hashlib.sha256(summary.encode()).hexdigest() != evidence.summary_sha256:
        checked.problems.append("summary.md does not say what the events say, in the words of this version")
    checked.files = released(bodies)
    _add_facts(checked, heads[-1], bodies)
    return checked


def _add_facts(checked: Checked, newest: SignedHead, bodies: Sequence[Body]) -> None:
    checked.facts += [
        f"{number_of(len(bodies), 'event')} of a trail of {newest.size}",
        f"signed by the notary's key {newest.key_id} on {newest.at.isoformat(timespec='seconds')}",
        counted(bodies),
    ]
    if newest.epoch:
        checked.facts.append(
            f"accepted before: {number_of(newest.epoch, 'fork')} of this trail; ask for what became of the lost events"
        )


def _check_heads(evidence: Evidence, verifier: HeadVerifier, checked: Checked) -> list[SignedHead]:
    """The heads, where they verify and the newer extends the older; none where anything is wrong with them."""
    try:
        heads = [verifier.read(head.body, head.signature) for head in evidence.heads]
    except HeadInvalid as error:
        checked.problems.append(f"a head does not verify: {error.detail}")
        return []
    sizes = [head.size for head in heads]
    if len(heads) not in (1, 2) or sizes != sorted(set(sizes)) or sizes[0] < 1:
        checked.problems.append("one head is needed, or an earlier and a newer one")
        return []
    first, newest = heads[0], heads[-1]
    if not check_consistency(first.size, newest.size, first.root, newest.root, evidence.consistency):
        checked.problems.append(
            f"the head of {number_of(newest.size, 'event')} does not extend the head of {first.size}"
        )
        return []
    return heads


def _check_events(evidence: Evidence, heads: Sequence[SignedHead], checked: Checked) -> list[Body] | None:
    """The events as JSON, where all are in the tree; None where one is not, because then nothing follows from any."""
    newest, before = heads[-1], -1
    bodies: list[Body] = []
    for number, event in enumerate(evidence.events):
        try:
            body = event.body()
        except ValueError:
            checked.problems.append(f"entry {number} is no event")
            return None
        seq = body["seq"]
        if seq <= before:
            checked.problems.append(f"entry {number} stands out of order")
            return None
        if not check_inclusion(leaf_hash(event.canonical), seq, newest.size, event.path, newest.root):
            checked.problems.append(f"event {seq}: it does not stand in the signed trail")
            return None
        before = seq
        bodies.append(body)
    if not bodies or heads[0].size <= bodies[0]["seq"]:
        checked.problems.append("it holds no event that its first head signs for")
        return None
    return bodies


def _strangers(evidence: Evidence, bodies: Sequence[Body]) -> Iterator[Body]:
    """Events that are neither of the matter nor say who its signers are."""
    fields = [body["fields"] for body in bodies]
    matters: set[tuple[str, str | None]] = {(evidence.id, None)}  # releases, each with its request where that matters
    if evidence.about is About.TICKET:
        issued = [body["fields"] for body in bodies if body["event"] == "ticket:issued"]
        matters = {ticket_of(each) for each in issued if each.get("ticket") == evidence.id}

    def of_release_and_request(about: Body) -> bool:
        return any(
            about.get("release") == release and (request is None or about.get("request", request) == request)
            for release, request in matters
        )

    def links(about: Body) -> set[tuple[str, str]]:
        found = ((name, named(about, name)) for name in ("request", "recovery"))
        return {(name, value) for name, value in found if value is not None}

    linked = {link for each in fields if of_release_and_request(each) for link in links(each)}

    def of_matter(about: Body) -> bool:
        return of_release_and_request(about) or not linked.isdisjoint(links(about))

    others = [body for body in bodies if not of_matter(body["fields"])]
    people = [(str(body["fields"].get("subject")), body) for body in others if body["event"] in _PEOPLE]
    wanted = {signer_of(body) for body in bodies if of_matter(body["fields"])}
    signers: set[str | None] = set()
    while wanted - signers:  # and the administrators who signed for the signers, and those who signed for them
        signers |= wanted
        wanted = {signer_of(body) for subject, body in people if subject in signers}
    known = {id(body) for subject, body in people if subject in signers}
    yield from (body for body in others if id(body) not in known)


def _check_signed(bodies: Sequence[Body], checked: Checked) -> None:
    history = SignedHistory()
    _see(history, bodies, checked)
    checked.facts.append(f"{number_of(history.signatures, 'signature')} of people verified")
    if history.unsigned:
        checked.limits.append(
            f"Who made {history.unsigned} of the decisions: they are of before signatures came into the trail, or carry none."
        )
    if history.enrolled:
        checked.limits.append(
            f"That {number_of(history.enrolled, 'enrolment')} was as the identity provider said: no administrator signed for it."
        )


def _check_attested(
    bodies: Sequence[Body], custodian: Mapping[str, bytes] | None, checked: Checked, before: bool
) -> None:
    own = [body for body in bodies if is_custodians(body)]
    if custodian is None:
        if own:
            checked.limits.append(
                f"That the custodian wrote {number_of(len(own), 'event')} of its own: its public key was not given (--custodian-key)."
            )
        return
    history = AttestedHistory(custodian, signing=not before)
    _see(history, own, checked)
    checked.facts.append(f"{number_of(history.signatures, 'signature')} of the custodian verified")
    if history.unsigned:
        checked.limits.append(
            f"That the custodian wrote {number_of(history.unsigned, 'event')} without a signature: you say that this is of "
            "before it signed."
        )


def _see(history: SignedHistory | AttestedHistory | ShreddedHistory, bodies: Sequence[Body], checked: Checked) -> None:
    for body in bodies:
        checked.problems += [f"event {body['seq']}: {body['event']}: {words}" for words in history.see(body)]
