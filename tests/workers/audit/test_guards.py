"""Every guard of the database: verification names each that is not what the migrations make."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sqlalchemy import text

from schemas.audit import AuditEvent
from tests.conftest import Database
from tests.governance import sessions
from tests.workers.audit.harness import as_owner, verified
from workers.audit import append
from workers.audit.guards import FILE, describe, differences, made_by_migrations
from workers.audit.heads import Anchors, HeadSigner
from workers.audit.verify import Problem

BODY = "LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$ BEGIN RETURN NEW; END $$"
# What the database's owner does, and the object that verification names.
ATTACKS: dict[str, tuple[str, str]] = {
    "drop a trigger": ("DROP TRIGGER append_only ON approvals", "trigger public.approvals.append_only"),
    "disable a trigger": ("ALTER TABLE tickets DISABLE TRIGGER guard", "trigger public.tickets.guard"),
    "a trigger for replicas alone": (
        "ALTER TABLE items ENABLE REPLICA TRIGGER guard",
        "trigger public.items.guard",
    ),
    "disarm the trail": ("ALTER TABLE audit.events DISABLE TRIGGER append_only", "trigger audit.events.append_only"),
    "a trigger that fires less often": (
        "CREATE OR REPLACE TRIGGER guard BEFORE UPDATE ON releases FOR EACH ROW WHEN (OLD.state = 'never') "
        "EXECUTE FUNCTION guard_release()",
        "trigger public.releases.guard",
    ),
    "a trigger of one's own": (
        "CREATE TRIGGER a BEFORE INSERT ON sealed_keys FOR EACH ROW EXECUTE FUNCTION guard_alert()",
        "trigger public.sealed_keys.a",
    ),
    "replace a trigger's function": (
        f"CREATE OR REPLACE FUNCTION guard_ticket() RETURNS trigger {BODY}",
        "function public.guard_ticket()",
    ),
    "replace audit.append": (
        "CREATE OR REPLACE FUNCTION audit.append(event text, fields jsonb) RETURNS bigint LANGUAGE sql SECURITY DEFINER "
        "SET search_path = pg_catalog, pg_temp AS 'SELECT 1::bigint'",
        "function audit.append(event text, fields jsonb)",
    ),
    "replace audit.canonical": (
        "CREATE OR REPLACE FUNCTION audit.canonical(value jsonb) RETURNS text LANGUAGE sql IMMUTABLE STRICT "
        "SET search_path = pg_catalog, pg_temp AS 'SELECT value::text'",
        "function audit.canonical(value jsonb)",
    ),
    "append with the caller's own rights": (
        "ALTER FUNCTION audit.append(text, jsonb) SECURITY INVOKER",
        "function audit.append(event text, fields jsonb)",
    ),
    "look names up elsewhere": (
        "ALTER FUNCTION guard_new_sealed_key() SET search_path = public, pg_catalog",
        "function public.guard_new_sealed_key()",
    ),
    "a function of one's own": (
        "CREATE FUNCTION audit.append(event text, fields json) RETURNS bigint LANGUAGE sql AS 'SELECT 1::bigint'",
        "function audit.append(event text, fields json)",
    ),
    "drop a check": (
        "ALTER TABLE approvals DROP CONSTRAINT approvals_not_by_requester_check",
        "constraint public.approvals.approvals_not_by_requester_check",
    ),
    "loosen a check": (
        "ALTER TABLE recovery_requests DROP CONSTRAINT recovery_requests_quorum_check, "
        "ADD CONSTRAINT recovery_requests_quorum_check CHECK (quorum >= 0)",
        "constraint public.recovery_requests.recovery_requests_quorum_check",
    ),
    "a check that nothing was held against": (
        "ALTER TABLE sealed_keys DROP CONSTRAINT sealed_keys_check1, "
        "ADD CONSTRAINT sealed_keys_check1 CHECK ((state = 'shredded') = (wrapped IS NULL)) NOT VALID",
        "constraint public.sealed_keys.sealed_keys_check1",
    ),
    "two tickets a request": (
        "ALTER TABLE tickets DROP CONSTRAINT tickets_request_id_key",
        "constraint public.tickets.tickets_request_id_key",
    ),
    "keys of no attempt": (
        "ALTER TABLE sealed_keys DROP CONSTRAINT sealed_keys_attempt_id_item_id_fkey",
        "constraint public.sealed_keys.sealed_keys_attempt_id_item_id_fkey",
    ),
    "publish twice": ("DROP INDEX attempts_one_published", "index public.attempts.attempts_one_published"),
    "an index that is about something else": (
        "DROP INDEX custody_keys_one_rotation; "
        "CREATE UNIQUE INDEX custody_keys_one_rotation ON custody_keys (rotating) WHERE NOT rotating AND rotating",
        "index public.custody_keys.custody_keys_one_rotation",
    ),
    "nulls allowed": (
        "ALTER TABLE custody_orders ALTER COLUMN signature DROP NOT NULL",
        "column public.custody_orders.signature",
    ),
    "born approved": (
        "ALTER TABLE recovery_requests ALTER COLUMN state SET DEFAULT 'approved'",
        "column public.recovery_requests.state",
    ),
    "a right to change": (
        "GRANT UPDATE ON approvals TO refacex_gateway",
        "privileges of refacex_gateway on table public.approvals",
    ),
    "a right to a column": (
        "GRANT SELECT (wrapped) ON sealed_keys TO refacex_release",
        "privileges of refacex_release on table public.sealed_keys",
    ),
    "a right to delete the trail": (
        "GRANT DELETE ON audit.events TO refacex_notary",
        "privileges of refacex_notary on table audit.events",
    ),
    "a right for everybody": (
        "GRANT EXECUTE ON FUNCTION audit.append(text, jsonb) TO PUBLIC",
        "privileges of @everybody on function audit.append(event text, fields jsonb)",
    ),
    "a right to hand on": (
        "GRANT SELECT ON sealed_keys TO refacex_custodian WITH GRANT OPTION",
        "privileges of refacex_custodian on table public.sealed_keys",
    ),
    "a right to make objects": (
        "GRANT CREATE ON SCHEMA audit TO refacex_relay",
        "privileges of refacex_relay on schema audit",
    ),
    "a right taken away": (
        "REVOKE INSERT ON alerts FROM refacex_custodian",
        "privileges of refacex_custodian on table public.alerts",
    ),
    "rows out of sight": ("CREATE POLICY p ON outbox USING (false)", "policy public.outbox.p"),
    "no row level security": ("ALTER TABLE outbox DISABLE ROW LEVEL SECURITY", "table public.outbox"),
    "a policy that lets anything in": (
        "ALTER POLICY custodian_writes ON outbox WITH CHECK (true)",
        "policy public.outbox.custodian_writes",
    ),
    "writing that does nothing": (
        "CREATE RULE r AS ON INSERT TO alerts DO INSTEAD NOTHING",
        "rule public.alerts.r",
    ),
    "rows from another table": ("CREATE TABLE more () INHERITS (approvals)", "table public.approvals"),
    "a view in the trail's place": (
        "ALTER TABLE audit.tree_heads RENAME TO kept; CREATE VIEW audit.tree_heads AS SELECT * FROM audit.kept",
        "view audit.tree_heads",
    ),
    "a table that a crash empties": ("ALTER TABLE alerts SET UNLOGGED", "table public.alerts"),
    "a function before PostgreSQL's own": (
        "CREATE FUNCTION encode(bytea, varchar) RETURNS text LANGUAGE sql AS 'SELECT NULL::text'",
        "function public.encode(bytea, character varying)",
    ),
    "an operator of one's own": (
        "CREATE OPERATOR public.= (LEFTARG = text, RIGHTARG = text, FUNCTION = pg_catalog.texteq)",
        "operator public.=(text,text)",
    ),
}
# What takes the server's superuser, or the roles' owner.
OF_THE_SERVER: dict[str, tuple[str, str]] = {
    "foreign keys off": (
        "ALTER TABLE approvals DISABLE TRIGGER ALL",
        "constraint public.approvals.approvals_request_id_requester_fkey",
    ),
    "a role in another": ("GRANT refacex_custodian TO refacex_release", "role refacex_release"),
    "a superuser": ("ALTER ROLE refacex_relay SUPERUSER", "role refacex_relay"),
    "triggers off for one role": (
        "ALTER ROLE refacex_gateway SET session_replication_role = replica",
        "setting session_replication_role of refacex_gateway in every database",
    ),
    "names looked up elsewhere": (
        "ALTER DATABASE {} SET search_path = public, pg_catalog",
        "setting search_path of everybody",
    ),
    "a table given away": ("ALTER TABLE sealed_keys OWNER TO refacex_release", "table public.sealed_keys"),
    "all of it given away": ("REASSIGN OWNED BY refacex_owner TO refacex_release", "table public.sealed_keys"),
    "an event trigger": (
        "CREATE FUNCTION pg_temp.f() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'; "
        "CREATE EVENT TRIGGER e ON ddl_command_end EXECUTE FUNCTION pg_temp.f()",
        "event trigger e",
    ),
}


def names_after(url: str, statement: str) -> dict[str, str]:
    """What is named after this statement, in its own transaction, which is then taken back."""
    with sessions(url)() as session:
        session.connection().exec_driver_sql(statement)
        return dict(differences(describe(session), made_by_migrations()))


def test_the_file_says_what_the_migrations_make(database: Database) -> None:
    with sessions(database.url_for("gateway"))() as session:
        path = session.execute(text("SHOW search_path")).scalar_one()
        there = describe(session)
        assert session.execute(text("SHOW search_path")).scalar_one() == path
    assert list(differences(there, made_by_migrations())) == [], "the migrations have changed: make guards"
    assert there.as_json() == FILE.read_text("utf-8")


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_guard_that_the_owner_changed_is_named(database: Database, attack: str) -> None:
    statement, name = ATTACKS[attack]
    assert name in names_after(database.owner_url, statement)


@pytest.mark.parametrize("attack", OF_THE_SERVER)
def test_a_guard_that_was_gone_round_is_named(database: Database, attack: str) -> None:
    statement, name = OF_THE_SERVER[attack]
    url = database.admin_url.replace("postgresql://", "postgresql+psycopg://").rsplit("/", 1)[0] + f"/{database.name}"
    assert name in names_after(url, statement.format(f'"{database.name}"'))


def test_verify_names_every_guard_that_is_not_as_it_was_made(
    fresh: Database, anchors: Anchors, signer: HeadSigner
) -> None:
    """By the gateway's role, as `refacex audit verify` does it; and what the owner put back is fine again."""
    with sessions(fresh.url_for("gateway")).begin() as session:
        append(session, AuditEvent.SCHEDULE_SET, actor="alice")
    assert verified(fresh, anchors, signer).findings == []
    some = ["drop a check", "disable a trigger", "replace audit.append", "a right to change", "publish twice"]
    as_owner(fresh, *(ATTACKS[attack][0] for attack in some))
    found = verified(fresh, anchors, signer).findings
    assert {(each.problem, each.where) for each in found} == {(Problem.GUARD, ATTACKS[attack][1]) for attack in some}
    words = {each.where: each.words for each in found}
    assert words["constraint public.approvals.approvals_not_by_requester_check"].endswith("it is gone")
    assert "disabled`, and the migrations make `" in words["trigger public.tickets.guard"]
    assert "INSERT, SELECT, UPDATE" in words["privileges of refacex_gateway on table public.approvals"]
    as_owner(
        fresh,
        "ALTER TABLE tickets ENABLE TRIGGER guard",
        "ALTER TABLE approvals ADD CONSTRAINT approvals_not_by_requester_check CHECK (approver <> requester)",
        "REVOKE UPDATE ON approvals FROM refacex_gateway",
        "CREATE UNIQUE INDEX attempts_one_published ON attempts (item_id) WHERE state = 'published'",
    )
    assert [each.where for each in verified(fresh, anchors, signer).findings] == [ATTACKS["replace audit.append"][1]]


def test_another_version_of_postgres_is_noted(
    database: Database, anchors: Anchors, signer: HeadSigner, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = replace(made_by_migrations(), postgres=16)
    monkeypatch.setattr("workers.audit.verify.made_by_migrations", lambda: older)
    (note,) = verified(database, anchors, signer).notes
    assert note.startswith("this is PostgreSQL 17, and the guards are known as 16 prints them")
