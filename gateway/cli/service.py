"""What the commands of governance share: the service's database, one-line errors, tables, ids by their beginning."""

from __future__ import annotations

import json
import os
import re
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

_GAP = 2  # spaces between two columns
_LONGEST_WORD = 40  # what is longer, and no id, may be broken
_ID = re.compile(r"[0-9a-fA-F]{16}|^arn:")  # shorter ones, as those of releases, are no longer than such a word

Cell = str | tuple[str, ...]  # of a table
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
    from workers.logs import silence_logs
    from workers.settings import GatewaySettings

    with database_told():
        silence_logs()
        settings = GatewaySettings.from_home(home_folder(home))
        sessions = session_factory(settings.database_url)
        try:
            yield settings, sessions
        finally:
            sessions.kw["bind"].dispose()


@contextmanager
def database_told() -> Iterator[None]:
    """As `told`, and what goes wrong with the database becomes one line as well."""
    from sqlalchemy.exc import DataError, DBAPIError

    with told():
        try:
            yield
        except DBAPIError as error:
            state = getattr(error.orig, "sqlstate", None)
            if state and not error.connection_invalidated:
                raise stop(f"the database refused this ({state}): see that it was migrated by this version") from None
            if isinstance(error, DataError):  # of the driver, and not of the database
                raise stop(
                    "a value cannot be read or written: `refacex audit verify` names rows that nobody can read"
                ) from None
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


def table(head: list[str], rows: Sequence[Sequence[Cell]]) -> None:
    """A table for people. Values are shown as they are, escaped to one line: nothing in them is read as markup, and none of them looks
    like a row of its own. A tuple is lines of ours in one cell.

    On a terminal, columns wrap between words until all of them fit. Where ids leave no room for that, a row is its first value on a
    line of its own, and the others below it. Where the output is no terminal, nothing is wrapped.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console, cells = Console(), [[_cell(cell) for cell in row] for row in rows]
    widths = _widths([head, *cells], console.width if console.is_terminal else None)
    if widths is None:
        for line in _stacked(head, cells, console.width):
            console.print(Text(line), soft_wrap=True)
        return
    shown = Table(box=None, header_style="bold", pad_edge=False)
    for name, width in zip(head, widths, strict=True):
        shown.add_column(name, overflow="fold", width=width)
    for row in cells:
        shown.add_row(*(Text(cell) for cell in row))
    (console if console.is_terminal else Console(width=_together(widths))).print(shown)


def _cell(value: Cell) -> str:
    return printable(value) if isinstance(value, str) else "\n".join(map(printable, value))


def on_terminal() -> bool:
    """Whether the output goes to somebody who reads it, and not to a file or another program."""
    from rich.console import Console

    return Console().is_terminal


def _widths(rows: list[list[str]], room: int | None) -> list[int] | None:
    """A width a column: the widest are made narrower until all fit into the room; None where they cannot."""
    from rich.cells import cell_len

    columns = list(zip(*rows, strict=True))
    widths = [max(cell_len(line) for cell in column for line in cell.split("\n")) for column in columns]
    least = [max((_unbroken(word) for cell in column for word in cell.split()), default=0) for column in columns]
    while room is not None and _together(widths) > room:
        wide = [number for number, width in enumerate(widths) if width > least[number]]
        if not wide:
            return None
        widths[max(wide, key=widths.__getitem__)] -= 1
    return widths


def _together(widths: list[int]) -> int:
    return sum(widths) + _GAP * (len(widths) - 1)


def _unbroken(word: str) -> int:
    """How much of a word stands on one line: all of an id or a checksum, for what is cut cannot be compared or copied."""
    from rich.cells import cell_len

    return cell_len(word) if _ID.search(word) else min(cell_len(word), _LONGEST_WORD)


def _stacked(head: list[str], rows: list[list[str]], room: int) -> Iterator[str]:
    """The rows where there is no room for a table. Two columns are names and values already."""
    import textwrap

    pairs = len(head) == 2
    for row in [head, *rows] if pairs else rows:
        yield row[0]
        lines = [""]
        named = [f"{name} {cell}" for name, cell in zip(head[1:], row[1:], strict=True) if cell]
        for part in row[1:] if pairs else named:
            if lines[-1] and len(lines[-1]) + len(part) + _GAP > room - 2:
                lines.append("")
            lines[-1] += ("  " if lines[-1] else "") + part
        for line in lines:
            for wrapped in textwrap.wrap(line, room - 2, break_long_words=False, break_on_hyphens=False):
                yield f"  {wrapped}"


def printable(text: str) -> str:
    """`text` on one line, with escapes for what is no letter that one sees (control characters, line breaks, marks that turn the
    direction): somebody else's words must not steer an approver's terminal, nor stand there as another line.
    """
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def name_shown(name: str) -> str:
    """A file's name among other words: in quotation marks where it might be taken for some of them."""
    return name if re.fullmatch(r"[^\s'\"(),:;\\]+", name) and name.isprintable() else repr(name)


def by_beginning(session: Session, column: InstrumentedAttribute[UUID], given: str) -> UUID | None:
    """The id that is `given` or begins with it (four letters or more); None where none or several do."""
    from sqlalchemy import String, cast, select

    try:
        return UUID(given)
    except ValueError:
        pass
    if len(given) < 4 or not given.isascii():
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
