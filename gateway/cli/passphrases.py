"""Passphrases of key files: from the file that `refacex --passphrase-file` names, else from the terminal."""

from __future__ import annotations

import getpass
import sys
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from workers.custody.keys import KeyFile

NAMED: ContextVar[Path | None] = ContextVar("passphrase_file", default=None)  # set before any command runs


def own_key(path: Path) -> KeyFile:
    """A person's own key file; asks for its passphrase where it has one. Raises as `keys.load` does."""
    from workers.custody import keys

    return keys.load(path, keys.FileKind.PERSON, ask_for(path))


@dataclass(frozen=True)
class Signer:
    """Somebody with their own key at hand."""

    who: str
    sign: Callable[[bytes], bytes]


def signer(who: str | None, key: Path | None, option: str) -> Signer | None:
    """Who signs, where somebody is named with `option` and --key; None where nobody is. Raises typer.BadParameter, and as
    `keys.load` does.
    """
    import typer

    from workers.custody.keys import KeyType

    if who is None or key is None:
        if who is not None or key is not None:
            raise typer.BadParameter(
                "one comes with the other: who signs, and their key file", param_hint=f"{option}, --key"
            )
        return None
    return Signer(who, own_key(key).of(KeyType.ED25519).sign)


def ask_for(path: Path) -> Callable[[], bytes]:
    """How the passphrase of the key file at `path` is got."""

    def ask() -> bytes:
        given = _given()
        return _typed(f"Passphrase of {path.name}: ") if given is None else given

    return ask


def new_passphrase(path: Path) -> bytes:
    """A passphrase for a new key file; typed twice where it is typed. Raises PassphraseNeeded, PassphraseUnasked, PassphraseWrong."""
    from workers.custody.errors import PassphraseNeeded, PassphraseUnasked, PassphraseWrong

    given = _given()
    if given is None:
        if not sys.stdin.isatty():
            raise PassphraseUnasked
        given = _typed(f"New passphrase for {path.name}: ")
        if _typed("The same again: ") != given:
            raise PassphraseWrong("the two differ")
    if not given:
        raise PassphraseNeeded("an empty one protects nothing")
    return given


def _given() -> bytes | None:
    from workers.custody import passphrase

    path = NAMED.get()
    return None if path is None else passphrase.from_file(path)


def _typed(prompt: str) -> bytes:
    from workers.custody.errors import PassphraseNeeded

    if not sys.stdin.isatty():
        raise PassphraseNeeded("there is no terminal to type it on")
    return getpass.getpass(prompt).encode()
