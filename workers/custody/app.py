"""The custodian: `celery -A workers.custody.app:app worker -c 1 -Q custody`, on the privileged broker. No torch, no
images.
"""

from __future__ import annotations

from functools import cache
from uuid import UUID

from schemas.messages import Queue, TaskName
from workers.app import log_as, make_app
from workers.custody import keys
from workers.custody.ledger import Ledger
from workers.custody.providers.unwrappers import unwrapper_of
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
def custodian() -> Custodian:
    """This process's custodian, made after the fork; its key ring is read again when it was replaced."""
    signing = keys.load(settings.ticket_signing_key, keys.FileKind.SIGNING).of(keys.KeyType.ED25519)
    return Custodian(
        sessions=app.sessions,
        unwrapper=unwrapper_of(settings),
        roster=settings.roster,
        policies=settings.policies,
        ledger=Ledger(settings.tombstones),
        recovery_public=keys.load_public(settings.recovery_public_key),
        tickets=TicketSigner(signing.secret()),
    )


@app.task(name=TaskName.OPEN.value)  # type: ignore[untyped-decorator]
def open_request(request_id: str) -> None:
    """Open one approved request, unless it is open already."""
    opened = custodian().open(UUID(request_id))
    if opened.refusal is not None:
        log.warning("ticket_refused", request=request_id, refusal=opened.refusal.value)
    else:
        log.info("request_opened", request=request_id, recovery=str(opened.recovery), again=opened.again)
