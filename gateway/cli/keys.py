"""`refacex keys ...`: the custody keys. It runs on the custodian's machine, with the custodian's own rights."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.passphrases import ask_for
from gateway.cli.service import Home, Json, account, database_told, home_folder, lines, printable, stop, table, tell
from workers.words import number_of

if TYPE_CHECKING:
    from sqlalchemy.orm import Session, sessionmaker

    from workers.audit.attested import EventSigner
    from workers.custody.rotation import KeyOffice, Tally
    from workers.settings import CustodianSettings

app = typer.Typer(no_args_is_help=True, help="Key rings: `new` for folders; the others on the custodian's machine.")
ledger_app = typer.Typer(no_args_is_help=True, help="The custodian's ledger of what was shredded, held and spent.")
app.add_typer(ledger_app, name="ledger")

SHOWN = 50  # failures a line each; the rest as a number


def register(root: typer.Typer) -> None:
    """Add the commands to the command line."""
    root.add_typer(app, name="keys")


@app.command("list")
def list_keys(as_json: Json = False, home: Home = None) -> None:
    """List the custody keys that there are or were, and how many sealed keys each still holds."""
    with office(home) as keeper:
        entries = [
            {
                "key": key.id,
                "suite": key.suite,
                "state": key.state,
                "created": f"{key.created_at:%Y-%m-%d %H:%M}" if key.created_at else "",
                "holds": key.wrapped,
            }
            for key in keeper.overview()
        ]
    if as_json:
        lines(entries)
    else:
        names = ["key", "suite", "state", "created", "holds"]
        table(names, [[str(value) for value in entry.values()] for entry in entries])


@app.command()
def rotate(
    to: Annotated[
        str | None,
        typer.Option(help="To a key service, by its suite: aws-kms is the first of REFACEX_CUSTODY_KMS_KEYS."),
    ] = None,
    no_new_key: Annotated[
        bool, typer.Option("--no-new-key", help="Only wrap again what older keys still hold, under the active one.")
    ] = False,
    batch: Annotated[int, typer.Option(min=1, max=10_000, help="Rows in one transaction.")] = 500,
    home: Home = None,
) -> None:
    """Make a new custody key and wrap everything again under it; after an interruption, run it again and it goes on."""
    from workers.errors import Away

    with office(home) as keeper:
        rest = sum(key.wrapped for key in keeper.overview() if key.state != "rotating")
        try:
            with shown("wrapped again", rest) as step:
                done = replace(keeper, told=step, batch=batch).rotate(to=to, new_key=not no_new_key)
        except Away as error:
            raise stop(f"an engine went away ({error.code}): run this again, it goes on where it stopped") from None
        tell(f"{number_of(done.rewrapped, 'sealed key')} wrapped again under {done.to}")
        if to is not None:
            tell("new releases are sealed there once the release workers' settings name it (REFACEX_CUSTODY_KMS_KEY)")
        else:
            tell(
                f"new releases are sealed to {keeper.public}: copy it to release workers elsewhere; back up the key ring"
            )
    report(done.tally)


@app.command()
def check(home: Home = None) -> None:
    """Unwrap every sealed key, and say which do not open. What a backup brought back after its shredding goes again."""
    with office(home) as keeper:
        from workers.custody.shredding import shred_again

        again = shred_again(keeper)
        if again:
            tell(f"{number_of(again, 'key')} had come back after being shredded, as from a backup: shredded again")
        rows = sum(key.wrapped for key in keeper.overview())
        with shown("checked", rows) as step:
            tally = replace(keeper, told=step).check()
        tell(f"{number_of(tally.opened, 'sealed key')} opened")
    report(tally)


@app.command()
def retire(
    key: Annotated[str, typer.Argument(help="The key's id, from `refacex keys list`.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask again.")] = False,
    home: Home = None,
) -> None:
    """Give up an old key's private half, once nothing needs it.

    What a stolen backup of the database still holds under it can then never be opened again; neither can your own.
    """
    with office(home) as keeper:
        tell("backups of the database from before its rotation can never be opened again, yours among them")
        try:
            if not yes and not typer.confirm(f"Retire {key}?", err=True):
                raise typer.Exit(1)
        except typer.Abort:
            raise stop("nobody answered: read above what it means, then give --yes") from None
        keeper.retire(key)
        tell(f"{key} is retired: delete the copies of the key ring that still hold it")


@app.command()
def passphrase(home: Home = None) -> None:
    """Put the key ring under the passphrase in the custodian's REFACEX_CUSTODY_PASSPHRASE_FILE."""
    with office(home) as keeper:
        keeper.protect()
        tell("the key ring has a passphrase now: keep a copy of it, for without it every released face is lost")


@app.command("replace-signing")
def replace_signing(home: Home = None) -> None:
    """Make the custodian another key for its tickets and events. What the ones before signed stays good; stop the custodian first."""
    with _custodians(home) as (settings, _):
        from gateway import provision
        from gateway.processes import running_processes
        from workers.custody.keys import FileKind, KeyType, load, rewrite, write_public

        if "custodian" in running_processes(provision.Home(home_folder(home))):
            raise stop(
                "the custodian runs, and goes on to sign with the key that it started with: stop `refacex up` first"
            )
        path = settings.ticket_signing_key
        made, public = load(path, FileKind.SIGNING).with_new(KeyType.ED25519), path.with_name("ticket.public.json")
        write_public(public, made.public_json())  # first, so that nothing is ever signed with a key that it has not got
        rewrite(path, made)
        tell(f"the custodian signs with {made.active} from its next start: back up {path}, and give {public}")
        tell("to the recovery workers, which have to start again, and to whoever verifies the trail or evidence")
        tell("a custodian that still runs, elsewhere, signs with the key before: stop it, and start it again")


