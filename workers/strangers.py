"""JSON that others wrote, and may have written to stop whoever reads it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

DEEPEST = 100  # levels; what we write has fewer than ten


def read_json(data: Any, decode: Callable[[Any], Any] = json.loads) -> Any:
    """The value of these bytes, or of this text. Raises ValueError for what is no JSON, and for more levels than DEEPEST: whoever
    followed them, level by level, would come to an end themselves.
    """
    try:
        value = decode(data)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    opened = ("[", "{") if isinstance(data, str) else (b"[", b"{")
    if sum(map(data.count, opened)) > DEEPEST and _is_deep(value):
        raise ValueError("nested too deeply")
    return value


def column_json(data: Any) -> Any:
    """A column's value; None, which stands for nothing, where a role wrote what nobody can read."""
    try:
        return read_json(data)
    except ValueError:
        return None


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(DEEPEST):
        level = [inner for each in level for inner in _within(each)]
    return any(isinstance(each, dict | list) for each in level)


def _within(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
