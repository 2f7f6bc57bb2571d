"""Words that go with numbers."""

from __future__ import annotations


def number_of(number: int, noun: str) -> str:
    """A number and its noun: `1 face`, `2 faces`. The noun's plural ends in s."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
