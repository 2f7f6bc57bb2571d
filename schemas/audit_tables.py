"""The tables of the audit trail, in a schema of their own. Services may only execute `audit.append`."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, Boolean, CheckConstraint, Index, SmallInteger, text
from sqlalchemy.orm import Mapped, mapped_column

from schemas.base import Base


class Event(Base):
    """One event of the trail. Written by `audit.append` alone; `leaf` is its RFC 9162 leaf hash."""

    __tablename__ = "events"
    __table_args__ = (
        Index("events_release", text("audit.release_of(canonical)"), "seq"),
        Index("events_kind", "event", "seq"),
        {"schema": "audit"},
    )

    seq: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    at: Mapped[datetime]
    role: Mapped[str]
    event: Mapped[str]
    canonical: Mapped[bytes]
    leaf: Mapped[bytes]


class Node(Base):
    """The hash of a complete subtree of 2 ** level leaves (level >= 1), so that proofs need not read the log."""

    __tablename__ = "nodes"
    __table_args__ = ({"schema": "audit"},)

    level: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False)
    position: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    hash: Mapped[bytes]


class TreeHead(Base):
    """A signed tree head and where it is anchored. `body` is the signed bytes."""

    __tablename__ = "tree_heads"
    __table_args__ = ({"schema": "audit"},)

    size: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    root: Mapped[bytes]
    at: Mapped[datetime]
    body: Mapped[bytes]
    signature: Mapped[bytes]
    key_id: Mapped[str]
    anchored_at: Mapped[datetime]
    anchor_object: Mapped[str]


class AuditGrant(Base):
    """Which role may write which event."""

    __tablename__ = "grants"
    __table_args__ = ({"schema": "audit"},)

    event: Mapped[str] = mapped_column(primary_key=True)
    role: Mapped[str] = mapped_column(primary_key=True)


class AuditTail(Base):
    """The trail's length; one row, whose lock puts the appends in order."""

    __tablename__ = "tail"
    __table_args__ = (CheckConstraint("one", name="tail_one_check"), {"schema": "audit"})

    one: Mapped[bool] = mapped_column(Boolean, primary_key=True, server_default=text("true"))
    size: Mapped[int] = mapped_column(BigInteger)
