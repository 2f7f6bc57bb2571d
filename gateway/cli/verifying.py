"""What `refacex audit verify` and `acknowledge` share: what is given to verify with, the verification itself, and how it is shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli.service import home_folder, lines, printable, stop, tell
from workers.words import number_of

if TYPE_CHECKING:
    from sqlalchemy.orm import Session, sessionmaker

    from workers.audit.findings import Acknowledged, Finding, Verification
    from workers.audit.heads import Anchors, HeadVerifier
    from workers.settings import GatewaySettings

_SHORT = 12  # hex digits of a finding's id, for people
_SHOWN = 200  # findings, for people

PublicKey = Annotated[
    Path | None, typer.Option(help="The notary's public key. [default: keys/audit.public.json in the home folder]")
]
CustodianKey = Annotated[
    Path | None,
    typer.Option(
        help="The custodian's public key, with which it signs. [default: keys/ticket.public.json in the home folder]"
    ),
]
RosterFile = Annotated[
    Path | None, typer.Option("--roster", help="The custodian's roster, to hold people against it as well.")
]
LedgerFile = Annotated[
    Path | None,
    typer.Option("--ledger", help="The custodian's ledger, or a copy of it, to hold the trail against it as well."),
]


@dataclass(frozen=True)
class Given:
    """Where the keys and the custodian's files lie; None for what lies in the home folder, or is not there."""

    home: Path | None
    public_key: Path | None
    custodian_key: Path | None
    roster: Path | None
    ledger: Path | None


def verified(
    settings: GatewaySettings, sessions: sessionmaker[Session], given: Given, receipts: Sequence[str] = ()
) -> Verification:
    """The whole verification. Raises typer.Exit for a file that is not there, and as reading keys, roster, ledger and receipts does."""
    from workers.audit.acknowledged import settle
    from workers.audit.crosscheck import crosscheck
    from workers.audit.ledgered import check_ledger
    from workers.audit.receipts import Receipt, check_receipts
    from workers.audit.verify import verify
    from workers.custody.keys import load_verifiers
    from workers.custody.ledger import Ledger
    from workers.custody.roster import load_roster

    for what, path in (("ledger", given.ledger), ("roster", given.roster)):
        if path is not None and not path.is_file():
            raise stop(
                f"there is no {what} at {path}: it lies on the custodian's machine, below keys in its home folder"
            )
    wanted = [Receipt.of(each) for each in receipts]
    book = Ledger(given.ledger) if given.ledger is not None else None
    pinned = load_roster(given.roster) if given.roster is not None else None
    verifier, anchors = verifier_of(given.public_key, given.home), anchors_of(settings)
    custodian = load_verifiers(given.custodian_key or home_folder(given.home) / "keys" / "ticket.public.json")
    with sessions() as session:
        result = verify(session, anchors, verifier)
        crosscheck(session, result, pinned, custodian)
        if book is not None:
            check_ledger(session, book, result)
        check_receipts(session, wanted, result)
        settle(session, result, pinned)
    return result


def verifier_of(public_key: Path | None, home: Path | None) -> HeadVerifier:
    """What checks the notary's signatures."""
    from workers.audit.heads import HeadVerifier
    from workers.custody.keys import load_verifier

    key = load_verifier(public_key or home_folder(home) / "keys" / "audit.public.json")
    return HeadVerifier(key.id, key.public)


def anchors_of(settings: GatewaySettings) -> Anchors:
    """Where the heads are anchored."""
    from workers.audit.heads import Anchors
    from workers.storage import Storage

    return Anchors(Storage(settings), settings.bucket_anchors)


def finding_line(finding: Finding) -> str:
    """A finding for people, with the beginning of its id."""
    words = f"{finding.where}: {finding.words} [{finding.problem.value}]"
    return printable(f"{finding.sha256().hex()[:_SHORT]}  {words}")


def show(result: Verification) -> None:
    """What was found, what was acknowledged and by whom, and whether the trail holds, for people."""
    for finding in result.findings[:_SHOWN]:
        print(finding_line(finding))
    if len(result.findings) > _SHOWN:
        print(
            f"and {number_of(len(result.findings) - _SHOWN, 'finding')} more: `refacex audit verify --json` gives all of them"
        )
    for each in result.acknowledged:
        by = ", ".join(f"{one.who} on {one.at[:16].replace('T', ' ')} UTC ({one.reason})" for one in each.by)
        print(f"{finding_line(each.finding)} acknowledged by {printable(by)}")
    for note in result.notes:
        tell(printable(f"note: {note}"))
    younger = result.events - result.anchored_to
    head = (
        f"{number_of(result.events, 'event')}, {number_of(result.signatures, 'signature')} of people, {result.attested} of the custodian, "
        f"{number_of(result.heads, 'head')}, {number_of(result.anchors, 'anchor')}; anchored to {result.anchored_to}"
    )
    print(head + (f", {younger} younger" if younger > 0 else ""))
    verdict = (
        "the trail holds" if result.ok else f"THE TRAIL DOES NOT HOLD: {number_of(len(result.findings), 'finding')}"
    )
    told = len(result.acknowledged)
    print(verdict + (f"; acknowledged by auditors: {number_of(told, 'finding')}" if told else ""))


def show_json(result: Verification) -> None:
    """The same, as one JSON object."""
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
                "findings": [_fields(finding) for finding in result.findings],
                "acknowledged": [_fields(each.finding) | {"by": _by(each)} for each in result.acknowledged],
                "notes": result.notes,
            }
        ]
    )


def _fields(finding: Finding) -> dict[str, Any]:
    said = {"problem": finding.problem.value, "where": finding.where, "words": finding.words}
    return {"id": finding.sha256().hex()} | said | ({"seen": finding.seen} if finding.seen else {})


def _by(acknowledged: Acknowledged) -> list[dict[str, Any]]:
    return [
        {"event": each.seq, "at": each.at, "who": each.who, "tenant": each.tenant, "reason": each.reason}
        for each in acknowledged.by
    ]
