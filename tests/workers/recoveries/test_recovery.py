"""From request to fetch, with the roles of life and a core that hands back faces it can be asked about."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Sequence
from time import sleep
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from PIL import Image
from sqlalchemy import func, select, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import undefer

from refacex_core.errors import PayloadMismatch, WrongKey
from refacex_core.types import RGB, RecoveryKeys, SealContext
from refacex_core.types import RecoveredFace as CoreFace
from schemas.requests import FaceRef, face_info, withdraw_message
from schemas.states import Decision, RecoveryState, RequestState
from schemas.tables import Outbox, RecoveredFace, Recovery, RecoveryRequest, Ticket
from tests.conftest import Buckets
from tests.governance import GROUNDS, MODEL, POLICY, SHORT, World
from workers.custody import keys
from workers.custody.errors import Unwrappable
from workers.custody.judge import Signed
from workers.custody.opening import open_sealed
from workers.custody.tickets import TicketSigner
from workers.errors import ObjectMissing, StorageAway
from workers.recoveries import decisions, errors, expiry, service
from workers.recoveries.marking import BAND
from workers.recoveries.worker import MAX_ATTEMPTS, Recoverer
from workers.settings import RecoverySettings
from workers.storage import Storage


class KeyedCore:
    """Stands for the networks alone: a face's pixels follow from its key and context, so a wrong one shows."""

    model_version = MODEL

    def __init__(self) -> None:
        self.asked: list[tuple[bytes, RecoveryKeys, SealContext]] = []
        self.marked: list[bytes] = []

    def recover(self, data: bytes, keys: RecoveryKeys, context: SealContext) -> list[CoreFace]:
        self.asked.append((data, keys, context))
        if b"transplanted" in data:
            raise PayloadMismatch
        return [CoreFace(face, pixels(key), np.eye(2, 3)) for face, key in sorted(keys.face_keys.items())]

    def anonymise(self, items: Sequence[Any]) -> Any:
        raise NotImplementedError

    def inspect(self, data: bytes) -> Any:
        raise NotImplementedError

    def restore(self, data: bytes, faces: Sequence[CoreFace]) -> Any:
        raise NotImplementedError

    def mark(self, crop: RGB, ticket: bytes) -> RGB:
        self.marked.append(ticket)
        return crop


def pixels(key: bytes) -> np.ndarray[Any, np.dtype[np.uint8]]:
    noise = hashlib.shake_256(key).digest(16 * 16 * 3)
    return np.frombuffer(noise, np.uint8).reshape(16, 16, 3).repeat(16, 0).repeat(16, 1)


def recoverer(world: World, read: Callable[[str], bytes] | None = None, core: KeyedCore | None = None) -> Recoverer:
    def from_world(key: str) -> bytes:
        if key not in world.files:
            raise ObjectMissing
        return world.files[key]

    used = core or KeyedCore()
    publics = TicketSigner.load(world.folder / "ticket.json").publics
    return Recoverer(world.as_("recovery"), world.recovery_key(), publics, read or from_world, lambda: used)


def opened(world: World, *faces: tuple[int, int]) -> tuple[Any, Any]:
    terms = world.approved(*faces)
    recovery = world.custodian().open(terms.id).recovery
    assert recovery is not None
    return terms, recovery


def fetch(world: World, recovery: Any, actor: str = "alice") -> list[service.SealedFace]:
    request = select(Ticket.request_id).join(Recovery, Recovery.ticket_id == Ticket.id).where(Recovery.id == recovery)
    with world.as_("gateway").begin() as session:
        known = session.execute(request).scalar_one_or_none()
        terms = service.load_terms(session, known) if known else world.draft()
    return world.fetch(terms, recovery, actor)


