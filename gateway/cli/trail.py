"""`refacex audit ...`: look at the trail, verify it, take evidence from it and check that, accept a fork."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli.service import (
    Home,
    Json,
    by_beginning,
    database_told,
    home_folder,
    lines,
    on_terminal,
    printable,
    service,
    stop,
    table,
    tell,
    told,
)
from workers.words import number_of

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from workers.audit.checking import Checked
    from workers.audit.heads import Anchors, HeadVerifier
    from workers.audit.verify import Verification
    from workers.settings import GatewaySettings

_HASH = re.compile(r"[0-9a-f]{32,}")  # hashes and signatures, and no id of ours

app = typer.Typer(no_args_is_help=True, help="The audit trail.")


PublicKey = Annotated[
    Path | None, typer.Option(help="The notary's public key. [default: keys/audit.public.json in the home folder]")
]


CustodianKey = Annotated[
    Path | None,
    typer.Option(
        help="The custodian's public key, with which it signs. [default: keys/ticket.public.json in the home folder]"
    ),
]


@app.command()
def verify(
    public_key: PublicKey = None,
    custodian_key: CustodianKey = None,
    roster: Annotated[
        Path | None, typer.Option(help="The custodian's roster, to hold people against it as well.")
    ] = None,
    ledger: Annotated[
        Path | None, typer.Option(help="The custodian's ledger, or a copy of it, to hold the trail against it as well.")
    ] = None,
    receipt: Annotated[
        list[str] | None, typer.Option(help="A receipt of yours, to see whether the trail still tells of it.")
    ] = None,
    as_json: Json = False,
    home: Home = None,
) -> None:
    """Derive the whole trail again from the database and the anchors, and hold every table against it.

    Exit code 0 only if nothing at all is wrong.
    """
    with service(home) as (settings, sessions):
        from workers.audit.crosscheck import crosscheck
        from workers.audit.ledgered import check_ledger
        from workers.audit.receipts import Receipt, check_receipts
        from workers.audit.verify import verify as derive
        from workers.custody.keys import load_verifiers
        from workers.custody.ledger import Ledger
        from workers.custody.roster import load_roster

        for what, path in (("ledger", ledger), ("roster", roster)):
            if path is not None and not path.is_file():
                raise stop(
                    f"there is no {what} at {path}: it lies on the custodian's machine, below keys in its home folder"
                )
        receipts = [Receipt.of(each) for each in receipt or []]
        book = Ledger(ledger) if ledger is not None else None
        pinned = load_roster(roster) if roster is not None else None
        verifier, anchors = _verifier(public_key, home), _anchors(settings)
        custodian = load_verifiers(custodian_key or home_folder(home) / "keys" / "ticket.public.json")
        with sessions() as session:
            result = derive(session, anchors, verifier)
            crosscheck(session, result, pinned, custodian)
            if book is not None:
                check_ledger(session, book, result)
            check_receipts(session, receipts, result)
    _show_json(result) if as_json else _show(result)
    if not result.ok:
        raise typer.Exit(1)


@app.command()
def evidence(
    about: Annotated[str, typer.Argument(metavar="RELEASE|TICKET", help="An id, or as much of it as tells it apart.")],
    out: Annotated[Path, typer.Option(help="The file to write.")],
    public_key: PublicKey = None,
    home: Home = None,
) -> None:
    """Write what the trail proves about a release or a ticket into one file, for `refacex audit check` or anybody's own checker."""
    with service(home) as (settings, sessions):
        from schemas.tables import Release, Ticket
        from workers.audit.errors import NotInTrail
        from workers.audit.evidence import About, gather, pack

        verifier, anchors = _verifier(public_key, home), _anchors(settings)
        with sessions() as session:
            release, ticket = (by_beginning(session, column, about) for column in (Release.id, Ticket.id))
            known = [(About.RELEASE, release)] if release and session.get(Release, release) else []
            known += [(About.TICKET, ticket)] if ticket and session.get(Ticket, ticket) else []
        if len(known) != 1:
            raise NotInTrail
        with sessions() as session:
            made = gather(session, anchors, verifier, *known[0])
        try:
            out.write_bytes(pack(made))
        except OSError as error:
            raise stop(f"the file cannot be written: {error.strerror}") from None
    if made.left_out:
        left_out = number_of(made.left_out, "event")
        tell(f"left out as younger than the newest head: {left_out}; make it again in a minute")
    print(
        f"{number_of(len(made.events), 'event')}, proven by the head that the notary signed: check it with `refacex audit check {out} "
        "--public-key audit.public.json --custodian-key ticket.public.json`, both from whom you trust"
    )


