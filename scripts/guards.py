"""Writes workers/audit/guards.json from a freshly migrated database on a PostgreSQL of its own: `make guards`."""

from __future__ import annotations

import secrets
import tempfile
from pathlib import Path

from gateway import provision
from gateway.engines import Engines
from workers.audit.guards import FILE, describe
from workers.db import session_factory


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, Engines(Path(folder), only=["postgres"]) as engines:
        admin = engines.urls.postgres_admin
        passwords = {role: secrets.token_hex(16) for role in (provision.OWNER, *provision.ROLES)}
        provision.create_roles(admin, passwords)
        provision.create_database(admin, "guards")
        url = provision.sqlalchemy_url(
            admin, role=provision.OWNER, password=passwords[provision.OWNER], database="guards"
        )
        provision.migrate(url)
        sessions = session_factory(url)
        with sessions() as session:
            FILE.write_text(describe(session).as_json(), "utf-8")
        sessions.kw["bind"].dispose()


if __name__ == "__main__":
    main()