def test_the_requester_alone_gets_the_approved_faces_once(world: World) -> None:
    terms, recovery = opened(world, (0, 1), (1, 0))
    core = KeyedCore()
    assert recoverer(world, core=core).recover(recovery) is RecoveryState.RECOVERED
    assert {context for _, _, context in core.asked} == {
        SealContext("acme", str(world.release), str(item), MODEL, POLICY) for item in world.items
    }
    assert core.marked == [world.one(select(Ticket.id)).bytes] * 2
    faces = fetch(world, recovery)
    assert {(each.item, each.face) for each in faces} == {(world.items[0], 1), (world.items[1], 0)}
    secret = world.people["alice"].receiving.private_bytes_raw()
    for each in faces:
        info = face_info(recovery, each.item, each.face)
        png = open_sealed(secret, each.sealed, info)
        shown = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
        assert shown.shape == (256 + BAND, 256, 3), "the band that says under which ticket"
        assert (shown[:256] == pixels(world.secrets[each.item, each.face])).all()
        assert len(np.unique(shown[256:].reshape(-1, 3), axis=0)) > 2, "something is written on it"
        for other in ("bob", "eve"):
            with pytest.raises(Unwrappable):
                open_sealed(world.people[other].receiving.private_bytes_raw(), each.sealed, info)
        with pytest.raises(Unwrappable):
            open_sealed(secret, each.sealed, face_info(recovery, each.item, each.face + 1))
    with pytest.raises(errors.NothingToFetch):
        fetch(world, recovery)
    left = select(func.count()).select_from(RecoveredFace).where(RecoveredFace.sealed.is_not(None))
    assert world.one(left) == 0
    names = [each["event"] for each in world.events()]
    assert names == [
        "request:opened",
        "request:approved",
        "request:approved",
        "ticket:issued",
        "ticket:spent",
        "recovery:recovered",
        "recovery:fetched",
    ]
    assert {each["fields"]["request_hash"] for each in world.events()} == {terms.sha256().hex()}
    text = " ".join(map(str, world.events()))
    assert not [word for word in vars(GROUNDS).values() if word in text], "free text stays outside the tree"


def test_it_reads_the_file_out_of_the_bucket(world: World, buckets: Buckets, s3_admin: Any, monkeypatch: Any) -> None:
    for name, value in (
        buckets.environment("recovery") | {"REFACEX_DATABASE_URL": "x", "REFACEX_BROKER_URL": "x"}
    ).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("REFACEX_RECOVERY_PRIVATE_KEY", "x")
    monkeypatch.setenv("REFACEX_TICKET_PUBLIC_KEY", "x")
    settings = RecoverySettings.load()
    for key, data in world.files.items():
        s3_admin.put_object(Bucket=buckets.releases, Key=key, Body=data)
    _, recovery = opened(world)
    storage = Storage(settings)
    worker = recoverer(world, read=lambda key: storage.get(settings.bucket_releases, key))
    assert worker.recover(recovery) is RecoveryState.RECOVERED


def test_a_message_that_comes_twice_recovers_once(world: World) -> None:
    _, recovery = opened(world)
    core = KeyedCore()
    states = [recoverer(world, core=core).recover(recovery) for _ in range(2)]
    assert (states, len(core.asked)) == ([RecoveryState.RECOVERED] * 2, 1)
    assert recoverer(world).recover(uuid4()) is None
    with world.as_("recovery")() as session:
        row = session.get_one(Recovery, recovery, options=[undefer(Recovery.key_bundle)])
        assert row.key_bundle is None, "used keys are gone"


def test_an_engine_that_is_away_leaves_it_bound(world: World) -> None:
    _, recovery = opened(world)

    def away(_: str) -> bytes:
        raise StorageAway

    for _ in range(MAX_ATTEMPTS + 1):
        with pytest.raises(StorageAway):
            recoverer(world, read=away).recover(recovery)
    assert world.one(select(Recovery.attempts)) == 0, "a store that is down uses up no attempt"
    assert recoverer(world).recover(recovery) is RecoveryState.RECOVERED


def test_a_recovery_that_never_ends_is_given_up(world: World) -> None:
    terms, recovery = opened(world)
    seen = []

    def crash(_: str) -> bytes:
        seen.append(world.one(select(Recovery.attempts)))
        raise KeyboardInterrupt

    for _ in range(MAX_ATTEMPTS):
        with pytest.raises(KeyboardInterrupt):
            recoverer(world, read=crash).recover(recovery)
    assert seen == [1, 2, 3], "each is counted before a file is read"
    assert world.one(select(Recovery.state)) is RecoveryState.BOUND
    assert recoverer(world, read=crash).recover(recovery) is RecoveryState.FAILED
    assert len(seen) == MAX_ATTEMPTS
    last = world.events()[-1]
    assert (last["event"], last["fields"]["request"]) == ("recovery:failed", str(terms.id))
    assert last["fields"]["detail"] == {"faces": 0, "code": "attempts_used_up"}
    assert world.one(select(RecoveryRequest.state)) is RequestState.FAILED
    with world.as_("recovery")() as session:
        row = session.get_one(Recovery, recovery, options=[undefer(Recovery.key_bundle)])
        assert (row.key_bundle, row.error_code) == (None, "attempts_used_up"), "its keys are gone"


