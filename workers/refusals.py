"""Why a request, a recovery or an order came to nothing, in words with what to do next: by the codes that tables and trail hold."""

from __future__ import annotations

from refacex_core.errors import CoreError
from workers.custody.judge import Refusal
from workers.custody.orders import OrderRefusal
from workers.errors import WorkerError
from workers.recoveries import errors as _errors  # noqa: F401  (their codes are looked up below)

_AGAIN = "and open another request"
_TAMPERED = "somebody changed the database: find out who,"

REQUESTS: dict[Refusal, str] = {
    Refusal.UNKNOWN: "The custodian knows no such request: ask again with `refacex request new`.",
    Refusal.NOT_APPROVED: f"It was put before the custodian and is not approved: {_TAMPERED} {_AGAIN}.",
    Refusal.EXPIRED: "It expired before it was opened: open another request.",
    Refusal.SPENT: "Its one ticket was spent before: open another request if the faces are still needed.",
    Refusal.CHANGED: f"It is not what its requester signed any more: {_TAMPERED} {_AGAIN}.",
    Refusal.REQUESTER: f"The custodian's roster does not have the requester as one: see `refacex roster list`, {_AGAIN}.",
    Refusal.UNSIGNED: f"The requester's signature is not by their key on the custodian's roster: see `refacex roster list`, {_AGAIN}.",
    Refusal.RECIPIENT: f"It is sealed to another key than the requester's on the custodian's roster: see `refacex roster list`, {_AGAIN}.",
    Refusal.FORGED: f"An approval is not signed by its approver's key on the custodian's roster: see `refacex roster list`, {_AGAIN}.",
    Refusal.APPROVER: f"The custodian's roster does not have an approver as one: see `refacex roster list`, {_AGAIN}.",
    Refusal.OWN_REQUEST: "Its requester approved it, and nobody decides on their own request: open another, which others approve.",
    Refusal.SUBMITTER: "Who submitted the release approved it, which its policy forbids: open another request, which others approve.",
    Refusal.SUBMISSION: "Its policy takes signed submissions alone, and no submitter on the custodian's roster signed this release: see "
    f"`refacex audit verify`, put one who left back with `refacex roster add`, {_AGAIN}.",
    Refusal.NAMES: f"The file names of its release are not those that were submitted: see `refacex audit verify`, {_TAMPERED} {_AGAIN}.",
    Refusal.DENIED: "An approver denied it: settle that with them before anybody asks again.",
    Refusal.QUORUM: "The custodian needs more approvals than it asks for or has: compare `refacex policy show` with what is pinned there, "
    f"{_AGAIN}, with --quorum.",
    Refusal.POLICY: f"The custodian has no policy of the release's: pin it there with `refacex policy pin`, {_AGAIN}.",
    Refusal.PURPOSE: f"The custodian's policy does not allow its purpose: see `refacex policy show`, {_AGAIN}.",
    Refusal.TOO_MANY: "It names more items than the custodian's policy allows at once: ask for fewer.",
    Refusal.HOURS: "It is outside the hours of its policy, and waits for them: see `refacex policy show`.",
    Refusal.GLASS: "The custodian's policy does not let the glass be broken: open another request without --break-glass.",
    Refusal.REVIEW: "Its requester broke the glass before, and no auditor closed that review in a way that counts: see "
    f"`refacex review list`, {_AGAIN}.",
    Refusal.LIFE: "It stays open for too long: open another request, with fewer --days.",
    Refusal.ITEM: f"One of its items is not released, or not of its release: see `refacex release report`, {_AGAIN}.",
    Refusal.TICKET: f"The ticket in the database is not the custodian's for it: {_TAMPERED} {_AGAIN}.",
    Refusal.KEY_MISSING: f"A face has no sealed key in the database: restore it from a backup, see `refacex keys check`, {_AGAIN}.",
    Refusal.KEY_SHREDDED: "The key of one of its faces was shredded: nobody can ever recover that face. Ask for the others alone.",
    Refusal.KEY_FOREIGN: "A face's key does not open with the custodian's: see `refacex keys check`, restore what it names, "
    f"{_AGAIN}.",
}

ORDERS: dict[OrderRefusal, str] = {
    OrderRefusal.CHANGED: f"It is not what its officer signed any more: {_TAMPERED} and order again.",
    OrderRefusal.OFFICER: "The custodian's roster does not have its officer as one: see `refacex roster list`, and order again.",
    OrderRefusal.FORGED: "It is not signed by its officer's key on the custodian's roster: see `refacex roster list`, and order again.",
    OrderRefusal.STALE: "It was signed too long before the custodian met it: order again.",
    OrderRefusal.TARGET: "There is no such face, item, release or subject in its tenant: see `refacex release list`.",
    OrderRefusal.UNFINISHED: "Its release is not finished: wait for its end, or cancel it, and order again.",
    OrderRefusal.HELD: "A legal hold forbids it: see `refacex hold list`, have it lifted first, and order again.",
    OrderRefusal.NOT_HELD: "There is no hold of its tenant on just this: see `refacex hold list`.",
    OrderRefusal.SHOWN: "A release of it has other images than it was submitted with, or they show others: see `refacex audit verify`, "
    f"{_TAMPERED} and order again.",
    OrderRefusal.FOREIGN: "A key of it is not what the database says it is, or does not open: see `refacex keys check`, restore what it "
    "names, and order again.",
}


def why_no_face(code: str) -> str:
    """Why a request or its recovery came to nothing, or to fewer faces: by a refusal of the custodian or an error of the worker."""
    if code in set(Refusal):
        return REQUESTS[Refusal(code)]
    return next((_words(kind) for kind in _kinds(CoreError, WorkerError) if kind.code == code), _unknown(code))


def why_no_order(code: str) -> str:
    """Why an order was refused."""
    return ORDERS[OrderRefusal(code)] if code in set(OrderRefusal) else _unknown(code)


def _kinds(*kinds: type[CoreError | WorkerError]) -> list[type[CoreError | WorkerError]]:
    return [each for kind in kinds for each in (*_kinds(*kind.__subclasses__()), kind)]


def _words(kind: type[CoreError | WorkerError]) -> str:
    return " ".join((kind.__doc__ or "").split())


def _unknown(code: str) -> str:
    return f"It came to nothing for a reason that this version does not know ({code[:64]}): see the worker's log."
