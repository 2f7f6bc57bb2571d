"""The command line `refacex`. Each module adds its own commands; heavy imports happen inside them."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

import typer

_MODULES = ("folder", "releases", "governance", "system")


def build() -> typer.Typer:
    """The whole command line."""
    app = typer.Typer(
        name="refacex",
        help="Release photographs without releasing who is in them, and get a face back when, and only when, it may be.",
        no_args_is_help=True,
        pretty_exceptions_show_locals=False,  # locals hold keys and faces
    )
    for name in _MODULES:
        if find_spec(f"{__name__}.{name}") is not None:
            import_module(f"{__name__}.{name}").register(app)
    return app


def main() -> None:
    """The console script."""
    build()()