def test_what_another_worker_has_in_hand_is_left_to_it(world: World) -> None:
    """Messages that come again while a long recovery runs neither repeat it nor use up its attempts."""
    _, recovery = opened(world)
    core = KeyedCore()

    def read(key: str) -> bytes:
        for _ in range(MAX_ATTEMPTS + 1):
            assert recoverer(world, core=core).recover(recovery) is RecoveryState.BOUND
        return world.files[key]

    assert recoverer(world, read=read, core=core).recover(recovery) is RecoveryState.RECOVERED
    assert (len(core.asked), world.one(select(Recovery.attempts))) == (1, 1)


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (lambda world, key: world.files.pop(key), "object_missing"),
        (lambda world, key: world.files.update({key: b"changed"}), "object_changed"),
    ],
)
def test_a_file_that_is_not_what_was_released_fails(world: World, damage: Any, code: str) -> None:
    terms, recovery = opened(world)
    world.files = dict(world.files)
    damage(world, next(key for key in world.files if key.startswith(str(world.items[0]))))
    assert recoverer(world).recover(recovery) is RecoveryState.FAILED
    assert world.one(select(Recovery.error_code)) == code
    assert world.one(select(RecoveryRequest.state)) is RequestState.FAILED
    assert world.events()[-1]["fields"]["detail"]["code"] == code
    with pytest.raises(errors.NothingToFetch):
        fetch(world, recovery)
    opened_again = world.custodian().open(terms.id)
    assert (opened_again.recovery, opened_again.again) == (recovery, True), "there is no second try"


@pytest.mark.parametrize("failure", [PayloadMismatch, WrongKey])
def test_a_typed_error_of_the_core_is_the_recoverys_failure(world: World, failure: type[Exception]) -> None:
    class Refusing(KeyedCore):
        def recover(self, data: bytes, keys: RecoveryKeys, context: SealContext) -> list[CoreFace]:
            raise failure

    _, recovery = opened(world)
    assert recoverer(world, core=Refusing()).recover(recovery) is RecoveryState.FAILED
    assert world.one(select(Recovery.error_code)) == failure.code  # type: ignore[attr-defined]
    assert world.one(select(func.count()).select_from(RecoveredFace)) == 0


def test_one_bad_item_does_not_hold_back_the_others(world: World) -> None:
    _, recovery = opened(world, (0, 0), (1, 0))
    world.files = {key: data for key, data in world.files.items() if not key.startswith(str(world.items[0]))}
    assert recoverer(world).recover(recovery) is RecoveryState.RECOVERED
    assert world.events()[-1]["fields"]["detail"]["failed"] == {str(world.items[0]): "object_missing"}
    assert [each.item for each in fetch(world, recovery)] == [world.items[1]]


def test_another_workers_key_opens_nothing(world: World) -> None:
    _, recovery = opened(world)
    keys.create_keypair(world.folder / "other.json")
    key = keys.load(world.folder / "other.json", keys.FileKind.KEYPAIR).of(keys.KeyType.X25519)
    other = Recoverer(world.as_("recovery"), key, (world.ticket_key().public,), lambda _: b"", KeyedCore)
    assert other.recover(recovery) is RecoveryState.FAILED
    assert world.one(select(Recovery.error_code)) == "bundle_unreadable"


def test_no_event_no_recovery_and_no_fetch(world: World) -> None:
    _, recovery = opened(world)
    take, give = (
        "REVOKE EXECUTE ON FUNCTION audit.append(text, jsonb) FROM {}",
        "GRANT EXECUTE ON FUNCTION audit.append(text, jsonb) TO {}",
    )
    world.owner(take.format("refacex_recovery"))
    with pytest.raises(DBAPIError):
        recoverer(world).recover(recovery)
    assert world.one(select(func.count()).select_from(RecoveredFace)) == 0
    world.owner(give.format("refacex_recovery"))
    assert recoverer(world).recover(recovery) is RecoveryState.RECOVERED
    world.owner(take.format("refacex_gateway"))
    with pytest.raises(DBAPIError):
        fetch(world, recovery)
    world.owner(give.format("refacex_gateway"))
    assert len(fetch(world, recovery)) == 1


def test_only_the_requester_fetches(world: World) -> None:
    _, recovery = opened(world)
    recoverer(world).recover(recovery)
    with pytest.raises(errors.NotTheRequester):
        fetch(world, recovery, "bob")
    with pytest.raises(errors.NothingToFetch):
        fetch(world, uuid4())
    assert len(fetch(world, recovery)) == 1


# --- requests and decisions


def test_what_a_request_may_ask_for(world: World) -> None:
    item = world.items[0]
    ask: dict[str, Any] = {"release_id": world.release, "requester": "alice", "grounds": GROUNDS}
    bad: list[tuple[dict[str, Any], type[Exception]]] = [
        ({"faces": []}, errors.RequestIncomplete),
        ({"faces": [FaceRef(item, 2)]}, errors.FaceNotReleased),
        ({"faces": [FaceRef(uuid4(), 0)]}, errors.FaceNotReleased),
        ({"faces": [FaceRef(item, 0)], "release_id": uuid4()}, errors.FaceNotReleased),
        ({"faces": [FaceRef(item, 0)], "requester": "bob"}, errors.PersonUnknown),
        ({"faces": [FaceRef(item, 0)], "requester": "nobody"}, errors.PersonUnknown),
        ({"faces": [FaceRef(item, 0)], "quorum": 1}, errors.QuorumTooSmall),
        ({"faces": [FaceRef(item, 0)], "grounds": service.Grounds("a", "b", "c", " ")}, errors.RequestIncomplete),
    ]
    for changes, error in bad:
        with world.as_("gateway")() as session, pytest.raises(error):
            service.draft_request(session, **(ask | changes))
    assert world.events() == []


