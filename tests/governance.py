"""What the tests of governance share."""

from __future__ import annotations

from sqlalchemy import NullPool, create_engine
from sqlalchemy.orm import Session, sessionmaker

Sessions = sessionmaker[Session]


def sessions(url: str) -> Sessions:
    """Sessions whose connections end with them, so that a test leaves none behind."""
    return sessionmaker(create_engine(url, poolclass=NullPool), expire_on_commit=False)
