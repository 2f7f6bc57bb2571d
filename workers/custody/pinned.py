"""Files that are pinned outside Postgres: JSON with its format, version and checksum, written whole, mode 0600."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import rfc8785


def read(path: Path, form: str, version: int) -> dict[str, Any]:
    """The body of a pinned file. Raises OSError where it cannot be read, ValueError where it is damaged or not ours."""
    document = json.loads(path.read_text("utf-8"))
    if not isinstance(document, dict):
        raise ValueError("not an object")
    body = {name: value for name, value in document.items() if name != "checksum"}
    if (body.get("format"), body.get("version")) != (form, version) or document.get("checksum") != _checksum(body):
        raise ValueError("format, version or checksum")
    return body


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
