"""What the trail says people signed, checked from the trail alone: signatures, who may sign what, and the quorum of every ticket.

Events come in their order. A person's key is the one of their `person:added`; a signature is over the hash that the event carries,
see `docs/audit-format.md`. Before revision 0002 people's requests and decisions were not signed, or not in the trail: that is told
apart by the first event that carries a signature, and nothing unsigned is accepted after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from schemas.administration import PersonTerms
from schemas.audit import AuditEvent
from schemas.requests import signed_message
from schemas.states import OrderKind
from workers.audit.findings import CODE, Acknowledgement
from workers.custody.judge import verifies
from workers.custody.passkeys import Assertion, Passkey, fault, key_of
from workers.custody.publickeys import KeyOfNobody, usable_ed25519
from workers.custody.roster import ADMINISTRATOR, APPROVER, AUDITOR, KEY_OFFICER, REQUESTER, SUBMITTER

if TYPE_CHECKING:
    from schemas.tables import Person

Fields = Mapping[str, Any]


@dataclass(frozen=True)
class _Rule:
    """Who signs an event, and the sayings that it may be signed with (more than one where the event leaves it open)."""

    role: str
    sayings: Callable[[Fields], list[str]]
    always: bool = True  # False: it may come without a signature, and only one that is there is checked


def _saying(words: str) -> Callable[[Fields], list[str]]:
    return lambda _fields: [words]


def _order_sayings(fields: Fields) -> list[str]:
    kind = fields["detail"].get("kind")
    return [f"order {each.value}" for each in OrderKind if kind in (None, each.value)]


SIGNED: dict[AuditEvent, _Rule] = {
    AuditEvent.REQUEST_OPENED: _Rule(REQUESTER, _saying("open request")),
    AuditEvent.REQUEST_APPROVED: _Rule(APPROVER, _saying("approve")),
    AuditEvent.REQUEST_DENIED: _Rule(APPROVER, _saying("deny")),
    AuditEvent.REQUEST_WITHDRAWN: _Rule(REQUESTER, _saying("withdraw")),
    AuditEvent.RECOVERY_FETCHED: _Rule(REQUESTER, lambda fields: [f"fetch {fields.get('recovery')}"]),
    AuditEvent.REVIEW_CLOSED: _Rule(AUDITOR, lambda fields: [f"review {fields['detail'].get('conclusion')}"]),
    AuditEvent.ORDER_GIVEN: _Rule(KEY_OFFICER, _order_sayings),
    AuditEvent.RELEASE_SUBMITTED: _Rule(SUBMITTER, _saying("submit release"), always=False),
    AuditEvent.PERSON_ADDED: _Rule(ADMINISTRATOR, _saying("add person"), always=False),
    AuditEvent.PERSON_REMOVED: _Rule(ADMINISTRATOR, _saying("remove person"), always=False),
    AuditEvent.POLICY_SET: _Rule(
        ADMINISTRATOR, lambda fields: [f"set policy {fields['detail'].get('version')}"], always=False
    ),
    AuditEvent.FINDING_ACKNOWLEDGED: _Rule(AUDITOR, lambda fields: [f"acknowledge {fields['detail'].get('reason')}"]),
}
_PEOPLE = (AuditEvent.PERSON_ADDED, AuditEvent.PERSON_REMOVED)
_ADMINISTERED = (*_PEOPLE, AuditEvent.POLICY_SET)
_OF_NO_REQUEST = (AuditEvent.ORDER_GIVEN, AuditEvent.RELEASE_SUBMITTED, AuditEvent.FINDING_ACKNOWLEDGED, *_ADMINISTERED)
_OF_RELEASES = (AuditEvent.RELEASE_SUBMITTED, AuditEvent.ORDER_GIVEN)
_TICKETS = (AuditEvent.TICKET_ISSUED, AuditEvent.TICKET_SPENT)
_BY_REQUESTER = (AuditEvent.REQUEST_WITHDRAWN, AuditEvent.RECOVERY_FETCHED)
KINDS: tuple[AuditEvent, ...] = (*SIGNED, *_TICKETS, AuditEvent.REVIEW_OPENED)


def signer_of(event: Mapping[str, Any]) -> str | None:
    """Whose signature the event has, or should have; None where nobody signs it. `event` is the JSON object that was hashed."""
    try:
        rule = SIGNED.get(AuditEvent(event["event"]))
    except ValueError:
        return None
    detail = event["fields"].get("detail")
    signed = rule is not None and (rule.always or (isinstance(detail, dict) and "signature" in detail))
    actor = event["fields"].get("actor")
    return actor if signed and isinstance(actor, str) else None


@dataclass
class _Person:
    public: bytes | None
    tenant: str
    roles: frozenset[str]
    sha256: str | None  # of their canonical form
    rests: tuple[int, ...]  # the number of their person:added, of the one of who signed that, and so on
    passkeys: tuple[Passkey, ...] = ()
    enrolled: bool = False  # by an identity provider's word alone
    doubtful: bool = False  # nobody signed for them as they should have
    removed: bool = False

    def signed(self, fields: Fields, signature: bytes, message: bytes) -> bool:
        """With their key file, or, where the event has an assertion, with a passkey."""
        if "assertion" not in fields["detail"]:
            return self.public is not None and verifies(self.public, signature, message)
        try:
            assertion = Assertion.of(fields["detail"]["assertion"])
        except ValueError:
            return False
        return fault(self.passkeys, assertion, signature, message) is None


def signed_by(event: Mapping[str, Any], row: Person) -> bool:
    """Whether the event has a signature of this person's, by the keys of their row; `event` is the JSON object that was hashed."""
    fields = {"detail": {}} | event["fields"]
    detail, kind = fields["detail"], event["event"]
    if not isinstance(detail, dict) or kind not in list(SIGNED) or fields.get("actor") != row.id:
        return False
    signature, sha256 = _hex(detail.get("signature")), _hex(fields.get("request_hash"))
    person = _Person(bytes(row.ed25519_public), row.tenant, frozenset(), None, (), _passkeys(row.passkeys))
    if signature is None or sha256 is None:
        return False
    return _signs(person, SIGNED[AuditEvent(kind)], fields, signature, sha256)


