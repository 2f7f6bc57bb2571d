"""The command line `refacex`. Each module adds its own commands; heavy imports happen inside them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gateway.cli import exports, folder, governance, keys, passphrases, releases, system


def build() -> typer.Typer:
    """The whole command line."""
    app = typer.Typer(
        name="refacex",
        help="Release photographs without releasing who is in them, and get a face back when, and only when, it may be.",
        no_args_is_help=True,
        pretty_exceptions_show_locals=False,  # locals hold keys and faces
    )
    app.callback()(root)
    for module in (folder, releases, exports, governance, keys, system):
        module.register(app)
    keys.app.command("new")(folder.keys_new)  # one group of commands, and the custodian's part of it knows no networks
    return app


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        from refacex_core.versions import CURRENT, version_name  # names alone: no network is loaded

        print(f"refacex {version('refacex')}, model {version_name(CURRENT)}")
        raise typer.Exit


def root(
    passphrase_file: Annotated[
        Path | None,
        typer.Option(help="The passphrase of the key file in use; without it, you are asked on the terminal."),
    ] = None,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Say which version this is, and end."),
    ] = False,
) -> None:
    """What all commands share."""
    passphrases.NAMED.set(passphrase_file)


def main() -> None:
    """The console script."""
    build()()
