"""A recovery worker does nothing without the custodian's signature on just this: whoever else can write its row."""
# ruff: noqa: S608  the statements are put together from this file's own words

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import func, select
from sqlalchemy.orm import undefer

from schemas.requests import FaceRef, KeyBundle, TicketTerms, bundle_info
from schemas.states import RecoveryState, RequestState
from schemas.tables import Alert, Outbox, RecoveredFace, Recovery, RecoveryRequest, RequestFace, Ticket
from tests.governance import Member, World
from tests.workers.recoveries.test_recovery import KeyedCore, opened, recoverer
from workers.custody import keys
from workers.custody.errors import TicketInvalid
from workers.custody.holds import Portion
from workers.custody.judge import Refusal, terms_of
from workers.custody.keys import KeyType, key_id
from workers.custody.opening import open_sealed
from workers.custody.proof import item_names
from workers.custody.sealing import seal
from workers.custody.service import Opened
from workers.custody.tickets import TicketSigner, check_ticket
from workers.outbox.reconciler import Reconciler
from workers.settings import RelaySettings

Change = Callable[[World, KeyBundle], KeyBundle]


def bundle_of(world: World, recovery: UUID) -> KeyBundle:
    with world.as_("recovery")() as session:
        row = session.get_one(Recovery, recovery, options=[undefer(Recovery.key_bundle)])
        plain = open_sealed(world.recovery_key().secret(), row.key_bundle or b"", bundle_info(recovery, row.ticket_id))
    return KeyBundle.loads(plain)


def put(world: World, recovery: UUID, bundle: KeyBundle, plain: bytes | None = None) -> None:
    """What the database owner can do: everybody knows the worker's public key."""
    sealed = seal(world.recovery_key().public, plain or bundle.dumps(), bundle_info(recovery, bundle.ticket)).hex()
    world.owner("ALTER TABLE recoveries DISABLE TRIGGER USER")
    world.owner(f"UPDATE recoveries SET key_bundle = '\\x{sealed}' WHERE id = '{recovery}'")


def resigned(world: World, bundle: KeyBundle, private: Ed25519PrivateKey | None = None, **changes: object) -> KeyBundle:
    """The bundle with a ticket that says what the bundle says, signed by somebody else, or by the custodian."""
    said = json.loads(bundle.ticket_canonical) | changes
    canonical = json.dumps(said, sort_keys=True, separators=(",", ":")).encode()
    key = private or Ed25519PrivateKey.from_private_bytes(world.ticket_key().secret())
    return replace(bundle, ticket_canonical=canonical, ticket_signature=key.sign(canonical))


def mallorys(world: World, bundle: KeyBundle) -> KeyBundle:
    return replace(bundle, recipient_public=Member("mallory", ()).on_roster().x25519_public)


def bystander(world: World, bundle: KeyBundle) -> KeyBundle:
    item = bundle.items[0]
    return replace(bundle, items=(replace(item, face_keys=item.face_keys | {1: bytes(32)}),))


