"""The custodian: `celery -A workers.custody.app:app worker -c 1 -Q custody`, on the privileged broker. No torch, no
images.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from uuid import UUID

from celery.signals import worker_init, worker_process_init
from sqlalchemy.exc import DBAPIError

from schemas.messages import Queue, TaskName
from workers.alerts import AlertKind, raise_alert
from workers.app import log_as, make_app
from workers.audit.attested import attesting
from workers.custody import keys, orders, retention, shredding
from workers.custody.errors import LedgerBehind, LedgerInvalid
from workers.custody.judge import Refusal
from workers.custody.ledger import Ledger
from workers.custody.providers.unwrappers import unwrapper_of
from workers.custody.recall import catch_up
from workers.custody.service import Custodian
from workers.custody.tickets import TicketSigner
from workers.logs import get_logger
from workers.settings import CustodianSettings

log = get_logger(__name__)

settings = CustodianSettings.load()
log_as("custodian", settings.log_format, settings.log_level)
app = make_app("custody", settings.broker_url, [Queue.CUSTODY.value], privileged=True)
app.database_url = settings.database_url


@cache
def signer() -> TicketSigner:
    """The key that this custodian signs with. Raises what reading it raises."""
    return TicketSigner.load(settings.ticket_signing_key)


app.attest = lambda sessions: attesting(sessions, signer().events)


@cache
def ledger() -> Ledger:
    """This process's ledger, which knows what it read: kept as long as the process lives."""
    return Ledger(settings.tombstones)


@cache
def custodian() -> Custodian:
    """This process's custodian, made after the fork; its key ring is read again when it was replaced.

    Raises LedgerMissing and LedgerBehind: without its memory it does nothing, and the next message finds out again.
    """
    made = Custodian(
        sessions=app.sessions,
        unwrapper=unwrapper_of(settings),
        roster=settings.roster,
        policies=settings.policies,
        ledger=ledger(),
        recovery_public=keys.load_public(settings.recovery_public_key),
        tickets=signer(),
    )
    caught_up = catch_up(made.sessions, made.ledger, made.tickets.events)
    if caught_up:
        log.warning("ledger_caught_up", tickets=caught_up)
    return made


@contextmanager
def at_work() -> Iterator[Custodian]:
    """The custodian for one message. After anything wrong with its ledger the next one holds that against the trail again."""
    try:
        yield custodian()
    except LedgerInvalid as error:
        custodian.cache_clear()
        if isinstance(error, LedgerBehind):  # what is put in its place need not go on from it
            ledger.cache_clear()
        with suppress(DBAPIError):
            alert(error.code)
        raise


@cache
def alert(code: str) -> None:
    """Tells, once a process, that this custodian does nothing: from outside it looks as if it had nothing to do."""
    with app.sessions.begin() as session:
        raise_alert(session, AlertKind.LEDGER_REFUSED, code=code)


@worker_init.connect(weak=False)  # type: ignore[untyped-decorator]
def refuse_without_ledger(**_: object) -> None:
    """Ends the process where there is no ledger: its log says so at its start, and not with the first message."""
    try:
        Ledger(settings.tombstones).holds()
    except LedgerInvalid as error:
        log.critical("custodian_refuses", exc_info=error)
        raise SystemExit(f"refacex: {error}") from None


@worker_process_init.connect(weak=False)  # type: ignore[untyped-decorator]
def get_ready(**_: object) -> None:
    """Looks at its ledger before the first message comes, and tells the trail what was pinned meanwhile; what is wrong then
    refuses each message as well.
    """
    try:
        with at_work() as made:
            made.load_roster()
            made.load_policies()
    except Exception as error:  # an engine that is away may be back when the first message comes
        log.critical("custodian_not_ready", exc_info=error)


@app.task(name=TaskName.OPEN.value)  # type: ignore[untyped-decorator]
def open_request(request_id: str) -> None:
    """Open one approved request, unless it is open already."""
    with at_work() as made:
        opened = made.open(UUID(request_id))
        if opened.refusal is Refusal.KEY_SHREDDED:
            _shred_again(made)
    if opened.refusal is not None:
        log.warning("ticket_refused", request=request_id, refusal=opened.refusal.value)
    else:
        log.info("request_opened", request=request_id, recovery=str(opened.recovery), again=opened.again)


@app.task(name=TaskName.CARRY_OUT.value)  # type: ignore[untyped-decorator]
def carry_out_order(order_id: str) -> None:
    """Carry out one key officer's order, unless that is done already."""
    with at_work() as made:
        carried = orders.carry_out(made, UUID(order_id))
    state = carried.state.value if carried.state else "unknown"
    log.info("order_carried_out", order=order_id, state=state, refusal=carried.refusal, keys=carried.keys)


@app.task(name=TaskName.RETAIN.value)  # type: ignore[untyped-decorator]
def retain_release(release_id: str) -> None:
    """Shred the keys of one release, if their time is over."""
    with at_work() as made:
        done = retention.retain(made, UUID(release_id))
    log.info("release_retained", release=release_id, due=done.due, keys=done.keys, held=done.held, strange=done.strange)


def _shred_again(made: Custodian) -> None:
    """Whoever brought back one key that was shredded, as from a backup, brought back others."""
    keys_again = shredding.shred_again(made)
    if keys_again:
        log.warning("keys_shredded_again", keys=keys_again)