def _signs(person: _Person, rule: _Rule, fields: Fields, signature: bytes, sha256: bytes) -> bool:
    sayings = [saying for saying in rule.sayings(fields) if saying.isascii()]
    return any(person.signed(fields, signature, signed_message(saying, sha256)) for saying in sayings)


@dataclass
class _Request:
    requester: str
    sha256: str
    quorum: int
    approvers: set[str] = field(default_factory=set)  # and who denied it
    counting: set[str] = field(default_factory=set)  # whose approval nothing is wrong with
    denied: bool = False
    issued: bool = False
    spent: bool = False


class SignedHistory:
    """Follows the events of `KINDS` and says what is wrong with each; others are passed over.

    `unsigned` counts what was never signed because it is older than revision 0002; `enrolled` the people of a tenant with an
    administrator for whom an identity provider's word stands alone; `acknowledgements` are those that their auditor signed;
    `administered` the tenants that have, or had, an administrator. Keeps people and requests, not events.

    Who stole a role can write in anybody's name, and so what nobody signed as they should neither decides, reviews nor removes. Whom it
    adds is somebody only until an administrator signs for one of that name: a name is not lost to who wrote it down first.
    """

    def __init__(self) -> None:
        self.unsigned = 0
        self.signatures = 0
        self.enrolled = 0
        self.acknowledgements: list[Acknowledgement] = []
        self._signing = False
        self._people: dict[str, _Person] = {}
        self._requests: dict[str, _Request] = {}
        self._reviews: dict[str, str] = {}  # of a requester: the request whose review is open
        self.administered: set[str] = set()
        self._tenants: dict[str, str] = {}  # whose each release is, from where on the trail says so
        self._signs_for: dict[bytes, str] = {}  # whose each signing key is, however it is written

    def see(self, event: Mapping[str, Any]) -> Iterator[str]:
        """What is wrong with this event, in words; `event` is the JSON object that was hashed."""
        fields = {"detail": {}} | event["fields"]
        try:
            kind = AuditEvent(event["event"])
        except ValueError:
            return
        if not isinstance(fields["detail"], dict):
            yield "its detail is no object"
        elif kind is AuditEvent.FINDING_ACKNOWLEDGED:
            yield from self._see_acknowledged(event, fields)
        elif kind in SIGNED:
            faults = list(self._see_signed(kind, fields))
            yield from faults
            if kind in _OF_RELEASES:
                yield from self._see_tenant(kind, fields)
            if kind in _ADMINISTERED:
                administered = list(self._see_administered(kind, fields))
                yield from administered
                faults += administered
            if kind in _PEOPLE:
                yield from self._see_person(kind, event["seq"], fields, counts=not faults)
            elif kind not in _OF_NO_REQUEST:
                about = list(self._see_request(kind, fields, counts=not faults))
                yield from about
                known = self._requests.get(str(fields.get("request")))
                if known is not None and kind is AuditEvent.REQUEST_APPROVED and not (faults or about):
                    known.counting.add(str(fields.get("actor")))
        elif kind in _TICKETS:
            yield from self._see_ticket(kind, fields)
        elif kind is AuditEvent.REVIEW_OPENED:
            yield from self._see_glass(str(fields.get("request")))

    def _see_acknowledged(self, event: Mapping[str, Any], fields: Fields) -> Iterator[str]:
        """Kept where it is signed as it should be: there was none before signatures were."""
        self._signing = True
        faults = list(self._see_signed(AuditEvent.FINDING_ACKNOWLEDGED, fields))
        yield from faults
        who, reason = str(fields.get("actor")), str(fields["detail"].get("reason"))
        person, finding = self._people.get(who), _hex(fields.get("request_hash"))
        if not CODE.fullmatch(reason):
            yield "its reason is no code"
        elif not faults and person is not None and person.public is not None and finding is not None:
            about = (who, person.tenant, finding.hex(), reason, person.rests, person.public, person.enrolled)
            self.acknowledgements.append(Acknowledgement(event["seq"], str(event["at"]), *about))

    def _see_person(self, kind: AuditEvent, seq: int, fields: Fields, *, counts: bool) -> Iterator[str]:
        who = str(fields.get("subject"))
        known = self._people.get(who)
        if kind is AuditEvent.PERSON_REMOVED:
            if known is None or known.removed:
                yield f"{who} was removed, and was not there"
            else:
                known.removed = counts
            return
        if known is not None and not (known.doubtful and counts and "signature" in fields["detail"]):
            yield f"{who} was added before: a key cannot be replaced"
            return
        public, tenant = _hex(fields["detail"].get("ed25519")), str(fields["detail"].get("tenant"))
        roles, passkeys = _roles(fields), _passkeys(fields["detail"].get("passkeys"))
        key = public if public and len(public) == 32 else None
        by = self._people.get(str(fields.get("actor"))) if "signature" in fields["detail"] else None
        rests = (seq, *(by.rests if by is not None else ()))
        enrolled = "issuer" in fields["detail"] and "signature" not in fields["detail"]
        self._people[who] = _Person(key, tenant, roles, _person_sha256(fields), rests, passkeys, enrolled, not counts)
        if _anybodys(key, passkeys):
            yield f"{who} signs with a key of small order, or not canonical: anybody may sign as them"
        for signing in _signing_keys(key, passkeys):
            if self._signs_for.setdefault(signing, who) != who:
                yield f"{who} signs with a key of {self._signs_for[signing]}: one person as two"
        if ADMINISTRATOR in roles:
            self.administered.add(tenant)

    def _see_administered(self, kind: AuditEvent, fields: Fields) -> Iterator[str]:
        """Who was added or removed, or which policy was set, is what an administrator of that tenant signed, once there is one."""
        detail, known = fields["detail"], self._people.get(str(fields.get("subject")))
        tenant = str(detail.get("tenant"))
        if kind is AuditEvent.PERSON_REMOVED:
            tenant = known.tenant if known is not None else ""
        if "signature" not in detail:
            enrolled = kind is AuditEvent.PERSON_ADDED and "issuer" in detail and ADMINISTRATOR not in _roles(fields)
            if tenant in self.administered and not enrolled:
                yield f"{tenant} has an administrator, and none signed it"
            self.enrolled += tenant in self.administered and enrolled
            return
        actor = self._people.get(str(fields.get("actor")))
        if actor is not None and actor.tenant != tenant:
            yield f"{fields.get('actor')} is of another tenant than {tenant}"
        said = detail.get("sha256") if kind is AuditEvent.POLICY_SET else _person_sha256(fields)
        if kind is AuditEvent.PERSON_REMOVED:
            said = known.sha256 if known is not None else None
        if said is None or fields.get("request_hash") != said:
            yield "what was signed is something else than it says"

    def _see_signed(self, kind: AuditEvent, fields: Fields) -> Iterator[str]:
        actor, rule = str(fields.get("actor")), SIGNED[kind]
        signature, sha256 = _hex(fields["detail"].get("signature")), _hex(fields.get("request_hash"))
        if "signature" not in fields["detail"] and not (rule.always and self._signing):
            self.unsigned += rule.always
            return
        self._signing = True
        person = self._people.get(actor)
        if signature is None or sha256 is None or len(sha256) != 32:
            yield f"{actor} did not sign it"
        elif person is None or person.public is None:
            yield f"no person:added before it gives the public key of {actor}"
        elif person.removed:
            yield f"{actor} signed it after having been removed"
        elif rule.role not in person.roles:
            yield f"{actor} is no {rule.role}"
        elif not _signs(person, rule, fields, signature, sha256):
            yield f"the signature is not one by the key that {actor} was added with"
        else:
            self.signatures += 1

    def _see_tenant(self, kind: AuditEvent, fields: Fields) -> Iterator[str]:
        """Who signs a release, or orders about one, is of the tenant that it was submitted for."""
        release, actor = str(fields.get("release")), str(fields.get("actor"))
        if kind is AuditEvent.RELEASE_SUBMITTED and "tenant" in fields["detail"]:
            self._tenants.setdefault(release, str(fields["detail"]["tenant"]))
        tenant, person = self._tenants.get(release), self._people.get(actor)
        if person is not None and "signature" in fields["detail"] and tenant not in (None, person.tenant):
            yield f"{actor} is of another tenant than the release, which is {tenant}'s"

    def _see_request(self, kind: AuditEvent, fields: Fields, *, counts: bool) -> Iterator[str]:
        actor, sha256 = str(fields.get("actor")), str(fields.get("request_hash"))
        if kind is AuditEvent.REQUEST_OPENED:
            if str(fields.get("request")) in self._requests:
                yield "the request was opened before"
                return
            quorum = fields["detail"].get("quorum")
            request = _Request(actor, sha256, quorum if isinstance(quorum, int) else 1)
            self._requests[str(fields.get("request"))] = request
            return
        known = self._requests.get(str(fields.get("request")))
        if known is None:
            yield "no request:opened before it"
            return
        if sha256 != known.sha256:
            yield "it is about other terms than were opened"
        by, asked_by = self._people.get(actor), self._people.get(known.requester)
        if by is not None and asked_by is not None and by.tenant != asked_by.tenant:
            yield f"{actor} is of another tenant than {known.requester}, who asked"
        if (
            counts
            and kind is AuditEvent.REVIEW_CLOSED
            and self._reviews.get(known.requester) == str(fields.get("request"))
        ):
            del self._reviews[known.requester]
        if (actor == known.requester) is not (kind in _BY_REQUESTER):
            yield f"{actor} asked for it" if actor == known.requester else f"{actor} did not ask for it"
        elif kind is AuditEvent.REVIEW_CLOSED and actor in known.approvers:
            yield f"{actor} decided on the request, and does not review it"
        elif kind in (AuditEvent.REQUEST_APPROVED, AuditEvent.REQUEST_DENIED):
            if actor in known.approvers:
                yield f"{actor} decided before"
            if counts:
                known.approvers.add(actor)
                known.denied |= kind is AuditEvent.REQUEST_DENIED

    def _see_glass(self, request: str) -> Iterator[str]:
        known = self._requests.get(request)
        if known is None:
            yield "no request:opened before it"
            return
        if known.requester in self._reviews:
            yield f"{known.requester} broke the glass while request {self._reviews[known.requester]} was not reviewed"
        self._reviews[known.requester] = request

    def _see_ticket(self, kind: AuditEvent, fields: Fields) -> Iterator[str]:
        known = self._requests.get(str(fields.get("request")))
        if known is None:
            yield "no request:opened before it"
            return
        if str(fields.get("request_hash")) != known.sha256:
            yield "it is about other terms than were opened"
        if kind is AuditEvent.TICKET_SPENT:
            if not known.issued:
                yield "no ticket:issued before it"
            if known.spent:
                yield "a ticket of this request was spent before"
            known.spent = True
            return
        known.issued = True
        if known.denied or len(known.counting) < known.quorum:
            yield (
                "it was issued over a denial"
                if known.denied
                else f"it was issued on {len(known.counting)} approvals, and {known.quorum} are needed"
            )