CHANGES: dict[str, Change] = {
    "unsigned": lambda world, bundle: replace(bundle, ticket_signature=bytes(64)),
    "signed by another": lambda world, bundle: resigned(world, bundle, Ed25519PrivateKey.generate()),
    "a bystander's key with it": bystander,
    "to another recipient": mallorys,
    "of another request": lambda world, bundle: replace(bundle, request=uuid4()),
    "of another release": lambda world, bundle: replace(bundle, release=uuid4()),
    "for another purpose": lambda world, bundle: replace(bundle, purpose="to see who it is"),
    "for a purpose that is not said": lambda world, bundle: resigned(world, bundle, purpose_sha256=None),
    "for another worker": lambda world, bundle: resigned(world, bundle, worker="0" * 16),
    "no ticket at all": lambda world, bundle: resigned(world, bundle, what="refacex recovery request"),
    "no faces": lambda world, bundle: resigned(world, bundle, faces=None),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_ticket_that_is_not_the_custodians_for_just_this_is_refused(world: World, change: str) -> None:
    _, recovery = opened(world)
    put(world, recovery, CHANGES[change](world, bundle_of(world, recovery)))
    core = KeyedCore()
    assert recoverer(world, core=core).recover(recovery) is RecoveryState.FAILED
    assert core.asked == []
    assert world.one(select(func.count()).select_from(RecoveredFace)) == 0
    told_as_refused(world, recovery)


@pytest.mark.parametrize("plain", [b"[" * 5_000, b'{"what": ' * 5_000, b"[]", b"\xff"])
def test_what_is_no_bundle_ends_the_recovery_and_not_the_worker(world: World, plain: bytes) -> None:
    _, recovery = opened(world)
    put(world, recovery, bundle_of(world, recovery), plain)
    assert recoverer(world).recover(recovery) is RecoveryState.FAILED
    assert world.one(select(Recovery.error_code)) == "bundle_unreadable"


def told_as_refused(world: World, recovery: UUID) -> None:
    """By the newest event and the only alert."""
    last = world.events()[-1]
    assert (last["event"], last["fields"]["recovery"]) == ("recovery:refused", str(recovery))
    assert last["fields"]["detail"]["code"] == "ticket_invalid"
    told = world.one(select(Alert))
    assert (told.kind, told.detail) == ("recovery_refused", {"recovery": str(recovery), "code": "ticket_invalid"})


def test_an_expired_ticket_starts_nothing_and_what_it_started_goes_on(world: World) -> None:
    for began, state in ((0, RecoveryState.FAILED), (1, RecoveryState.RECOVERED)):
        _, recovery = opened(world)
        put(world, recovery, resigned(world, bundle_of(world, recovery), expires_at="2020-01-01T00:00:00.000000Z"))
        world.owner(f"UPDATE recoveries SET attempts = {began} WHERE id = '{recovery}'")
        assert recoverer(world).recover(recovery) is state
        if state is RecoveryState.FAILED:
            told_as_refused(world, recovery)


def test_a_bundle_kept_in_a_backup_does_not_open_later(world: World) -> None:
    """The owner brings the row back, says that a worker began, and gives it years; the ticket is of the day before yesterday."""
    _, recovery = opened(world)
    issued = (datetime.now(UTC) - timedelta(days=2)).isoformat()
    put(world, recovery, resigned(world, bundle_of(world, recovery), issued_at=issued))
    world.owner(f"UPDATE recoveries SET attempts = 1, expires_at = '2099-01-01' WHERE id = '{recovery}'")
    core = KeyedCore()
    assert recoverer(world, core=core).recover(recovery) is RecoveryState.FAILED
    assert core.asked == []


def aged(world: World, recovery: UUID, minutes: float = 20) -> None:
    """The recovery as it is when its worker was away for so long."""
    then = datetime.now(UTC) - timedelta(minutes=minutes)
    put(world, recovery, replace(bundle_of(world, recovery), sealed_at=then))
    world.owner(f"UPDATE recoveries SET sealed_at = '{then.isoformat()}' WHERE id = '{recovery}'")
    world.owner("ALTER TABLE recoveries ENABLE TRIGGER USER")


def test_a_recovery_that_waited_gets_a_fresh_bundle_and_goes_on(world: World) -> None:
    terms, recovery = opened(world)
    aged(world, recovery)
    core = KeyedCore()
    assert recoverer(world, core=core).recover(recovery) is RecoveryState.BOUND
    assert (core.asked, world.one(select(Recovery.attempts))) == ([], 0)
    assert world.custodian().open(terms.id) == Opened(recovery, again=True)
    renewed = world.events()[-1]
    assert (renewed["event"], renewed["fields"]["recovery"]) == ("ticket:renewed", str(recovery))
    assert renewed["fields"]["request_hash"] == terms.sha256().hex()
    assert recoverer(world).recover(recovery) is RecoveryState.RECOVERED


def test_the_reconciler_asks_for_fresh_bundles(world: World) -> None:
    terms, recovery = opened(world)
    settings = RelaySettings.model_construct(stalled_seconds=60.0)
    reconciler = Reconciler(settings, world.as_("relay"), storage=None)  # type: ignore[arg-type]  # it asks for no object
    asked = select(Outbox.args).where(Outbox.published_at.is_(None)).order_by(Outbox.task)
    world.owner("UPDATE outbox SET published_at = now(), created_at = now() - interval '1 hour'")
    aged(world, recovery)
    reconciler.bring_back(queue_is_empty=False)
    with world.as_("relay")() as session:
        assert session.execute(asked).scalars().all() == [[str(terms.id)], [str(recovery)]]


def test_a_fresh_bundle_is_not_sealed_again(world: World) -> None:
    terms, recovery = opened(world)
    before = bundle_of(world, recovery)
    world.custodian().open(terms.id)
    assert bundle_of(world, recovery) == before


def test_a_bundle_kept_from_before_a_shredding_opens_nothing(world: World) -> None:
    """The owner brings back the row of twenty minutes ago, and asks the custodian for fresh keys as well."""
    terms, recovery = opened(world)
    (face,) = terms.faces
    world.ledger.record_shredded([Portion(face.item, terms.release, None, (face.face,))])
    aged(world, recovery)
    core = KeyedCore()
    assert recoverer(world, core=core).recover(recovery) is RecoveryState.BOUND
    assert world.custodian().open(terms.id) == Opened(None, Refusal.KEY_SHREDDED, again=True)
    assert recoverer(world, core=core).recover(recovery) is RecoveryState.FAILED
    assert core.asked == []
    assert world.one(select(RecoveryRequest.state).where(RecoveryRequest.id == terms.id)) is RequestState.FAILED
    assert world.one(select(Recovery.error_code)) == "key_shredded"
    refused = world.events()[-1]
    assert (refused["event"], refused["fields"]["recovery"]) == ("ticket:refused", str(recovery))
    assert world.custodian().open(terms.id) == Opened(recovery, again=True)
    assert world.events()[-1] == refused, "it was told once"


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE tickets SET signature = decode(repeat('00', 64), 'hex')",
        "UPDATE tickets SET canonical = convert_to(replace(convert_from(canonical, 'UTF8'), '2026', '2027'), 'UTF8')",
        "INSERT INTO request_faces (request_id, item_id, face) SELECT request_id, item_id, 1 FROM request_faces",
    ],
)
def test_no_fresh_bundle_for_another_ticket_or_other_faces(world: World, change: str) -> None:
    """Also where the owner makes the request's canonical form agree with its rows."""
    terms, recovery = opened(world)
    aged(world, recovery)
    for table in ("tickets", "request_faces", "recovery_requests"):
        world.owner(f"ALTER TABLE {table} DISABLE TRIGGER USER")
    world.owner(change)
    with world.as_("custodian")() as session:
        request = session.get_one(RecoveryRequest, terms.id)
        faces = session.execute(select(RequestFace)).scalars().all()
        canonical = terms_of(request, faces, item_names(session, world.release)).canonical().hex()
    world.owner(
        f"UPDATE recovery_requests SET canonical = '\\x{canonical}', canonical_sha256 = sha256('\\x{canonical}')"
    )
    assert world.custodian().open(terms.id) == Opened(None, Refusal.TICKET, again=True)
    core = KeyedCore()
    assert recoverer(world, core=core).recover(recovery) is RecoveryState.FAILED
    assert core.asked == []


