"""Every guard of the database, held against what the migrations make: tables, columns, constraints, unique indexes, triggers, rules,
policies, functions, privileges, and what the service roles are.

`guards.json` says what the migrations make; `make guards` writes it again from a freshly migrated database. The description is taken
from PostgreSQL's own catalogue: a function by its source's hash, constraints and triggers as PostgreSQL prints them, owners
without their names. Whoever is superuser can make the catalogue itself lie.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from sqlalchemy import text
from sqlalchemy.orm import Session

from schemas.audit import SERVICE_ROLES

FILE = Path(__file__).with_name("guards.json")
_QUERY = Path(__file__).with_name("guards.sql")
_MOST_SHOWN = 160  # characters of a definition in a finding


@dataclass(frozen=True)
class Guards:
    """What each object says, by `kind name`, and the major version of the PostgreSQL that printed it."""

    postgres: int
    objects: Mapping[str, str]

    def as_json(self) -> str:
        """The content of `guards.json`."""
        return json.dumps({"objects": self.objects, "postgres": self.postgres}, indent=1, sort_keys=True) + "\n"


def describe(session: Session) -> Guards:
    """The guards of this session's database as they are now. Any role can read them; the search path is as before afterwards."""
    before = session.execute(text("SELECT pg_catalog.current_setting('search_path')")).scalar_one()
    session.execute(text("SET LOCAL search_path = pg_catalog, pg_temp"))
    rows = session.execute(text(_statement()), {"roles": [role.value for role in SERVICE_ROLES]})
    objects = {str(row.object): str(row.says) for row in rows}
    version = int(session.execute(text("SELECT current_setting('server_version_num')")).scalar_one()) // 10_000
    session.execute(text("SELECT set_config('search_path', :before, true)"), {"before": before})
    return Guards(version, objects)


@cache
def made_by_migrations() -> Guards:
    """What `guards.json` says."""
    fields = json.loads(FILE.read_text("utf-8"))
    return Guards(fields["postgres"], fields["objects"])


def differences(found: Guards, expected: Guards) -> Iterator[tuple[str, str]]:
    """Each object that is not as the migrations make it, and what is wrong with it."""
    for name in sorted(found.objects.keys() | expected.objects.keys()):
        says, should = found.objects.get(name), expected.objects.get(name)
        if says is None:
            yield name, "the migrations make it, and it is gone"
        elif should is None:
            yield name, f"no migration makes it: {_shown(says)}"
        elif says != should:
            yield name, f"it says `{_shown(says, should)}`, and the migrations make `{_shown(should, says)}`"


def _shown(words: str, other: str = "") -> str:
    """The words, or where they are long from a little before they part from the other's."""
    if len(words) <= _MOST_SHOWN:
        return words
    parting = next((at for at, pair in enumerate(zip(words, other, strict=False)) if pair[0] != pair[1]), 0)
    start = max(0, min(parting - 40, len(words) - _MOST_SHOWN))
    return (
        ("..." if start else "") + words[start : start + _MOST_SHOWN] + ("..." if words[start + _MOST_SHOWN :] else "")
    )


@cache
def _statement() -> str:
    return _QUERY.read_text("utf-8")
