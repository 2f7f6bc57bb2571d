"""What the database roles that provisioning makes can and cannot do."""

from __future__ import annotations

import psycopg
import pytest

from gateway.provision import sqlalchemy_url
from tests.conftest import Database


def test_the_owner_has_no_power_over_the_server(database: Database) -> None:
    with psycopg.connect(database.owner_url.replace("+psycopg", "")) as connection:
        rights = connection.execute(
            "SELECT rolsuper, rolcreaterole, rolcreatedb FROM pg_roles WHERE rolname = current_user"
        ).fetchone()
        assert rights == (False, False, False)
        assert connection.execute("SELECT to_regclass('audit.events') IS NOT NULL").fetchone() == (True,)


def test_a_service_role_can_log_in_with_its_password_only(database: Database) -> None:
    url = database.url_for("custodian").replace("+psycopg", "")
    with psycopg.connect(url) as connection:
        assert connection.execute("select current_user").fetchone() == ("refacex_custodian",)
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(url.replace(database.passwords["refacex_custodian"], "wrong"))


def test_a_stranger_on_the_same_server_stays_outside(database: Database) -> None:
    with psycopg.connect(database.admin_url, autocommit=True) as connection:
        connection.execute("DROP ROLE IF EXISTS stranger")
        connection.execute("CREATE ROLE stranger LOGIN PASSWORD 'guest'")
    url = sqlalchemy_url(database.admin_url, role="stranger", password="guest", database=database.name)
    with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
        psycopg.connect(url.replace("+psycopg", ""))