def decide(world: World, terms: Any, who: str, decision: Decision, signature: bytes | None = None) -> RequestState:
    signed = signature or world.people[who].sign(terms, decision)
    with world.as_("gateway").begin() as session:
        return (decisions.approve if decision is Decision.APPROVE else decisions.deny)(
            session, terms.id, who, Signed(signed)
        )


def test_who_may_decide(world: World) -> None:
    terms = world.request()
    for who, error in (("alice", errors.OwnRequest), ("eve", errors.PersonUnknown)):
        with pytest.raises(error):
            decide(world, terms, who, Decision.APPROVE)
    with pytest.raises(errors.SignatureInvalid):
        decide(world, terms, "bob", Decision.APPROVE, world.people["carol"].sign(terms))
    with pytest.raises(errors.SignatureInvalid):
        decide(world, terms, "bob", Decision.APPROVE, world.people["bob"].sign(terms, Decision.DENY))
    assert decide(world, terms, "bob", Decision.APPROVE) is RequestState.OPEN
    with pytest.raises(errors.AlreadyDecided):
        decide(world, terms, "bob", Decision.APPROVE)
    assert world.one(select(func.count()).select_from(Outbox), role="relay") == 0
    assert decide(world, terms, "carol", Decision.APPROVE) is RequestState.APPROVED
    message = select(Outbox.task + " " + Outbox.broker)
    assert world.one(message, role="relay") == "custody.open privileged"


def test_a_denial_closes_it_even_after_the_quorum(world: World) -> None:
    terms = world.approved()
    assert decide(world, terms, "dave", Decision.DENY) is RequestState.DENIED
    assert world.custodian().open(terms.id).refusal == "not_approved"
    with pytest.raises(errors.RequestClosed):
        decide(world, terms, "dave", Decision.APPROVE)


def test_only_the_requester_withdraws(world: World) -> None:
    terms = world.request()
    with pytest.raises(errors.NotTheRequester):
        world.withdraw(terms, "bob")
    wrong = world.people["bob"].signing.sign(withdraw_message(terms.sha256()))
    with world.as_("gateway")() as session, pytest.raises(errors.SignatureInvalid):
        service.withdraw(session, terms.id, "alice", wrong)
    assert world.withdraw(terms) is RequestState.WITHDRAWN
    with pytest.raises(errors.RequestClosed):
        decide(world, terms, "bob", Decision.APPROVE)
    assert world.events()[-1]["event"] == "request:withdrawn"


def test_what_outlives_its_time_is_swept(world: World) -> None:
    old, kept = world.request(life=SHORT), world.request()
    _, recovery = opened(world)
    recoverer(world).recover(recovery)
    _, unused = opened(world, (1, 1))
    world.owner(
        "ALTER TABLE recoveries DISABLE TRIGGER USER",
        "UPDATE recoveries SET expires_at = now()",
        "ALTER TABLE recoveries ENABLE TRIGGER USER",
    )
    sleep(SHORT.total_seconds())
    with pytest.raises(errors.NothingToFetch):
        fetch(world, recovery)
    assert recoverer(world).recover(unused) is RecoveryState.EXPIRED
    with world.as_("relay").begin() as session:
        assert expiry.sweep(session, "reconciler") == 2
    with world.as_("relay").begin() as session:
        assert expiry.sweep(session, "reconciler") == 0
    with world.as_("gateway")() as session:
        states = {row.id: row.state for row in session.execute(select(RecoveryRequest.id, RecoveryRequest.state))}
        assert (states[old.id], states[kept.id]) == (RequestState.EXPIRED, RequestState.OPEN)
        assert set(session.execute(select(Recovery.state)).scalars()) == {RecoveryState.EXPIRED}
        assert set(session.execute(select(RecoveredFace.sealed)).scalars()) == {None}
    assert {each["event"] for each in world.events()[-2:]} == {"request:expired", "recovery:expired"}


def test_a_recovered_face_can_only_be_taken_away(world: World) -> None:
    _, recovery = opened(world)
    recoverer(world).recover(recovery)
    with world.as_("gateway")() as session, pytest.raises(DBAPIError, match="only be taken away"):
        session.execute(update(RecoveredFace).values(sealed=b"another"))
