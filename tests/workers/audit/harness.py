"""What the tests of the trail do again and again: a notary, a whole verification, a life from request to fetch, an owner's attack."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

import psycopg

from schemas.requests import RequestTerms
from schemas.states import RecoveryState
from tests.conftest import Database
from tests.governance import World, sessions
from tests.workers.recoveries.test_recovery import recoverer
from workers.audit.crosscheck import crosscheck
from workers.audit.heads import Anchors, HeadSigner
from workers.audit.notary import Notary
from workers.audit.verify import Verification, verify
from workers.custody.roster import Roster

TABLES = ("events", "nodes", "tree_heads")


def new_notary(database: Database, anchors: Anchors, signer: HeadSigner) -> Notary:
    return Notary(sessions(database.url_for("notary")), anchors, signer, timedelta(days=1))


def verified(
    database: Database,
    anchors: Anchors,
    signer: HeadSigner,
    roster: Roster | None = None,
    custodian: dict[str, bytes] | None = None,
) -> Verification:
    """What `refacex audit verify` finds, with the gateway's role."""
    with sessions(database.url_for("gateway"))() as session:
        result = verify(session, anchors, signer.verifier)
        crosscheck(session, result, roster, custodian)
    return result


def fetched(world: World) -> tuple[RequestTerms, UUID]:
    """A request that went all the way: asked, approved twice, opened, recovered, fetched."""
    terms = world.approved((0, 0), (1, 1))
    recovery = world.custodian().open(terms.id).recovery
    assert recovery is not None
    assert recoverer(world).recover(recovery) is RecoveryState.RECOVERED
    assert len(world.fetch(terms, recovery)) == 2
    return terms, recovery


def as_owner(database: Database, *statements: str) -> None:
    """What the database owner can do: anything, triggers included."""
    with psycopg.connect(database.owner_url.replace("+psycopg", ""), autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)


def disarm(table: str = "events") -> str:
    return f"ALTER TABLE audit.{table} DISABLE TRIGGER append_only"


def rearm(table: str = "events") -> str:
    return f"ALTER TABLE audit.{table} ENABLE ALWAYS TRIGGER append_only"
