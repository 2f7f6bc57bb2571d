"""Looks for secrets where none may be: in every row of a database, in logs; however their bytes are spelt."""

from __future__ import annotations

import base64
from collections.abc import Iterable

import psycopg

from tests.conftest import Database


def spellings(secret: bytes) -> set[bytes]:
    """The bytes as they are, in hex, and what is in base64 theirs alone wherever they begin in it; of both alphabets."""
    found = {secret, secret.hex().encode(), secret.hex().upper().encode()}
    for before in range(3):
        text = base64.b64encode(bytes(before) + secret)[-(-before * 8 // 6) : (before + len(secret)) * 8 // 6]
        found |= {text, text.replace(b"+", b"-").replace(b"/", b"_")}
    return found


def dump(database: Database) -> bytes:
    """Every row of every table: as text, where bytes are in hex, and as they are."""
    tables = (
        "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables "
        "WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
    )
    said = bytearray()
    url = f"{database.admin_url.rsplit('/', 1)[0]}/{database.name}"
    with psycopg.connect(url, autocommit=True) as connection:
        names = [name for (name,) in connection.execute(tables)]
        for name in names:
            for form in ("text", "binary"):
                with connection.cursor().copy(f"COPY {name} TO STDOUT (FORMAT {form})".encode()) as rows:
                    for part in rows:
                        said += bytes(part)
    return bytes(said)


def spilt(secrets: Iterable[bytes], said: bytes) -> list[bytes]:
    """Those of the secrets that stand in it in any spelling."""
    return [secret for secret in secrets if any(spelt in said for spelt in spellings(secret))]