@app.command()
def check(
    bundle: Annotated[Path, typer.Argument(help="The file that `refacex audit evidence` wrote.")],
    public_key: Annotated[Path, typer.Option(help="The notary's public key, from a source that you trust.")],
    custodian_key: Annotated[
        Path | None, typer.Option(help="The custodian's public key, to check its signatures on its own events as well.")
    ] = None,
    before_signatures: Annotated[
        bool,
        typer.Option(
            "--before-signatures",
            help="You know from elsewhere that this is of before the custodian signed its events: unsigned ones are then no fault.",
        ),
    ] = False,
    file: Annotated[
        list[Path] | None, typer.Option(help="A file, to see whether it is one of the released ones.")
    ] = None,
) -> None:
    """Check an evidence bundle with the public keys alone: no database, no service. Exit code 0 only if all of it holds."""
    with told():
        from workers.audit.checking import check_bundle
        from workers.custody.keys import load_verifiers

        verifier = _verifier(public_key, None)
        data = _content("the evidence bundle", bundle)
        files = [(path, _content("the file to look for in the evidence", path)) for path in file or []]
        custodian = load_verifiers(custodian_key) if custodian_key is not None else None
        checked = check_bundle(data, verifier, custodian, before_signatures=before_signatures)
    _show_checked(checked)
    known = [(path, checked.item_of(content) if checked.ok else None) for path, content in files]
    for path, item in known:
        print(
            printable(
                f"{path}: "
                + (f"is the released file of image {item}" if item else "IS NO FILE THAT THIS PROVES RELEASED")
            )
        )
    strange = sum(item is None for _, item in known)
    if not checked.ok:
        print("THIS EVIDENCE DOES NOT HOLD")
    elif strange:
        print(f"the evidence holds, and {strange} of {number_of(len(known), 'file')} NOT PROVEN RELEASED BY IT")
    else:
        print("all of it holds")
    if not checked.ok or strange:
        raise typer.Exit(1)


@app.command("accept-fork")
def accept_fork(
    who: Annotated[str, typer.Option("--as", help="Who you are.")],
    reason_code: Annotated[str, typer.Option(help="Why, as a code such as disk-failure: no free text.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask again.")] = False,
    home: Home = None,
) -> None:
    """Accept that the trail goes on from a restored backup. On the notary's machine, with its key; verification tells of it for ever."""
    with database_told():
        from datetime import timedelta

        from workers.audit import forks
        from workers.audit.notary import NotaryOptions, keeper_from
        from workers.db import session_factory
        from workers.logs import silence_logs

        silence_logs()
        env = home_folder(home) / "env" / "notary.env"
        settings = NotaryOptions.load(env if env.is_file() else None)
        anchors, signer = keeper_from(settings)
        sessions = session_factory(settings.database_url)
        try:
            with sessions() as session:
                found = forks.find_fork(session, anchors, signer, by=who, reason=reason_code)
            if found is not None:
                tell(found.words())
                if not yes and not typer.confirm("Give these up for ever, and go on from the database as it is?"):
                    raise typer.Exit(1)
            with sessions.begin() as session:
                keep = timedelta(settings.anchor_days)
                fork = forks.accept_fork(session, anchors, signer, by=who, reason=reason_code, keep=keep)
        finally:
            sessions.kw["bind"].dispose()
    print(f"accepted as epoch {fork.epoch}: start the service, and tell everybody concerned ({fork.sha256()})")


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
    table(["seq", "time", "event", "actor", "what"], [_row(each, whole=not on_terminal()) for each in found])


