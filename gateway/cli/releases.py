"""`refacex release ...` and `refacex export ...`: give photographs to the service, and fetch what it made of them."""

from __future__ import annotations

import getpass
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from uuid import UUID, uuid4

import typer

if TYPE_CHECKING:
    from sqlalchemy.orm import Session, sessionmaker

    from workers.releases.service import Progress
    from workers.settings import GatewaySettings

release_app = typer.Typer(no_args_is_help=True, help="Release photographs through the service.")
export_app = typer.Typer(no_args_is_help=True, help="Export finished releases.")

Json = Annotated[bool, typer.Option("--json", help="One JSON object a line, for programs.")]
Id = Annotated[str, typer.Argument(help="The release's id, or as much of its beginning as tells it apart.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.add_typer(release_app, name="release")
    app.add_typer(export_app, name="export")


@release_app.command()
def submit(
    paths: Annotated[list[str], typer.Argument(help="Files, folders, globs in quotes, or manifests (.jsonl, .csv).")],
    name: Annotated[str | None, typer.Option(help="What to call the release.")] = None,
    profile: Annotated[str, typer.Option(help="robust (JPEG, WebP, PNG) or archive (PNG, recovers more).")] = "robust",
    file_format: Annotated[str, typer.Option("--format", help="png, jpeg or webp.")] = "png",
    quality: Annotated[int | None, typer.Option(help="1 to 100, for jpeg and webp.")] = None,
    donor_policy: Annotated[str, typer.Option(help="random or matched.")] = "random",
    tenant: Annotated[str, typer.Option(help="Whose release it is.")] = "default",
    upload: Annotated[
        bool, typer.Option("--upload", help="Copy the files to the store, for workers elsewhere.")
    ] = False,
    release_without_face: Annotated[
        bool, typer.Option("--release-without-face", help="Do not hold images in which no face is found.")
    ] = False,
) -> None:
    """Submit photographs; prints the release's id."""
    with _service() as (settings, sessions):
        from refacex_core.types import DonorPolicy, Profile
        from workers.errors import OptionsInvalid
        from workers.releases import service, sources
        from workers.storage import Storage

        try:
            options = service.ReleaseOptions(
                profile=Profile(profile),
                format=file_format,
                quality=quality,
                donor_policy=DonorPolicy(donor_policy),
                on_no_face="release" if release_without_face else "hold",
            )
        except ValueError:
            raise OptionsInvalid("profile is robust or archive, donor policy random or matched") from None
        options.check()
        found = sources.collect(paths, None if upload else settings.source_roots)
        release_id = uuid4()
        if upload:
            found = sources.upload(Storage(settings), settings.bucket_input, release_id, found)
        with sessions.begin() as session:
            service.submit(
                session,
                tenant=tenant,
                actor=getpass.getuser(),
                name=name or f"release {str(release_id)[:8]}",
                sources=found,
                options=options,
                chunk=settings.chunk,
                release_id=release_id,
            )
        print(release_id)
        _tell(f"{len(found)} images submitted; follow them with: refacex release wait {release_id}")


@release_app.command("list")
def list_releases(
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's.")] = None,
    limit: Annotated[int, typer.Option(help="How many at most.")] = 20,
    as_json: Json = False,
) -> None:
    """List releases, the newest first."""
    with _service() as (_, sessions), sessions() as session:
        from workers.releases import service

        found = service.releases(session, tenant=tenant, limit=limit)
        if as_json:
            _lines(_as_json(each) for each in found)
            return
        rows = [
            [str(each.id), each.name, each.state.value, _counts(each), f"{each.created_at:%Y-%m-%d %H:%M}"]
            for each in found
        ]
        _table(["id", "name", "state", "images", "submitted"], rows)


@release_app.command()
def show(release: Id, as_json: Json = False) -> None:
    """Show how far a release is."""
    with _service() as (_, sessions), sessions() as session:
        from workers.releases import service

        now = service.progress(session, _release(session, release))
        if as_json:
            _lines([_as_json(now)])
            return
        how = f"{now.profile}, {now.format}" + (f" at quality {now.quality}" if now.quality else "")
        rows = [
            ["name", now.name],
            ["state", now.state.value],
            ["images", _counts(now)],
            ["made as", f"{how}, {now.donor_policy} donors"],
            ["submitted", f"{now.created_at:%Y-%m-%d %H:%M} by {now.submitted_by} for {now.tenant}"],
            ["finished", f"{now.finished_at:%Y-%m-%d %H:%M}" if now.finished_at else "not yet"],
        ]
        _table([str(now.id), ""], rows)


@release_app.command()
def wait(release: Id, timeout: Annotated[float, typer.Option(help="Seconds to wait at the longest.")] = 3600.0) -> None:
    """Wait until a release is finished. Exit code 0 only if every image was released."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from schemas.states import ItemState

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with _service() as (_, sessions):
        from workers.releases import service

        with sessions() as session:
            release_id = _release(session, release)
        with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
            task = bar.add_task("images", total=None)
            for now in service.wait(sessions, release_id, timeout=timeout):
                bar.update(task, total=now.total, completed=now.ended)
        print(f"{now.state.value}: {_counts(now)}")
        if now.state.value != "finished":
            raise _stop("The release is not finished yet: look at the workers' logs, or wait again.")
        if now.items.get(ItemState.DONE, 0) != now.total:
            raise _stop(f"Some images were not released: see `refacex release report {release_id}`.")


@release_app.command()
def report(release: Id) -> None:
    """Print one JSON line an image: faces, similarities, payload, timings; or why it was not released."""
    with _service() as (_, sessions), sessions() as session:
        from workers.releases import service

        _lines(service.report(session, _release(session, release)))


@export_app.command("run")
def run_export(
    release: Id,
    out: Annotated[Path, typer.Option(help="Folder to write the export to.")],
    timeout: Annotated[float, typer.Option(help="Seconds to wait for it at the longest.")] = 3600.0,
) -> None:
    """Export a finished release, fetch it, and check every file against its checksum."""
    with _service() as (settings, sessions):
        from workers.exports import fetching, service
        from workers.storage import Storage

        with sessions.begin() as session:
            release_id = _release(session, release)
            export_id = service.export_release(session, release_id, getpass.getuser())
        done = fetching.wait(sessions, export_id, timeout=timeout)
        names = fetching.fetch(Storage(settings), settings.bucket_exports, done, out)
        with sessions() as session:
            fetching.write_audit(session, done, out)
        _tell(f"{len(names)} files checked and written; the trail's events beside them in {fetching.AUDIT}")
        print(out)


@export_app.command("list")
def list_exports(limit: Annotated[int, typer.Option(help="How many at most.")] = 20, as_json: Json = False) -> None:
    """List exports, the newest first."""
    with _service() as (_, sessions), sessions() as session:
        from workers.exports import service

        rows = [
            [
                str(each.id),
                str(each.release_id or "by schedule"),
                each.state.value,
                str(len((each.manifest or {}).get("files", ()))),
                f"{each.created_at:%Y-%m-%d %H:%M}",
            ]
            for each in service.exports(session, limit=limit)
        ]
        head = ["id", "release", "state", "files", "asked for"]
        if as_json:
            _lines(dict(zip(head, row, strict=True)) for row in rows)
        else:
            _table(head, rows)


@export_app.command("schedule")
def schedule(
    name: Annotated[str, typer.Argument(help="What to call the schedule.")],
    cron: Annotated[str, typer.Option(help='Five fields, as "0 6 * * 1".')],
    time_zone: Annotated[str, typer.Option(help="As Europe/Berlin.")] = "UTC",
    tenant: Annotated[str, typer.Option(help="Whose releases.")] = "default",
) -> None:
    """Export, at each window, the releases that finished in it."""
    with _service() as (_, sessions), sessions.begin() as session:
        from workers.exports import schedules

        print(schedules.add_schedule(session, tenant=tenant, name=name, cron=cron, time_zone=time_zone))


@contextmanager
def _service() -> Iterator[tuple[GatewaySettings, sessionmaker[Session]]]:
    """The service's database and settings; every expected error becomes one line and exit code 1."""
    from sqlalchemy.exc import DBAPIError

    from workers.db import session_factory
    from workers.errors import WorkerError
    from workers.settings import GatewaySettings

    sessions = None
    try:
        settings = GatewaySettings.from_home()
        sessions = session_factory(settings.database_url)
        yield settings, sessions
    except WorkerError as error:
        raise _stop(str(error)) from None
    except DBAPIError as error:
        if not error.connection_invalidated and getattr(error.orig, "sqlstate", None):
            raise _stop(
                f"The database refused ({getattr(error.orig, 'sqlstate', '')}): run `refacex up` of this version."
            ) from None
        raise _stop("The database cannot be reached: start the service with `refacex up`.") from None
    finally:
        if sessions is not None:
            sessions.kw["bind"].dispose()


def _release(session: Session, given: str) -> UUID:
    """The release of an id or of the beginning of one. Raises ReleaseUnknown."""
    from sqlalchemy import String, cast, select

    from schemas.tables import Release
    from workers.errors import ReleaseUnknown

    try:
        return UUID(given)
    except ValueError:
        pass
    begins = cast(Release.id, String).startswith(given.lower(), autoescape=True)
    found = session.scalars(select(Release.id).where(begins).limit(2)).all() if len(given) >= 4 else []
    if len(found) != 1:
        raise ReleaseUnknown
    return found[0]


def _counts(progress: Progress) -> str:
    parts = [f"{count} {state.value}" for state, count in sorted(progress.items.items())]
    return f"{progress.total}: " + (", ".join(parts) or "none")


def _as_json(progress: Progress) -> dict[str, object]:
    return {
        "id": str(progress.id),
        "name": progress.name,
        "tenant": progress.tenant,
        "state": progress.state.value,
        "items": {state.value: count for state, count in progress.items.items()},
        "created_at": progress.created_at.isoformat(),
        "finished_at": progress.finished_at.isoformat() if progress.finished_at else None,
    }


def _lines(entries: Iterator[dict[str, object]] | list[dict[str, object]]) -> None:
    for entry in entries:
        print(json.dumps(entry, sort_keys=True))


def _table(head: list[str], rows: list[list[str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(*head, box=None, header_style="bold")
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def _tell(line: str) -> None:
    print(line, file=sys.stderr)


def _stop(line: str) -> typer.Exit:
    _tell(line)
    return typer.Exit(1)
