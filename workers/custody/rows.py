"""A sealed key's row: what it is bound to, and what is in it."""

from __future__ import annotations

from schemas.contexts import LAYOUT_FACE, KeyContext
from schemas.tables import Attempt, Release, SealedKey
from workers.custody.errors import KeyShredded
from workers.custody.providers import Unwrapper, WrappedKey


def context_of(row: SealedKey, attempt: Attempt, release: Release) -> KeyContext:
    """What the row's key was bound to when it was sealed, by what the database says now."""
    return KeyContext.of(
        tenant=release.tenant,
        release=release.id,
        item=attempt.item_id,
        attempt=attempt.id,
        model_version=attempt.model_version,
        policy=release.policy_name,
        face=None if row.face == LAYOUT_FACE else row.face,
    )


def unwrap_row(unwrapper: Unwrapper, row: SealedKey, attempt: Attempt, release: Release) -> bytes:
    """The 32-byte key in a row whose `wrapped` was loaded. Raises what Unwrapper does; KeyShredded where it is gone."""
    if row.wrapped is None:
        raise KeyShredded
    sealed = WrappedKey(row.suite, row.custody_key_id, bytes(row.wrapped))
    return unwrapper.unwrap(sealed, context_of(row, attempt, release))
