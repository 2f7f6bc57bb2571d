"""`refacex up`, `setup`, `status`, `demo`: the system as a whole."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

HomeOption = Annotated[
    Path | None,
    typer.Option("--home", help="Where engines, keys and settings are kept. [default: $REFACEX_HOME or .refacex]"),
]
SourceOption = Annotated[
    list[Path] | None,
    typer.Option("--source", help="A folder below which originals may be read where they are; may be repeated."),
]


def home_folder(home: Path | None) -> Path:
    """The home folder: as given, else REFACEX_HOME, else `.refacex` in the current folder."""
    return (home or Path(os.environ.get("REFACEX_HOME") or ".refacex")).absolute()


def register(app: typer.Typer) -> None:
    """Add the commands to the root app."""
    app.command()(setup)
    app.command()(up)
    app.command()(status)
    app.command()(run)
    app.command("s3-identities")(s3_identities)
    app.command()(demo)


def fail(error: Exception) -> typer.Exit:
    """One line that says what to do next (and the end of a log, where there is one); exit code 1."""
    typer.echo(f"refacex: {error}", err=True)
    return typer.Exit(1)


def setup(
    home: HomeOption = None,
    source: SourceOption = None,
    deal: Annotated[
        Path | None,
        typer.Option(
            help="Also write DIR/PROCESS/{env,keys} for processes that run apart, each with its own keys only."
        ),
    ] = None,
    deal_as: Annotated[Path, typer.Option(help="Where such a process will see its folder.")] = Path("/refacex"),
) -> None:
    """Make the home folder ready: roles, migrations, buckets, keys, env files. Safe to repeat."""
    from gateway.deal import deal as deal_out
    from gateway.engines import Engines
    from gateway.problems import PROBLEMS
    from gateway.provision import OWNER, ledger_may_begin, provision

    folder = home_folder(home)
    try:
        with Engines(folder) as engines:
            place = provision(folder, engines, source_roots=source or [])
            begin = ledger_may_begin(engines.urls.postgres_admin, place.password(OWNER))
        if deal is not None:
            deal_out(place, deal.absolute(), seen_as=deal_as, ledger_may_begin=begin)
    except PROBLEMS as error:
        raise fail(error) from None
    typer.echo(f"ready: {folder}")
    typer.echo("Next: `refacex up`. Keep a copy of the folder's keys/ where only you can read it.")


def run(
    process: Annotated[str, typer.Argument(help="release, custodian, recovery, relay, notary or beat")],
    home: HomeOption = None,
) -> None:
    """Run one process with its env file of the home folder, in place of this command: for containers and service managers."""
    from gateway.deal import become
    from gateway.problems import PROBLEMS
    from gateway.provision import Home

    try:
        become(process, Home(home_folder(home)))
    except PROBLEMS as error:
        raise fail(error) from None


def s3_identities(file: Annotated[Path, typer.Argument(help="SeaweedFS's s3.json; kept if it is there.")]) -> None:
    """Write a SeaweedFS identity file with fresh credentials, one key pair a process with its own rights."""
    from gateway.engines.seaweed import identities_json, new_identities

    if file.exists():
        typer.echo(f"kept: {file}")
        return
    temporary = file.with_name(f".{file.name}.new")
    temporary.write_text(identities_json(new_identities()))
    temporary.replace(file)
    typer.echo(f"written: {file}")


def up(
    home: HomeOption = None,
    source: SourceOption = None,
    only: Annotated[
        list[str] | None,
        typer.Option(help="Run these processes alone: release, custodian, recovery, relay, notary, beat."),
    ] = None,
) -> None:
    """Run the whole system in the foreground, with its logs; Ctrl-C stops it."""
    from gateway.problems import PROBLEMS
    from gateway.processes import PROCESSES
    from gateway.up import run_in_foreground

    if unknown := set(only or ()) - set(PROCESSES):
        raise typer.BadParameter(f"{sorted(unknown)[0]}: one of {', '.join(PROCESSES)}", param_hint="--only")
    try:
        code = run_in_foreground(home_folder(home), source_roots=source or [], only=only or None)
    except PROBLEMS as error:
        raise fail(error) from None
    raise typer.Exit(code)


def status(home: HomeOption = None) -> None:
    """What runs, what waits, and how much was done; exit code 1 if something is away."""
    from rich.console import Console

    from gateway.problems import PROBLEMS
    from gateway.status import look, table

    try:
        report = look(home_folder(home))
    except PROBLEMS as error:
        raise fail(error) from None
    Console().print(table(report))
    if not report.healthy:
        raise typer.Exit(1)


def demo(
    images: Annotated[
        Path | None, typer.Argument(help="A folder of photographs instead of the three that come with us.")
    ] = None,
    home: HomeOption = None,
    out: Annotated[Path, typer.Option(help="Where released files, recovered faces and the contact sheet go.")] = Path(
        "out/demo"
    ),
) -> None:
    """The main job end to end on real photographs: release, publish, approve twice, recover, export, verify."""
    from gateway.demo import run_demo
    from gateway.problems import PROBLEMS

    folder = home.absolute() if home else (out / "home").absolute()
    try:
        code = run_demo(images, home=folder, out=out)
    except PROBLEMS as error:
        raise fail(error) from None
    raise typer.Exit(code)