@ledger_app.command("begin")
def begin_ledger(
    accept_loss: Annotated[
        bool,
        typer.Option("--accept-loss", help="There was one, it is lost for good, and no copy of it is left anywhere."),
    ] = False,
    home: Home = None,
) -> None:
    """Begin the custodian's ledger where there is none. `refacex up` and `refacex setup` do it for a new installation.

    Where one was lost, restore your copy of it. Without any, --accept-loss begins another with what the custodian itself signed in the
    database: spent tickets, shredded keys, and the orders whose rows are still there. What it cannot recall is forgotten: a backup may
    bring such keys back, and holds have to be ordered again. It stands in the trail.
    """
    with _custodians(home) as (settings, sessions):
        from workers.custody.errors import LedgerExists
        from workers.custody.recall import begin

        try:
            recalled = begin(sessions, settings.tombstones, _signer(settings), account(), accept_loss=accept_loss)
        except LedgerExists:
            raise LedgerExists(str(settings.tombstones)) from None
        tell(f"begun: {settings.tombstones}; a custodian that runs goes on with it when it is started again")
        if recalled is not None:
            tickets, orders = (
                number_of(len(recalled.openings), "spent ticket"),
                number_of(len(recalled.answers), "order"),
            )
            tell(f"recalled: {tickets}, {number_of(len(recalled.portions), 'item')} with shredded keys, {orders};")
            tell(f"see `refacex hold list --ledger {settings.tombstones}` and order again what is missing")


@contextmanager
def office(home: Path | None) -> Iterator[KeyOffice]:
    """What the custodian's own settings look after; every expected error becomes one line and exit code 1."""
    with _custodians(home) as (settings, sessions):
        yield _office(settings, sessions)


@contextmanager
def _custodians(home: Path | None) -> Iterator[tuple[CustodianSettings, sessionmaker[Session]]]:
    with database_told():
        from workers.db import session_factory
        from workers.logs import silence_logs
        from workers.settings import CustodianSettings

        silence_logs()
        env_file = home_folder(home) / "env" / "custodian.env"
        settings = CustodianSettings.load(env_file if env_file.is_file() else None)
        sessions = session_factory(settings.database_url)
        try:
            yield settings, sessions
        finally:
            sessions.kw["bind"].dispose()


def _signer(settings: CustodianSettings) -> EventSigner:
    """What signs the custodian's events. Raises what reading its key raises."""
    from workers.custody.tickets import TicketSigner

    return TicketSigner.load(settings.ticket_signing_key).events


def _office(settings: CustodianSettings, sessions: sessionmaker[Session]) -> KeyOffice:
    from workers.custody.ledger import Ledger
    from workers.custody.providers.services import held
    from workers.custody.providers.unwrappers import passphrase_of, unwrapper_of
    from workers.custody.recall import catch_up
    from workers.custody.rotation import RETIREMENT_STEPS, ROTATION_STEPS, KeyOffice
    from workers.releases.faults import Faults

    ring = settings.custody_keyring
    found = passphrase_of(settings) or (ask_for(ring) if ring is not None else None)
    ask = cache(found) if found is not None else None  # typed once, though the ring is read several times
    ledger, signer = Ledger(settings.tombstones), _signer(settings)
    # As the custodian does at its start: with a ledger of yesterday nobody would know here what was shredded since.
    catch_up(sessions, ledger, signer)
    return KeyOffice(
        sessions=sessions,
        unwrapper=unwrapper_of(settings, ask),
        ledger=ledger,
        events=signer,
        actor=account(),
        ring=ring,
        public=settings.custody_public_key or (ring.with_name("custody.public.json") if ring is not None else None),
        ask=ask,
        services=held(settings),
        reach=Faults(settings, (*ROTATION_STEPS, *RETIREMENT_STEPS)).reach,
    )


@contextmanager
def shown(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on the terminal; nothing where there is none."""
    if not sys.stderr.isatty():
        yield lambda rows: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda rows: bar.advance(task, rows)


def report(tally: Tally) -> None:
    """Says what does not open; raises exit code 1 where there is such."""
    if tally.buried:
        tell(f"left as found: {number_of(tally.buried, 'key')} shredded before that came back with a backup")
    for failure in tally.failures[:SHOWN]:
        what = "layout key" if failure.face < 0 else f"face {failure.face}"
        under = printable(failure.custody_key_id[:100])  # a release worker wrote it, whoever that was
        tell(f"does not open: item {failure.item}, {what}, under {under} ({failure.code})")
    if len(tally.failures) > SHOWN:
        tell(f"and {len(tally.failures) - SHOWN} more")
    if tally.failures:
        raise stop("sealed keys do not open: restore the key ring's copy, or the rows from a backup, and check again")
