"""`refacex release ...`: give photographs to the service, and see what it made of them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from uuid import UUID, uuid4

import typer

from gateway.cli import alerts, subjects
from gateway.cli.passphrases import signer
from gateway.cli.service import Home, Json, account, by_beginning, lines, service, stop, table, tell
from workers.words import number_of

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from workers.releases.service import Progress

release_app = typer.Typer(no_args_is_help=True, help="Release photographs through the service.")

Id = Annotated[str, typer.Argument(help="The release's id, or as much of its beginning as tells it apart.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.add_typer(release_app, name="release")
    app.add_typer(subjects.app, name="subject")
    app.command("alerts")(alerts.alerts)


@release_app.command()
def submit(
    paths: Annotated[list[str], typer.Argument(help="Files, folders, globs in quotes, or manifests (.jsonl, .csv).")],
    name: Annotated[str | None, typer.Option(help="What to call the release.")] = None,
    profile: Annotated[str, typer.Option(help="robust (JPEG, WebP, PNG) or archive (PNG, recovers more).")] = "robust",
    file_format: Annotated[str, typer.Option("--format", help="png, jpeg or webp.")] = "png",
    quality: Annotated[int | None, typer.Option(help="1 to 100, for jpeg and webp.")] = None,
    donor_policy: Annotated[
        str, typer.Option(help="random, matched, or stable: one donor a subject; a manifest names the subjects.")
    ] = "random",
    policy: Annotated[
        str, typer.Option(help="The policy that its recoveries go by; see `refacex policy`.")
    ] = "default",
    tenant: Annotated[str, typer.Option(help="Whose release it is.")] = "default",
    upload: Annotated[
        bool, typer.Option("--upload", help="Copy the files to the store, for workers elsewhere.")
    ] = False,
    release_without_face: Annotated[
        bool, typer.Option("--release-without-face", help="Do not hold images in which no face is found.")
    ] = False,
    who: Annotated[
        str | None, typer.Option("--as", help="Who you are, to sign the submission. [default: this account, unsigned]")
    ] = None,
    key: Annotated[Path | None, typer.Option("--key", help="Your own key file, to sign with.")] = None,
    home: Home = None,
) -> None:
    """Submit photographs, signed where you say who you are; prints the release's id."""
    with service(home) as (settings, sessions):
        from refacex_core.types import DonorPolicy, Profile
        from schemas.submissions import submission_message
        from workers.releases import service as releases
        from workers.releases import sources
        from workers.releases.errors import OptionsInvalid
        from workers.storage import Storage

        try:
            options = releases.ReleaseOptions(
                profile=Profile(profile),
                format=file_format,
                quality=quality,
                donor_policy=DonorPolicy(donor_policy),
                on_no_face="release" if release_without_face else "hold",
                policy_name=policy,
            )
        except ValueError:
            raise OptionsInvalid("profile is robust or archive, donor policy random, stable or matched") from None
        options.check()
        signs = signer(who, key, "--as")
        found = sources.collect(paths, None if upload else settings.source_roots)
        with sessions() as session:  # before anything is copied
            releases.check(session, tenant, options, found, who)
        release_id = uuid4()
        if upload:
            found = sources.upload(Storage(settings), settings.bucket_input, release_id, found)
        signed = None
        if signs is not None:
            terms = releases.draft(tenant, signs.who, options, found, release_id)
            signed = releases.Submission(terms, signs.sign(submission_message(terms)))
        with sessions.begin() as session:
            releases.submit(
                session,
                tenant=tenant,
                actor=who or account(),
                name=name or f"release {str(release_id)[:8]}",
                sources=found,
                options=options,
                chunk=settings.chunk,
                release_id=release_id,
                signed=signed,
            )
        print(release_id)
        tell(f"{number_of(len(found), 'image')} submitted; follow them with: refacex release wait {release_id}")


