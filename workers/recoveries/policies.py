"""Policies as the gateway knows and sets them. What counts is the custodian's own copy."""

from __future__ import annotations

from sqlalchemy import func, insert, select
from sqlalchemy.orm import Session

from schemas.administration import policy_message
from schemas.audit import AuditEvent
from schemas.policies import DEFAULT_POLICY, Policy
from schemas.tables import Policy as Row
from schemas.tables import Release
from workers.audit import append
from workers.recoveries.people import Word, check_word
from workers.recoveries.rules import load_policy, policies

__all__ = ["load_policy", "next_version", "policies", "set_policy", "shut_out"]


def next_version(session: Session, policy: Policy) -> int:
    """The number that the policy's next version gets."""
    query = select(func.coalesce(func.max(Row.version), 0)).where(Row.tenant == policy.tenant, Row.name == policy.name)
    return session.execute(query).scalar_one() + 1


def set_policy(session: Session, policy: Policy, actor: str, word: Word | None = None) -> int:
    """Records a new version of a policy, in the caller's transaction; gives its number. Two at once: one of them fails.

    `word`: an administrator's, over `policy_message`; without one it is the `actor` who does it, for as long as the tenant has
    no administrator. Raises AdministratorNeeded, PersonUnknown, SignatureInvalid.
    """
    policy.check()
    version = next_version(session, policy)
    check_word(session, policy.tenant, policy_message(policy.sha256(), version), word)
    by, signed = (word.by, policy.sha256()) if word is not None else (actor, None)
    session.execute(
        insert(Row).values(
            tenant=policy.tenant,
            name=policy.name,
            version=version,
            body=policy.body(),
            canonical=policy.canonical(),
            canonical_sha256=policy.sha256(),
            set_by=by,
        )
    )
    detail = {"tenant": policy.tenant, "name": policy.name, "version": version, "sha256": policy.sha256().hex()}
    detail |= {"signature": word.signature.hex()} if word is not None else {}
    append(session, AuditEvent.POLICY_SET, actor=by, request_hash=signed, detail=detail)
    return version


def shut_out(session: Session, policy: Policy) -> int:
    """How many releases there are under the policy's name that it does not let recover: nobody signed their submission."""
    if not policy.signed_submissions:
        return 0
    unsigned = select(func.count()).select_from(Release).where(Release.signature.is_(None))
    named = func.coalesce(Release.policy["name"].astext, DEFAULT_POLICY) == policy.name
    return session.execute(unsigned.where(Release.tenant == policy.tenant, named)).scalar_one()
