"""The custodian's ledger, a file outside Postgres: which requests were opened, and which keys were shredded.

Whoever takes the database back to yesterday brings back an unspent ticket or a shredded key; the ledger does not
forget. One JSON object a line; each carries the SHA-256 of the line before it, so that a cut or changed line is
seen. A last line without its line break is a write that a crash cut short, and is taken away.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import rfc8785

from workers.custody.errors import LedgerInvalid

SPENT = "spent"
SHREDDED = "shredded"
_START = "0" * 64


@dataclass
class _Known:
    last: str = _START
    spent: set[UUID] = field(default_factory=set)
    shredded: set[tuple[UUID, int]] = field(default_factory=set)


class Ledger:
    """One ledger file. Each question reads what is on disk now."""

    def __init__(self, path: Path | str) -> None:
        self._path = Path(path)

    def spent(self, request: UUID) -> bool:
        """Whether a ticket of this request was spent before. Raises LedgerInvalid."""
        return request in self._read().spent

    def shredded(self, item: UUID, face: int) -> bool:
        """Whether this face's key (-1: the item's layout key) was shredded. Raises LedgerInvalid."""
        return (item, face) in self._read().shredded

    def record_spent(self, request: UUID, ticket: UUID, recovery: UUID) -> None:
        """Writes, once, that this request was opened; on disk when it returns. Raises LedgerInvalid."""
        entry = {"kind": SPENT, "request": str(request), "ticket": str(ticket), "recovery": str(recovery)}
        self._append(entry, lambda known: request in known.spent)

    def record_shredded(self, item: UUID, face: int) -> None:
        """Writes, once, a key's tombstone; on disk when it returns. Raises LedgerInvalid."""
        entry: dict[str, str | int] = {"kind": SHREDDED, "item": str(item), "face": face}
        self._append(entry, lambda known: (item, face) in known.shredded)

    def _read(self) -> _Known:
        try:
            return _parse(self._path.read_bytes())
        except FileNotFoundError:
            return _Known()

    def _append(self, entry: Mapping[str, str | int], is_known: Callable[[_Known], bool]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        with os.fdopen(descriptor, "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            content = file.read()
            known = _parse(content)
            if is_known(known):
                return
            whole = content.rfind(b"\n") + 1
            file.seek(whole)
            file.truncate()
            at = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
            file.write(rfc8785.dumps({"v": 1, "at": at, "before": known.last, **entry}) + b"\n")
            file.flush()
            os.fsync(file.fileno())


def _parse(content: bytes) -> _Known:
    known = _Known()
    for number, line in enumerate(content[: content.rfind(b"\n") + 1].splitlines(), 1):
        try:
            entry = json.loads(line)
            if entry["before"] != known.last:
                raise LedgerInvalid(f"line {number} does not follow the one before it")
            if entry["kind"] == SPENT:
                known.spent.add(UUID(entry["request"]))
            elif entry["kind"] == SHREDDED:
                known.shredded.add((UUID(entry["item"]), int(entry["face"])))
            else:
                raise LedgerInvalid(f"line {number} is of an unknown kind")
        except (ValueError, KeyError, TypeError) as error:
            raise LedgerInvalid(f"line {number}") from error
        known.last = hashlib.sha256(line).hexdigest()
    return known
