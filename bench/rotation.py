"""How fast a rotation wraps keys again: `python bench/rotation.py [--keys N]`, on a PostgreSQL of its own."""

from __future__ import annotations

import argparse
import secrets
import tempfile
import time
from pathlib import Path
from uuid import uuid4

from sqlalchemy import insert, text

from gateway import provision
from gateway.engines import Engines
from schemas.contexts import KeyContext
from schemas.tables import Attempt, Item, Release, SealedKey
from workers.audit.attested import EventSigner
from workers.custody import keys
from workers.custody.ledger import Ledger
from workers.custody.providers.unwrappers import KeyRing
from workers.custody.rotation import KeyOffice
from workers.custody.sealing import DEFAULT_SUITE, seal_key
from workers.db import session_factory


def main() -> None:
    """Seals N keys of one release, rotates, checks, and prints keys a second."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=int, default=20_000)
    count = parser.parse_args().keys
    with tempfile.TemporaryDirectory() as folder, Engines(Path(folder) / "home", only=["postgres"]) as engines:
        passwords = {role: secrets.token_hex(16) for role in (provision.OWNER, *provision.ROLES)}
        provision.create_roles(engines.urls.postgres_admin, passwords)
        provision.create_database(engines.urls.postgres_admin)
        urls = {
            role: provision.sqlalchemy_url(
                engines.urls.postgres_admin, role=role, password=passwords[role], database=provision.DATABASE
            )
            for role in passwords
        }
        provision.migrate(urls[provision.OWNER])
        ring = Path(folder) / "ring.json"
        keys.write_public(Path(folder) / "public.json", keys.create_custody_keyring(ring))
        _seal(urls[provision.OWNER], keys.load_public(Path(folder) / "public.json"), count)
        sessions = session_factory(urls["refacex_custodian"])
        signer = EventSigner(secrets.token_bytes(32))
        office = KeyOffice(sessions, KeyRing(ring), Ledger.begin(Path(folder) / "ledger"), signer, "bench", ring=ring)
        for name, step in (("rotate", office.rotate), ("check", office.check)):
            started = time.perf_counter()
            step()
            elapsed = time.perf_counter() - started
            print(f"{name}: {count} keys in {elapsed:.1f} s, {count / elapsed:.0f} keys/s")
        sessions.kw["bind"].dispose()


def _seal(url: str, public: keys.PublicKey, count: int) -> None:
    release, item, attempt = uuid4(), uuid4(), uuid4()
    sessions = session_factory(url)
    tables = ("releases", "items", "attempts", "sealed_keys")
    with sessions.begin() as session:
        for table in tables:  # rows that came another way than life's: only the owner can do that
            session.execute(text(f"ALTER TABLE {table} DISABLE TRIGGER USER"))
        made = {"profile": "robust", "format": "png", "donor_policy": "random", "submitted_by": "bench"}
        session.execute(insert(Release).values(id=release, tenant="t", name="r", policy={"name": "p"}, **made))
        place = {"position": 0, "source_uri": "x", "relative_name": "x"}
        session.execute(insert(Item).values(id=item, release_id=release, **place))
        done = {"object_key": "x", "sha256": "0" * 64, "size_bytes": 1, "locator": b"0" * 8, "model_version": "m"}
        session.execute(insert(Attempt).values(id=attempt, item_id=item, fence=1, **done))
        for start in range(0, count, 1000):
            rows = []
            for face in range(start, min(start + 1000, count)):
                context = KeyContext.of(
                    tenant="t", release=release, item=item, attempt=attempt, model_version="m", policy="p", face=face
                )
                sealed = {"suite": DEFAULT_SUITE.value, "custody_key_id": public.id, "kind": context.kind, "face": face}
                wrapped = seal_key(public, secrets.token_bytes(32), context)
                rows.append({"id": uuid4(), "attempt_id": attempt, "item_id": item, "wrapped": wrapped, **sealed})
            session.execute(insert(SealedKey), rows)
        for table in tables:
            session.execute(text(f"ALTER TABLE {table} ENABLE TRIGGER USER"))
    sessions.kw["bind"].dispose()


if __name__ == "__main__":
    main()
