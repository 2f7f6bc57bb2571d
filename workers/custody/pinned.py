"""Files that are pinned outside Postgres: JSON with its format, version and checksum, written whole, mode 0600."""

from __future__ import annotations

import hashlib
import json
import os
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

import rfc8785

from workers.custody.guarded import looseness
from workers.strangers import read_json


class PinnedFile(StrEnum):
    """What is pinned with the custodian; the words stand in the audit trail."""

    ROSTER = "roster"
    POLICIES = "policies"


class Read(NamedTuple):
    """A pinned file as it was read: what it says, and the SHA-256 of its bytes, as `sha256sum` gives it."""

    body: dict[str, Any]
    sha256: str


class Loose(Exception):
    """Others may write a pinned file; its text says how that is mended."""


def read(path: Path, form: str, version: int) -> Read:
    """What a pinned file says. Raises OSError where it cannot be read, Loose where others may write it, ValueError where it is
    damaged or not ours.
    """
    with path.open("rb") as file:
        loose = looseness(path, os.fstat(file.fileno()))
        raw = file.read()
    if loose is not None:
        raise Loose(loose)
    document = read_json(raw)
    if not isinstance(document, dict):
        raise ValueError("it is no JSON object")
    body = {name: value for name, value in document.items() if name != "checksum"}
    if (body.get("format"), body.get("version")) != (form, version) or document.get("checksum") != _checksum(body):
        raise ValueError(f"it is no {form} of version {version}, or its checksum is another")
    return Read(body, hashlib.sha256(raw).hexdigest())


def write(path: Path, form: str, version: int, body: dict[str, Any]) -> None:
    """Writes a pinned file in one step: whoever reads it sees the old or the new one."""
    whole = {"format": form, "version": version, **body}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(whole | {"checksum": _checksum(whole)}, file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _checksum(body: dict[str, Any]) -> str:
    return hashlib.sha256(rfc8785.dumps(body)).hexdigest()
