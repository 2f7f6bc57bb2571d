"""Reading canonical JSON (RFC 8785) as the trail writes it: no number but integers of at most 2^53 - 1."""

from __future__ import annotations

import json
from typing import Any, NoReturn

import rfc8785

from workers.strangers import read_json

LARGEST = 2**53 - 1
_encode = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode


def parse(data: bytes) -> Any:
    """The value of these bytes. Raises ValueError for what is no JSON, and for numbers that the trail does not hold."""
    return read_json(data.decode(), _decode)


def fields_of(canonical: bytes | None) -> dict[str, Any]:
    """An event's fields; none where nobody can read them: a stolen role, or the database's owner, may have written anything."""
    try:
        fields = read_json(bytes(canonical or b""))["fields"]
    except (ValueError, KeyError, TypeError):
        return {}
    return fields if isinstance(fields, dict) else {}


def is_canonical(value: Any, data: bytes) -> bool:
    """Whether `data`, which `value` was parsed from, is its RFC 8785 form."""
    # Of ASCII text and integers alone the standard library writes that form, ten times as fast.
    if data.isascii():
        return _encode(value).encode() == data
    return rfc8785.dumps(value) == data


def _integer(digits: str) -> int:
    number = int(digits)
    if abs(number) > LARGEST:
        raise ValueError("a number beyond 2^53 - 1")
    return number


def _refuse(digits: str) -> NoReturn:
    raise ValueError("a number that is no integer")


_decode = json.JSONDecoder(parse_float=_refuse, parse_constant=_refuse, parse_int=_integer).decode
