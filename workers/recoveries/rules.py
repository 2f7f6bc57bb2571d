"""Reading the policies that the database has: for early answers. What counts is the custodian's own copy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby

from sqlalchemy import select
from sqlalchemy.orm import Session

from schemas.policies import DEFAULT_POLICY, Policy
from schemas.tables import Policy as Row
from workers.errors import PolicyUnknown


def load_policy(session: Session, tenant: str, name: str) -> Policy:
    """The newest version of a policy; the defaults for `default` where nobody set it. Raises PolicyUnknown, also where what was set
    cannot be read.
    """
    query = select(Row).where(Row.tenant == tenant, Row.name == name).order_by(Row.version.desc())
    rows = session.execute(query).scalars().all()
    if not rows and name == DEFAULT_POLICY:
        return Policy(tenant)
    found = next(_readable(rows), None)
    if found is None:
        raise PolicyUnknown(name[:64])
    return found[0]


def policies(session: Session) -> list[tuple[Policy, int]]:
    """Every policy's newest version, with its number. What nobody can read is passed over, whoever wrote it: it stops no other."""
    query = select(Row).order_by(Row.tenant, Row.name, Row.version.desc())
    each_one = groupby(session.execute(query).scalars(), lambda row: (row.tenant, row.name))
    return [found for _, rows in each_one if (found := next(_readable(rows), None)) is not None]


def _readable(rows: Iterable[Row]) -> Iterator[tuple[Policy, int]]:
    """Those of them that are policies, and of the tenant and the name that their row says."""
    for row in rows:
        try:
            policy = Policy.of(row.body)
        except (ValueError, AttributeError):  # no policy; no object
            continue
        if (policy.tenant, policy.name) == (row.tenant, row.name):
            yield policy, row.version