def test_no_fresh_bundle_for_a_ticket_of_the_day_before_yesterday_or_another_worker(world: World) -> None:
    for at, refusal in ((timedelta(days=2), Refusal.EXPIRED), (timedelta(0), Refusal.TICKET)):
        terms, recovery = opened(world)
        ticket = resigned(world, bundle_of(world, recovery), issued_at=(datetime.now(UTC) - at).isoformat())
        if refusal is Refusal.TICKET:
            ticket = resigned(world, ticket, worker="0" * 16)
        aged(world, recovery)
        canonical, signature = ticket.ticket_canonical.hex(), ticket.ticket_signature.hex()
        world.owner(
            "ALTER TABLE tickets DISABLE TRIGGER USER",
            f"UPDATE tickets SET canonical = '\\x{canonical}', signature = '\\x{signature}' WHERE request_id = '{terms.id}'",
        )
        assert world.custodian().open(terms.id) == Opened(None, refusal, again=True)


def replace_signing_key(world: World) -> Ed25519PrivateKey:
    """The key that was replaced, as who stole it has it."""
    stolen = Ed25519PrivateKey.from_private_bytes(world.ticket_key().secret())
    file = world.folder / "ticket.json"
    keys.rewrite(file, keys.load(file, keys.FileKind.SIGNING).with_new(KeyType.ED25519))
    return stolen


def test_what_waits_when_the_signing_key_is_replaced_is_recovered(world: World) -> None:
    terms, recovery = opened(world)
    aged(world, recovery)
    replace_signing_key(world)
    assert world.custodian().open(terms.id) == Opened(recovery, again=True)
    assert recoverer(world).recover(recovery) is RecoveryState.RECOVERED


def test_a_ticket_that_a_thief_signs_with_a_replaced_key_gets_no_keys(world: World) -> None:
    """Of a request that nobody approved; the thief owns the database as well."""
    _, recovery = opened(world)
    thief = replace_signing_key(world)
    wanted = world.request()
    aged(world, recovery)
    said = json.loads(bundle_of(world, recovery).ticket_canonical)
    said |= {"request": str(wanted.id), "request_sha256": wanted.sha256().hex()}
    canonical = json.dumps(said, sort_keys=True, separators=(",", ":")).encode()
    world.owner(
        "ALTER TABLE tickets DISABLE TRIGGER USER",
        "ALTER TABLE recovery_requests DISABLE TRIGGER USER",
        f"UPDATE tickets SET request_id = '{wanted.id}', canonical = '\\x{canonical.hex()}',"
        f" signature = '\\x{thief.sign(canonical).hex()}'",
        f"UPDATE recovery_requests SET state = 'recovering' WHERE id = '{wanted.id}'",
    )
    assert world.custodian().open(wanted.id) == Opened(None, Refusal.TICKET, again=True)
    core = KeyedCore()
    assert recoverer(world, core=core).recover(recovery) is RecoveryState.FAILED
    assert core.asked == []


