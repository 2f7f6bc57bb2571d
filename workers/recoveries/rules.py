"""Reading the policies that the database has: for early answers. What counts is the custodian's own copy."""

from __future__ import annotations

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from schemas.policies import DEFAULT_POLICY, Policy
from schemas.tables import Policy as Row
from workers.errors import PolicyUnknown


def load_policy(session: Session, tenant: str, name: str) -> Policy:
    """The newest version of a policy; the defaults for `default` where nobody set it. Raises PolicyUnknown."""
    query = select(Row.body).where(Row.tenant == tenant, Row.name == name).order_by(Row.version.desc()).limit(1)
    body = session.execute(query).scalar_one_or_none()
    if body is None:
        if name != DEFAULT_POLICY:
            raise PolicyUnknown(name[:64])
        return Policy(tenant)
    return Policy.of(body)


def policies(session: Session) -> list[tuple[Policy, int]]:
    """Every policy's newest version, with its number."""
    newest = select(Row.tenant, Row.name, func.max(Row.version).label("version")).group_by(Row.tenant, Row.name)
    found = newest.subquery()
    query = select(Row).join(
        found, (Row.tenant == found.c.tenant) & (Row.name == found.c.name) & (Row.version == found.c.version)
    )
    rows = session.execute(query.order_by(Row.tenant, Row.name)).scalars()
    return [(Policy.of(row.body), row.version) for row in rows]
