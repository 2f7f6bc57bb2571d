"""What rows stand for: what a sealed key is bound to and what is in it, and what an order says."""

from __future__ import annotations

from uuid import UUID

from schemas.contexts import LAYOUT_FACE, KeyContext
from schemas.orders import OrderTerms
from schemas.tables import Attempt, CustodyOrder, Release, SealedKey
from workers.custody.errors import KeyShredded
from workers.custody.providers import Unwrapper, WrappedKey


def context_of(row: SealedKey, attempt: Attempt, release: Release, subject: UUID | None) -> KeyContext:
    """What the row's key was bound to when it was sealed, by what the database says now; `subject`: whom it says that the item shows."""
    return KeyContext.of(
        tenant=release.tenant,
        release=release.id,
        item=attempt.item_id,
        attempt=attempt.id,
        model_version=attempt.model_version,
        policy=release.policy_name,
        face=None if row.face == LAYOUT_FACE else row.face,
        subject=subject,
        v=row.context,
    )


def unwrap_row(unwrapper: Unwrapper, row: SealedKey, attempt: Attempt, release: Release, subject: UUID | None) -> bytes:
    """The 32-byte key in a row whose `wrapped` was loaded. Raises what Unwrapper does; KeyShredded where it is gone."""
    if row.wrapped is None:
        raise KeyShredded
    sealed = WrappedKey(row.suite, row.custody_key_id, bytes(row.wrapped))
    return unwrapper.unwrap(sealed, context_of(row, attempt, release, subject))


def order_terms(row: CustodyOrder) -> OrderTerms:
    """The terms of an order put together from its row, whatever `canonical` says."""
    return OrderTerms(
        id=row.id,
        tenant=row.tenant,
        kind=row.kind,
        scope=row.scope,
        target=row.target,
        face=row.face,
        reason=row.reason,
        ordered_by=row.ordered_by,
        created_at=row.created_at,
    )
