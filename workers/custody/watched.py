"""A file that others replace while we run: read again when it is another one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

T = TypeVar("T")


class Watched(Generic[T]):
    """What a file holds now. It is looked at on every use, and read only when it was replaced."""

    def __init__(self, path: Path, read: Callable[[Path], T]) -> None:
        self._path = path
        self._read = read
        self._known: tuple[tuple[int, int, int], T] | None = None

    def current(self) -> T:
        """Raises what reading raises; the next call tries again."""
        identity = self._identity()  # before the reading: a file that is replaced between the two is read again
        if self._known is None or identity is None or self._known[0] != identity:
            value = self._read(self._path)
            if identity is None:
                return value
            self._known = (identity, value)
        return self._known[1]

    def _identity(self) -> tuple[int, int, int] | None:
        try:
            now = self._path.stat()
        except OSError:
            return None  # reading says why
        return now.st_ino, now.st_mtime_ns, now.st_size
