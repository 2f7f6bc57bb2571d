"""`refacex audit ...`: look at the trail, verify it, acknowledge a finding, take evidence and check that, accept a fork."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli.passphrases import own_key
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
from gateway.cli.verifying import (
    CustodianKey,
    Given,
    LedgerFile,
    PublicKey,
    RosterFile,
    anchors_of,
    finding_line,
    show,
    show_json,
    verified,
    verifier_of,
)
from workers.words import number_of

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from workers.audit.checking import Checked

_HASH = re.compile(r"[0-9a-f]{32,}")  # hashes and signatures, and no id of ours

app = typer.Typer(no_args_is_help=True, help="The audit trail.")


@app.command()
def verify(
    public_key: PublicKey = None,
    custodian_key: CustodianKey = None,
    roster: RosterFile = None,
    ledger: LedgerFile = None,
    receipt: Annotated[
        list[str] | None, typer.Option(help="A receipt of yours, to see whether the trail still tells of it.")
    ] = None,
    as_json: Json = False,
    home: Home = None,
) -> None:
    """Derive the whole trail again from the database and the anchors, and hold every table against it.

    Exit code 0 only if nothing at all is wrong, save what auditors acknowledged.
    """
    with service(home) as (settings, sessions):
        given = Given(home, public_key, custodian_key, roster, ledger)
        result = verified(settings, sessions, given, receipt or [])
    show_json(result) if as_json else show(result)
    if not result.ok:
        raise typer.Exit(1)


@app.command()
def acknowledge(
    finding: Annotated[
        str, typer.Argument(help="The id that `refacex audit verify` shows, or as much as tells it apart.")
    ],
    who: Annotated[str, typer.Option("--as", help="Who you are: an auditor who had no part in it.")],
    key: Annotated[Path, typer.Option("--key", help="Your own key file.")],
    reason: Annotated[str, typer.Option(help="Why it is so, as a code such as stolen-worker-role: no free text.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask again.")] = False,
    public_key: PublicKey = None,
    custodian_key: CustodianKey = None,
    roster: RosterFile = None,
    ledger: LedgerFile = None,
    home: Home = None,
) -> None:
    """Sign that you looked into a finding that nobody can mend; verification goes on to list it, and does not fail for it."""
    with service(home) as (settings, sessions):
        from workers.audit import acknowledging
        from workers.custody.keys import KeyType

        signing = own_key(key).of(KeyType.ED25519)
        given = Given(home, public_key, custodian_key, roster, ledger)
        found = acknowledging.find(verified(settings, sessions, given), finding)
        message = acknowledging.acknowledge_message(found, reason)
        with sessions() as session:
            acknowledging.check_acknowledges(session, found, who)
        tell(finding_line(found))
        if not yes and not typer.confirm("Acknowledge this, for ever and under your name?"):
            raise typer.Exit(1)
        with sessions.begin() as session:
            seq = acknowledging.acknowledge(session, found, who, reason, signing.sign(message))
    tell(f"acknowledged as event {seq}: `refacex audit verify` lists it from now on")


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

        verifier, anchors = verifier_of(public_key, home), anchors_of(settings)
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
    if made.unreadable:
        tell(f"left out as in no event's form, so that nobody can read them: {number_of(made.unreadable, 'event')}")
    notarys, custodians = public_key or _key_path(home, "audit"), _key_path(home, "ticket")
    print(
        f"{number_of(len(made.events), 'event')}, proven by the head that the notary signed: check it with `refacex audit check "
        f"{quote(str(out))} --public-key {quote(str(notarys))} --custodian-key {quote(str(custodians))}`; who checks it elsewhere takes "
        "both keys from whom they trust"
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

        verifier = verifier_of(public_key, None)
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
    from workers.audit.canonical import parse

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
        try:
            yield parse(canonical)
        except ValueError:
            tell("an event cannot be read: see `refacex audit verify`")


def _row(event: dict[str, Any], *, whole: bool) -> list[str]:
    fields = event["fields"]
    names = ("release", "item", "request", "ticket", "recovery")
    what = [f"{name} {fields[name]}" for name in names if name in fields]
    detail = fields.get("detail")  # a stolen role writes what it likes
    values = detail.items() if isinstance(detail, dict) else ()
    said = [f"{name}={value}" for name, value in values if isinstance(value, str | int)]
    what += said if whole else [_HASH.sub(lambda found: f"{found[0][:12]}…", words) for words in said]
    time = event["at"][:19].replace("T", " ")
    return [str(event["seq"]), time, event["event"], str(fields.get("actor", "")), " ".join(what)]


def _key_path(home: Path | None, name: str) -> Path:
    return home_folder(home) / "keys" / f"{name}.public.json"


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
