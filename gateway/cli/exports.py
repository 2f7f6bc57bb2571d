"""`refacex export ...`: fetch what the service made of a release, now or by schedule."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gateway.cli.releases import Id, release_id_of
from gateway.cli.service import Home, Json, account, lines, service, table, tell
from workers.words import number_of

app = typer.Typer(no_args_is_help=True, help="Export finished releases.")


def register(root: typer.Typer) -> None:
    """Add the commands to the command line."""
    root.add_typer(app, name="export")


@app.command("run")
def run_export(
    release: Id,
    out: Annotated[Path, typer.Option(help="Folder to write the export to.")],
    timeout: Annotated[float, typer.Option(help="Seconds to wait for it at the longest.")] = 3600.0,
    home: Home = None,
) -> None:
    """Export a finished release, fetch it, and check every file against its checksum.

    The folder is empty or new, or has the same export from before; nothing mixes with other files.
    """
    with service(home) as (settings, sessions):
        from workers.exports import fetching
        from workers.exports import service as exports
        from workers.storage import Storage

        with sessions.begin() as session:
            release_id = release_id_of(session, release)
            export_id = exports.export_release(session, release_id, account())
        done = fetching.wait(sessions, export_id, timeout=timeout)
        fetched = fetching.fetch(Storage(settings), settings.bucket_exports, done, out)
        with sessions() as session:
            fetching.write_audit(session, done, out)
        there = f", {fetched.there} of them there already" if fetched.there else ""
        tell(
            f"{number_of(len(fetched.names), 'file')} checked and written{there}; the trail's events beside them in {fetching.AUDIT}"
        )
        print(out)


@app.command("list")
def list_exports(
    limit: Annotated[int, typer.Option(help="How many at most.")] = 20, as_json: Json = False, home: Home = None
) -> None:
    """List exports, the newest first."""
    with service(home) as (_, sessions), sessions() as session:
        from workers.exports import service as exports

        rows = [
            [
                str(each.id),
                str(each.release_id or "by schedule"),
                each.state.value,
                str(len((each.manifest or {}).get("files", ()))),
                f"{each.created_at:%Y-%m-%d %H:%M}",
            ]
            for each in exports.exports(session, limit=limit)
        ]
        head = ["id", "release", "state", "files", "asked for"]
        if as_json:
            lines(dict(zip(head, row, strict=True)) for row in rows)
        else:
            table(head, rows)


Name = Annotated[str, typer.Argument(help="What the schedule is called.")]
Tenant = Annotated[str, typer.Option(help="Whose releases.")]


@app.command("schedule")
def schedule(
    name: Name,
    cron: Annotated[str, typer.Option(help='Five fields, as "0 6 * * 1".')],
    time_zone: Annotated[str, typer.Option(help="As Europe/Berlin.")] = "UTC",
    tenant: Tenant = "default",
    home: Home = None,
) -> None:
    """Export, at each window, the releases that finished in it; a schedule of that name is changed."""
    with service(home) as (_, sessions), sessions.begin() as session:
        from workers.exports import schedules

        print(
            schedules.set_schedule(session, tenant=tenant, name=name, cron=cron, time_zone=time_zone, actor=account())
        )


@app.command("unschedule")
def unschedule(name: Name, tenant: Tenant = "default", home: Home = None) -> None:
    """Switch a schedule off; what it exported stays."""
    with service(home) as (_, sessions), sessions.begin() as session:
        from workers.exports import schedules

        schedules.end_schedule(session, tenant=tenant, name=name, actor=account())
