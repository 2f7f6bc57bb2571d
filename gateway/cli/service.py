"""What the commands of governance share: the service's database, one-line errors, tables, ids by their beginning."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

if TYPE_CHECKING:
    from sqlalchemy.orm import InstrumentedAttribute, Session, sessionmaker

    from workers.settings import GatewaySettings

Json = Annotated[bool, typer.Option("--json", help="One JSON object a line, for programs.")]
Home = Annotated[
    Path | None,
    typer.Option("--home", help="Where keys and settings are kept. [default: $REFACEX_HOME or .refacex]"),
]


def home_folder(home: Path | None) -> Path:
    """The home folder: as given, else REFACEX_HOME, else `.refacex` in the current folder."""
    return (home or Path(os.environ.get("REFACEX_HOME") or ".refacex")).absolute()


@contextmanager
def service(home: Path | None) -> Iterator[tuple[GatewaySettings, sessionmaker[Session]]]:
    """The service's settings and database; every expected error becomes one line and exit code 1."""
    from workers.db import session_factory
    from workers.logs import configure_logs
    from workers.settings import GatewaySettings

    with database_told():
        configure_logs("cli", "console", "WARNING")
        settings = GatewaySettings.from_home(home_folder(home))
        sessions = session_factory(settings.database_url)
        try:
            yield settings, sessions
        finally:
            sessions.kw["bind"].dispose()


@contextmanager
def database_told() -> Iterator[None]:
    """As `told`, and what goes wrong with the database becomes one line as well."""
    from sqlalchemy.exc import DBAPIError

    with told():
        try:
            yield
        except DBAPIError as error:
            state = getattr(error.orig, "sqlstate", None)
            if state and not error.connection_invalidated:
                raise stop(f"the database refused this ({state}): see that it was migrated by this version") from None
            raise stop("the database cannot be reached: start the service with `refacex up`") from None


@contextmanager
def told() -> Iterator[None]:
    """Expected errors become one line that says what to do next, and exit code 1."""
    from workers.errors import WorkerError

    try:
        yield
    except WorkerError as error:
        raise stop(str(error)) from None


def stop(line: str) -> typer.Exit:
    """One line on standard error; raise what it gives."""
    tell(f"refacex: {line}")
    return typer.Exit(1)


def tell(line: str) -> None:
    """A line for people, beside the output that programs read."""
    print(line, file=sys.stderr)


def lines(entries: Iterator[dict[str, Any]] | Sequence[dict[str, Any]]) -> None:
    """One JSON object a line."""
    for entry in entries:
        print(json.dumps(entry, ensure_ascii=False, default=str))


def table(head: list[str], rows: list[list[str]]) -> None:
    """A table for people. Values are shown as they are: nothing in them is read as markup."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=None, header_style="bold")
    for name in head:
        shown.add_column(name, overflow="fold")  # an id or a checksum that is cut cannot be compared
    for row in rows:
        shown.add_row(*(Text(printable(cell)) for cell in row))
    Console().print(shown)


def printable(text: str) -> str:
    """`text` without control characters: somebody else's words must not steer an approver's terminal."""
    return "".join(letter if letter.isprintable() or letter == "\n" else "�" for letter in text)


def by_beginning(session: Session, column: InstrumentedAttribute[UUID], given: str) -> UUID | None:
    """The id that is `given` or begins with it (four letters or more); None where none or several do."""
    from sqlalchemy import String, cast, select

    try:
        return UUID(given)
    except ValueError:
        pass
    if len(given) < 4:
        return None
    begins = cast(column, String).startswith(given.lower(), autoescape=True)
    found = session.scalars(select(column).where(begins).limit(2)).all()
    return found[0] if len(found) == 1 else None


def account() -> str:
    """The operating system's account that runs this, whatever the environment says: who the trail names as submitter."""
    import os
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid-{os.getuid()}"
