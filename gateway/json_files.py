"""JSON files that people write: read strictly, and refused in words."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

from workers.strangers import read_json


def read_object(file: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises ValueError with what is wrong, in words; a name that stands twice is, too."""
    try:
        said = read_json(file.read_text("utf-8"), partial(json.loads, object_pairs_hook=_once))
    except OSError as error:
        raise ValueError(f"it cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise ValueError("it is no text in UTF-8") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"it is no JSON at line {error.lineno}, column {error.colno}") from None
    if not isinstance(said, dict):
        raise ValueError("it is no JSON object")
    return said


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{', '.join(twice)} stands twice: which of the two counts?")
    return dict(pairs)