def test_what_the_custodian_signed_otherwise_is_no_ticket(world: World) -> None:
    """The same key signs events: one of those in a ticket's place ends the recovery, and nothing else."""
    terms, recovery = opened(world)
    aged(world, recovery)
    signed = Ed25519PrivateKey.from_private_bytes(world.ticket_key().secret()).sign(b"no JSON at all").hex()
    world.owner(
        "ALTER TABLE tickets DISABLE TRIGGER USER",
        f"UPDATE tickets SET canonical = 'no JSON at all', signature = '\\x{signed}'",
    )
    assert world.custodian().open(terms.id) == Opened(None, Refusal.TICKET, again=True)


def test_a_recovery_in_a_workers_hand_is_left_alone(world: World) -> None:
    terms, recovery = opened(world)
    aged(world, recovery)
    before = bundle_of(world, recovery)
    with recoverer(world)._in_hand(recovery) as mine:
        assert mine
        assert world.custodian().open(terms.id) == Opened(recovery, again=True)
        assert bundle_of(world, recovery) == before
    world.custodian().open(terms.id)
    assert bundle_of(world, recovery) != before


def test_a_ticket_of_another_recovery_does_not_fit(world: World) -> None:
    """Two recoveries of the same faces by the same people: neither's ticket serves the other."""
    (_, one), (_, two) = opened(world), opened(world)
    other = bundle_of(world, two)
    mixed = replace(
        bundle_of(world, one), ticket_canonical=other.ticket_canonical, ticket_signature=other.ticket_signature
    )
    put(world, one, mixed)
    assert recoverer(world).recover(one) is RecoveryState.FAILED
    assert recoverer(world).recover(two) is RecoveryState.RECOVERED


def test_what_the_row_keeps_is_what_was_signed(world: World) -> None:
    _, recovery = opened(world)
    with world.as_("gateway")() as session:
        row = session.execute(select(Ticket)).scalar_one()
    bundle = bundle_of(world, recovery)
    assert (row.canonical, row.signature) == (bundle.ticket_canonical, bundle.ticket_signature)
    publics, worker = [world.ticket_key().public], world.recovery_key().id
    assert check_ticket(publics, bundle, worker).expires_at == row.expires_at
    with pytest.raises(TicketInvalid, match="another worker"):
        check_ticket(publics, bundle, "0" * 16)
    terms = json.loads(bundle.ticket_canonical)
    assert "identification" not in json.dumps(terms), "the purpose goes in by its hash"


def test_a_ticket_keeps_its_bytes() -> None:
    ids = [UUID(int=number) for number in range(1, 6)]
    moment = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)
    ticket = TicketTerms(
        id=ids[0],
        request=ids[1],
        request_sha256=bytes(32),
        recovery=ids[2],
        release=ids[3],
        faces=(FaceRef(ids[4], 1), FaceRef(ids[4], 0)),
        purpose="a witness",
        recipient=key_id(KeyType.X25519, bytes(32)),
        worker="0123456789abcdef",
        issued_at=moment,
        expires_at=moment + timedelta(hours=1),
    )
    assert ticket.canonical() == replace(ticket, faces=ticket.faces[::-1]).canonical()
    signature = TicketSigner(bytes(range(32))).sign(ticket)
    Ed25519PrivateKey.from_private_bytes(bytes(range(32))).public_key().verify(signature, ticket.canonical())
    assert json.loads(ticket.canonical())["expires_at"] == "2026-01-02T04:04:05.000006Z"
    second = replace(ticket, policy_sha256="ab" * 32, roster_sha256="cd" * 32)
    more = {"v": 2, "policy_sha256": "ab" * 32, "roster_sha256": "cd" * 32}
    assert json.loads(second.canonical()) == json.loads(ticket.canonical()) | more
    assert json.loads(ticket.canonical())["v"] == 1


def test_a_ticket_of_before_it_said_by_which_policy_still_recovers(world: World) -> None:
    _, recovery = opened(world)
    bundle = bundle_of(world, recovery)
    said = json.loads(bundle.ticket_canonical)
    assert (said.pop("v"), len(said.pop("policy_sha256")), len(said.pop("roster_sha256"))) == (2, 64, 64)
    canonical = json.dumps(said | {"v": 1}, sort_keys=True, separators=(",", ":")).encode()
    signature = world.ticket_key().sign(canonical)
    put(world, recovery, replace(bundle, ticket_canonical=canonical, ticket_signature=signature))
    assert recoverer(world).recover(recovery) is RecoveryState.RECOVERED