def _roles(fields: Fields) -> frozenset[str]:
    roles = fields["detail"].get("roles")
    return frozenset(map(str, roles)) if isinstance(roles, list) else frozenset()


def _person_sha256(fields: Fields) -> str | None:
    """The SHA-256, in hex, of the person that a `person:added` tells of; None where it tells of none."""
    detail = fields["detail"]
    signs, receives = _hex(detail.get("ed25519")), _hex(detail.get("x25519"))
    who, tenant = fields.get("subject"), detail.get("tenant")
    if signs is None or receives is None or not isinstance(who, str) or not isinstance(tenant, str):
        return None
    passkeys = tuple((one.id, one.public) for one in _passkeys(detail.get("passkeys")))
    return PersonTerms(who, tenant, tuple(_roles(fields)), signs, receives, passkeys).sha256().hex()


def _signing_keys(public: bytes | None, passkeys: tuple[Passkey, ...]) -> Iterator[bytes]:
    """What their keys are, however written; those that never count are left out."""
    if public is not None and usable_ed25519(public):
        yield b"ed25519" + public
    for passkey in passkeys:
        with suppress(ValueError):  # of a kind that never verifies
            yield key_of(passkey.public)


def _anybodys(public: bytes | None, passkeys: tuple[Passkey, ...]) -> bool:
    """Whether one of these keys may need no secret to sign with: nothing by it is accepted, and it was put there for a reason."""
    if public is not None and not usable_ed25519(public):
        return True
    for passkey in passkeys:
        try:
            key_of(passkey.public)
        except KeyOfNobody:
            return True
        except ValueError:
            continue  # of a kind that never verifies
    return False


def _passkeys(given: Any) -> tuple[Passkey, ...]:
    entries = given if isinstance(given, list) else []
    pairs = [(each.get("id"), _hex(each.get("public"))) for each in entries if isinstance(each, dict)]
    return tuple(Passkey(str(credential), public) for credential, public in pairs if public is not None)


def _hex(value: Any) -> bytes | None:
    try:
        return bytes.fromhex(value)
    except (ValueError, TypeError):
        return None