@release_app.command("list")
def list_releases(
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's.")] = None,
    limit: Annotated[int, typer.Option(help="How many at most.")] = 20,
    as_json: Json = False,
    home: Home = None,
) -> None:
    """List releases, the newest first."""
    with service(home) as (_, sessions), sessions() as session:
        from workers.releases import service as releases

        found = releases.releases(session, tenant=tenant, limit=limit)
        if as_json:
            lines(_as_json(each) for each in found)
            return
        rows = [
            [str(each.id), each.name, each.state.value, _counts(each), f"{each.created_at:%Y-%m-%d %H:%M}"]
            for each in found
        ]
        table(["id", "name", "state", "images", "submitted"], rows)


@release_app.command()
def show(release: Id, as_json: Json = False, home: Home = None) -> None:
    """Show how far a release is."""
    with service(home) as (_, sessions), sessions() as session:
        from workers.releases import service as releases

        now = releases.progress(session, release_id_of(session, release))
        if as_json:
            lines([_as_json(now)])
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
        table([str(now.id), ""], rows)


@release_app.command()
def wait(
    release: Id,
    timeout: Annotated[float, typer.Option(help="Seconds to wait at the longest.")] = 3600.0,
    home: Home = None,
) -> None:
    """Wait until a release is finished. Exit code 0 only if every image was released."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from schemas.states import ItemState, ReleaseState

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with service(home) as (_, sessions):
        from workers.releases import service as releases

        with sessions() as session:
            release_id = release_id_of(session, release)
        with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
            task = bar.add_task("images", total=None)
            for now in releases.wait(sessions, release_id, timeout=timeout):
                bar.update(task, total=now.total, completed=now.ended)
        print(f"{now.state.value}: {_counts(now)}")
        if now.state is ReleaseState.CANCELLED:
            raise stop("The release was cancelled: what it had released until then stays released.")
        if now.items.get(ItemState.DONE, 0):
            tell(f"fetch the released files with: refacex export run {str(release_id)[:8]} --out FOLDER")
            tell(f"how well they protect: refacex release risk {str(release_id)[:8]} --out FOLDER")
        if now.state is not ReleaseState.FINISHED:
            raise stop("The release is not finished yet: look at the workers' logs, or wait again.")
        if now.items.get(ItemState.DONE, 0) != now.total:
            raise stop(f"Some images were not released: see `refacex release report {release_id}`.")


@release_app.command()
def report(release: Id, home: Home = None) -> None:
    """Print one JSON line an image: faces, similarities, payload, timings; or why it was not released."""
    with service(home) as (_, sessions), sessions() as session:
        from workers.releases import service as releases

        lines(releases.report(session, release_id_of(session, release)))


@release_app.command()
def cancel(release: Id, home: Home = None) -> None:
    """Cancel a release: nothing more of it is released. What was released before stays, and can be recovered."""
    with service(home) as (_, sessions), sessions.begin() as session:
        from workers.releases import service as releases

        release_id = release_id_of(session, release)
        releases.cancel(session, release_id, account())
        tell(f"cancelled: {release_id}")


@release_app.command()
def risk(
    release: Id,
    out: Annotated[Path, typer.Option(help="Folder to write it to.")] = Path(),
    timeout: Annotated[float, typer.Option(help="Seconds to wait for it at the longest.")] = 60.0,
    home: Home = None,
) -> None:
    """Fetch a release's risk report, checked: a page for people, and JSON. Prints where they are."""
    with service(home) as (settings, sessions):
        from workers.releases import reporting
        from workers.storage import Storage

        with sessions() as session:
            release_id = release_id_of(session, release)
        sha256 = reporting.wait(sessions, release_id, timeout=timeout)
        parts = reporting.read(Storage(settings), settings.bucket_releases, release_id, sha256)
        for path in reporting.write(parts, release_id, out).values():
            print(path)


def release_id_of(session: Session, given: str) -> UUID:
    """The release of an id or of the beginning of one. Raises ReleaseUnknown."""
    from schemas.tables import Release
    from workers.releases.errors import ReleaseUnknown

    found = by_beginning(session, Release.id, given)
    if found is None:
        raise ReleaseUnknown
    return found


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
