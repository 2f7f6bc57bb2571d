"""`refacex audit ...`: look at the trail, and verify it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli.service import Home, Json, home_folder, lines, printable, service, table, tell

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from workers.audit.verify import Verification

app = typer.Typer(no_args_is_help=True, help="The audit trail.")


@app.command()
def verify(
    public_key: Annotated[
        Path | None,
        typer.Option(help="The notary's public key. [default: keys/audit.public.json in the home folder]"),
    ] = None,
    as_json: Json = False,
    home: Home = None,
) -> None:
    """Derive the whole trail again from the database and the anchors. Exit code 0 only if nothing at all is wrong."""
    with service(home) as (settings, sessions):
        from workers.audit.heads import Anchors, HeadVerifier
        from workers.audit.verify import verify as derive
        from workers.custody.keys import load_verifier
        from workers.storage import Storage

        key = load_verifier(public_key or home_folder(home) / "keys" / "audit.public.json")
        anchors = Anchors(Storage(settings), settings.bucket_anchors)
        with sessions() as session:
            result = derive(session, anchors, HeadVerifier(key.id, key.public))
    _show_json(result) if as_json else _show(result)
    if not result.ok:
        raise typer.Exit(1)


@app.command()
def events(
    release: Annotated[str | None, typer.Option(help="Only events of this release, by its whole id.")] = None,
    request: Annotated[str | None, typer.Option(help="Only events of this request, by its whole id.")] = None,
    event: Annotated[str | None, typer.Option(help="Only events of this kind, as ticket:spent.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many at most, the newest.")] = 50,
    as_json: Json = False,
    home: Home = None,
) -> None:
    """Show the newest events, oldest of them first; as JSON they are the very objects that were hashed."""
    with service(home) as (_, sessions), sessions() as session:
        found = list(_events(session, {"release": release, "request": request}, event, limit))
    if as_json:
        lines(found)
        return
    table(["seq", "time", "event", "actor", "what"], [_row(each) for each in found])


def _events(session: Session, wanted: dict[str, str | None], event: str | None, limit: int) -> Iterator[dict[str, Any]]:
    from sqlalchemy import cast, func, select
    from sqlalchemy.dialects.postgresql import JSONB

    from schemas.audit_tables import Event

    query = select(Event.canonical).order_by(Event.seq.desc()).limit(limit)
    if event is not None:
        query = query.where(Event.event == event)
    fields = cast(func.convert_from(Event.canonical, "UTF8"), JSONB)["fields"]
    for name, value in wanted.items():
        if value is not None:
            query = query.where(fields[name].as_string() == value)
    for canonical in reversed(session.execute(query).scalars().all()):
        yield json.loads(canonical)


def _row(event: dict[str, Any]) -> list[str]:
    fields = event["fields"]
    names = ("release", "item", "request", "ticket", "recovery")
    what = [f"{name} {fields[name][:8]}" for name in names if name in fields]
    detail = fields.get("detail", {})
    what += [f"{name}={value}" for name, value in detail.items() if isinstance(value, str | int)]
    return [str(event["seq"]), event["at"][:19], event["event"], fields.get("actor", ""), " ".join(what)[:100]]


def _show(result: Verification) -> None:
    for finding in result.findings[:200]:
        print(printable(f"{finding.where}: {finding.words} [{finding.problem.value}]"))
    for note in result.notes:
        tell(f"note: {note}")
    younger = result.events - result.anchored_to
    head = f"{result.events} events, {result.heads} heads, {result.anchors} anchors; anchored to {result.anchored_to}"
    print(head + (f", {younger} younger" if younger > 0 else ""))
    print("the trail holds" if result.ok else f"THE TRAIL DOES NOT HOLD: {len(result.findings)} findings")


def _show_json(result: Verification) -> None:
    findings = [{"problem": f.problem.value, "where": f.where, "words": f.words} for f in result.findings]
    lines(
        [
            {
                "ok": result.ok,
                "events": result.events,
                "heads": result.heads,
                "anchors": result.anchors,
                "anchored_to": result.anchored_to,
                "root": result.root.hex(),
                "findings": findings,
                "notes": result.notes,
            }
        ]
    )
