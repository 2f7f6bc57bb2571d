"""The declarative base: how Python types become columns."""

from __future__ import annotations

import uuid
from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar, TypeVar

from sqlalchemy import ARRAY, DateTime, Dialect, LargeBinary, Text, TypeDecorator, Uuid, func
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from schemas.states import (
    AttemptState,
    Decision,
    ExportState,
    ItemState,
    KeyKind,
    KeyState,
    OrderKind,
    OrderScope,
    OrderState,
    RecoveryState,
    ReleaseState,
    RequestState,
    Urgency,
)

E = TypeVar("E", bound=StrEnum)


class EnumText(TypeDecorator[E]):
    """A StrEnum in a `text` column; the database checks the words."""

    impl = Text
    cache_ok = True

    def __init__(self, enum: type[E]) -> None:
        self.enum = enum
        super().__init__()

    def process_bind_param(self, value: E | None, dialect: Dialect) -> str | None:
        return None if value is None else self.enum(value).value

    def process_result_value(self, value: str | None, dialect: Dialect) -> E | None:
        return None if value is None else self.enum(value)


class Base(DeclarativeBase):
    """Every table's base."""

    type_annotation_map: ClassVar[dict[Any, Any]] = {
        uuid.UUID: Uuid(),
        str: Text(),
        bytes: LargeBinary(),
        datetime: DateTime(timezone=True),
        dict[str, Any]: JSONB(none_as_null=True),
        list[Any]: JSONB(),
        list[str]: ARRAY(Text()),
        ReleaseState: EnumText(ReleaseState),
        ItemState: EnumText(ItemState),
        AttemptState: EnumText(AttemptState),
        KeyKind: EnumText(KeyKind),
        KeyState: EnumText(KeyState),
        RequestState: EnumText(RequestState),
        Decision: EnumText(Decision),
        RecoveryState: EnumText(RecoveryState),
        ExportState: EnumText(ExportState),
        Urgency: EnumText(Urgency),
        OrderKind: EnumText(OrderKind),
        OrderScope: EnumText(OrderScope),
        OrderState: EnumText(OrderState),
    }


def new_id() -> Mapped[uuid.UUID]:
    """A random primary key, drawn in Python so that it is known before the row is written."""
    return mapped_column(primary_key=True, default=uuid.uuid4)


def now() -> Mapped[datetime]:
    """The time of the transaction, from the database."""
    return mapped_column(server_default=func.now())
