"""What the tests of the trail do again and again: a notary, a whole verification, a life from request to fetch, an owner's attack."""

# ruff: noqa: S608  the statements are put together from this file's own words

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any
from uuid import UUID

import psycopg
from sqlalchemy import text

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


def as_superuser(world: World, *statements: str) -> None:
    """Triggers, foreign keys and checks out of the way, as somebody with the whole server has them."""
    url = world.database.admin_url.rsplit("/", 1)[0] + f"/{world.database.name}"
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in ("SET session_replication_role = replica", *statements):
            connection.execute(statement)


def disarm(table: str = "events") -> str:
    return f"ALTER TABLE audit.{table} DISABLE TRIGGER append_only"


def rearm(table: str = "events") -> str:
    return f"ALTER TABLE audit.{table} ENABLE ALWAYS TRIGGER append_only"


def write(world: World, event: str, fields: dict[str, Any], role: str = "refacex_custodian") -> None:
    """What the database's owner can do in any service's name: an event just as `audit.append` would have written it."""
    said = json.dumps(fields).replace("'", "''")
    world.owner(
        "WITH number AS (UPDATE audit.tail SET size = size + 1 RETURNING size - 1 AS seq, clock_timestamp() AS at), "
        "made AS (SELECT seq, at, convert_to(audit.canonical(jsonb_build_object('v', 1, 'seq', seq, 'at', to_char(at AT TIME ZONE "
        f"""'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), 'role', '{role}', 'event', '{event}', 'fields', '{said}'::jsonb)), 'UTF8') AS b """
        "FROM number) INSERT INTO audit.events (seq, at, role, event, canonical, leaf) "
        f"SELECT seq, at, '{role}', '{event}', b, sha256('\\x00'::bytea || b) FROM made"
    )


def write_deep(world: World, levels: int = 2_000) -> int:
    """What the database's owner writes past `audit.append`, whose recursion ends earlier."""
    deep = "[" * levels + "]" * levels
    world.owner(
        "WITH number AS (UPDATE audit.tail SET size = size + 1 RETURNING size - 1 AS seq, clock_timestamp() AS at), "
        'made AS (SELECT seq, at, convert_to(\'{"at":"\' || to_char(at AT TIME ZONE \'UTC\', \'YYYY-MM-DD"T"HH24:MI:SS.US"Z"\') || '
        f"""'","event":"item:claimed","fields":{{"actor":"w","detail":{{"x":{deep}}},"release":"{world.release}"}},"""
        """"role":"refacex_release","seq":' || seq || ',"v":1}', 'UTF8') AS b FROM number) """
        "INSERT INTO audit.events (seq, at, role, event, canonical, leaf) "
        "SELECT seq, at, 'refacex_release', 'item:claimed', b, sha256('\\x00'::bytea || b) FROM made"
    )
    with world.as_("gateway")() as session:
        return int(session.execute(text("SELECT max(seq) FROM audit.events")).scalar_one())