def _events(session: Session, wanted: dict[str, str | None], event: str | None, limit: int) -> Iterator[dict[str, Any]]:
    from sqlalchemy import cast, func, select
    from sqlalchemy.dialects.postgresql import JSONB

    from schemas.audit_tables import Event

    query = select(Event.canonical).order_by(Event.seq.desc()).limit(limit)
    if event is not None:
        query = query.where(Event.event == event)
    if (release := wanted.pop("release")) is not None:  # the index knows a release's events
        query = query.where(func.audit.release_of(Event.canonical) == release)
    fields = cast(func.convert_from(Event.canonical, "UTF8"), JSONB)["fields"]
    for name, value in wanted.items():
        if value is not None:
            query = query.where(fields[name].as_string() == value)
    for canonical in reversed(session.execute(query).scalars().all()):
        yield json.loads(canonical)


def _row(event: dict[str, Any], *, whole: bool) -> list[str]:
    fields = event["fields"]
    names = ("release", "item", "request", "ticket", "recovery")
    what = [f"{name} {fields[name]}" for name in names if name in fields]
    detail = fields.get("detail", {})
    said = [f"{name}={value}" for name, value in detail.items() if isinstance(value, str | int)]
    what += said if whole else [_HASH.sub(lambda found: f"{found[0][:12]}…", words) for words in said]
    time = event["at"][:19].replace("T", " ")
    return [str(event["seq"]), time, event["event"], fields.get("actor", ""), " ".join(what)]


def _verifier(public_key: Path | None, home: Path | None) -> HeadVerifier:
    from workers.audit.heads import HeadVerifier
    from workers.custody.keys import load_verifier

    key = load_verifier(public_key or home_folder(home) / "keys" / "audit.public.json")
    return HeadVerifier(key.id, key.public)


def _anchors(settings: GatewaySettings) -> Anchors:
    from workers.audit.heads import Anchors
    from workers.storage import Storage

    return Anchors(Storage(settings), settings.bucket_anchors)


def _content(what: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise stop(
            f"{what} cannot be read ({path}: {error.strerror}): nothing was checked; see that its path is right"
        ) from None


def _show_checked(checked: Checked) -> None:
    print(f"evidence about {checked.about}")
    for words in checked.facts:
        print(printable(f"  {words}"))
    for heading, entries in (("WRONG", checked.problems), ("proven", checked.proves), ("not proven", checked.limits)):
        for words in entries if checked.ok or heading == "WRONG" else ():
            print(printable(f"{heading}: {words}"))


def _show(result: Verification) -> None:
    for finding in result.findings[:200]:
        print(printable(f"{finding.where}: {finding.words} [{finding.problem.value}]"))
    for note in result.notes:
        tell(f"note: {note}")
    younger = result.events - result.anchored_to
    head = (
        f"{number_of(result.events, 'event')}, {number_of(result.signatures, 'signature')} of people, {result.attested} of the custodian, "
        f"{number_of(result.heads, 'head')}, {number_of(result.anchors, 'anchor')}; anchored to {result.anchored_to}"
    )
    print(head + (f", {younger} younger" if younger > 0 else ""))
    print("the trail holds" if result.ok else f"THE TRAIL DOES NOT HOLD: {number_of(len(result.findings), 'finding')}")


def _show_json(result: Verification) -> None:
    findings = [{"problem": f.problem.value, "where": f.where, "words": f.words} for f in result.findings]
    lines(
        [
            {
                "ok": result.ok,
                "events": result.events,
                "signatures": result.signatures,
                "attested": result.attested,
                "heads": result.heads,
                "anchors": result.anchors,
                "anchored_to": result.anchored_to,
                "root": result.root.hex(),
                "findings": findings,
                "notes": result.notes,
            }
        ]
    )
