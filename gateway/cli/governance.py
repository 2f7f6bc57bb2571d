"""`refacex request ...`: ask for faces, decide, fetch. With it come `refacex person`, `roster` and `audit`.

Approvals are signed here, on the approver's own machine, with a key file that never leaves it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from gateway.cli import orders, people, policies, reviews, roster, trail
from gateway.cli.assertions import answered, relying_party
from gateway.cli.passphrases import own_key
from gateway.cli.receiving import make_private, open_all, take
from gateway.cli.requested import find_faces, find_request, item_names, terms_rows
from gateway.cli.roster import RosterFile
from gateway.cli.service import Cell, Home, Json, by_beginning, lines, service, stop, table, tell
from workers.words import number_of

if TYPE_CHECKING:
    from sqlalchemy.orm import Session, sessionmaker

    from schemas.states import Decision
    from workers.audit.receipts import Receipt

app = typer.Typer(no_args_is_help=True, help="Ask for faces back, decide on it, and fetch them.")

RequestId = Annotated[str, typer.Argument(help="The request's id, or as much of its beginning as tells it apart.")]
As = Annotated[str, typer.Option("--as", help="Who you are.")]
KeyOption = Annotated[Path, typer.Option("--key", help="Your own key file.")]
MaybeKey = Annotated[Path | None, typer.Option("--key", help="Your own key file.")]
AssertionOption = Annotated[
    Path | None, typer.Option("--assertion", help="JSON: what your passkey answered to `refacex request challenge`.")
]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask again.")]


def register(root: typer.Typer) -> None:
    """Add the commands to the command line."""
    root.add_typer(app, name="request")
    root.add_typer(people.app, name="person")
    root.add_typer(roster.app, name="roster")
    root.add_typer(policies.app, name="policy")
    root.add_typer(reviews.app, name="review")
    root.add_typer(trail.app, name="audit")
    orders.register(root)


@app.command()
def new(
    release: Annotated[str, typer.Argument(help="The release's id, or its beginning.")],
    face: Annotated[
        list[str],
        typer.Option(help="ITEM:FACE, or ITEM for all of its faces; ITEM is an id or a name. May be repeated."),
    ],
    who: As,
    key: KeyOption,
    reason: Annotated[str, typer.Option(help="Why it is needed.")],
    legal_basis: Annotated[str, typer.Option(help="What allows it.")],
    case: Annotated[str, typer.Option(help="The case's reference.")],
    purpose: Annotated[str, typer.Option(help="What the faces will be used for.")],
    quorum: Annotated[int | None, typer.Option(help="Approvals needed. [default: the policy's]")] = None,
    days: Annotated[int, typer.Option(min=1, max=90, help="How long it stays open.")] = 7,
    break_glass: Annotated[
        bool, typer.Option("--break-glass", help="An emergency: fewer approvals, everybody told, a review afterwards.")
    ] = False,
    home: Home = None,
) -> None:
    """Ask for faces of a release, signed with your key; prints the request's id."""
    with service(home) as (_, sessions):
        from schemas.requests import request_message
        from schemas.states import Urgency
        from schemas.tables import Release
        from workers.custody import keys
        from workers.recoveries import service as requests
        from workers.releases.errors import ReleaseUnknown

        signing = own_key(key).of(keys.KeyType.ED25519)
        with sessions.begin() as session:
            release_id = by_beginning(session, Release.id, release)
            if release_id is None:
                raise ReleaseUnknown
            terms = requests.draft_request(
                session,
                release_id=release_id,
                requester=who,
                grounds=requests.Grounds(reason, legal_basis, case, purpose),
                faces=[each for given in face for each in find_faces(session, release_id, given)],
                quorum=quorum,
                life=timedelta(days=days),
                urgency=Urgency.BREAK_GLASS if break_glass else Urgency.NORMAL,
            )
            requests.open_request(session, terms, signing.sign(request_message(terms.sha256())))
    print(terms.id)
    if break_glass:
        tell(
            "an emergency: an alert was given; once it is approved the glass is broken, and an auditor has to review it"
        )
    tell(
        f"it needs {number_of(terms.quorum, 'approval')}: refacex request approve {str(terms.id)[:8]} --as APPROVER --key FILE"
    )


@app.command("list")
def list_requests(
    state: Annotated[str | None, typer.Option(help="Only requests in this state.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 20,
    as_json: Json = False,
    home: Home = None,
) -> None:
    """List requests, the newest first."""
    with service(home) as (_, sessions), sessions() as session:
        from sqlalchemy import select

        from schemas.states import RequestState
        from schemas.tables import RecoveryRequest as Row

        query = select(Row).order_by(Row.created_at.desc()).limit(limit)
        if state is not None:
            if state not in set(RequestState):
                raise stop(f"a request is {', '.join(RequestState)}")
            query = query.where(Row.state == RequestState(state))
        rows = session.execute(query).scalars().all()
        names = ["id", "state", "requester", "case", "opened", "expires"]
        values = [
            [str(r.id), r.state.value, r.requester, r.case_reference, _minute(r.created_at), _minute(r.expires_at)]
            for r in rows
        ]
        if as_json:
            lines([dict(zip(names, row, strict=True)) for row in values])
        else:
            table(names, values)


@app.command()
def show(request: RequestId, as_json: Json = False, home: Home = None) -> None:
    """Show a request: what is asked, who decided, what became of it."""
    with service(home) as (_, sessions), sessions() as session:
        from sqlalchemy import select

        from schemas.tables import Approval, RecoveryRequest
        from workers.recoveries import service as requests
        from workers.refusals import why_no_face

        terms = requests.load_terms(session, find_request(session, request))
        row = session.get_one(RecoveryRequest, terms.id)
        decisions = session.execute(select(Approval).where(Approval.request_id == terms.id)).scalars().all()
        recovery = requests.find_recovery(session, terms.id)
        became, code = recovery.state.value if recovery else "", requests.failure_of(session, terms.id)
        why = f"{why_no_face(code)} [{code}]" if code else ""
        said = {each.approver: each.decision.value for each in decisions}
        if as_json:
            import json

            entry = json.loads(terms.canonical()) | {"sha256": terms.sha256().hex(), "state": row.state.value}
            lines([entry | {"decisions": said, "recovery": became or None, "why": why or None}])
            return
        rows: list[list[Cell]] = [*terms_rows(session, terms), ["state", row.state.value]]
        rows += [["decisions", ", ".join(f"{who}: {what}" for who, what in said.items()) or "none yet"]]
        rows += [["recovery", became or "none yet"]]
        rows += [["why", why]] if why else []
        table(["request", str(terms.id)], rows)


@app.command()
def approve(
    request: RequestId,
    who: As,
    key: MaybeKey = None,
    assertion: AssertionOption = None,
    yes: Yes = False,
    roster: RosterFile = None,
    home: Home = None,
) -> None:
    """Approve a request: shows what you sign, signs it here with your key file, and hands in the signature alone.

    Or hands in what your passkey answered to `refacex request challenge`.
    """
    from schemas.states import Decision

    _decide(request, who, Means(key, assertion, yes, roster, home), Decision.APPROVE)


@app.command()
def deny(
    request: RequestId,
    who: As,
    key: MaybeKey = None,
    assertion: AssertionOption = None,
    yes: Yes = False,
    roster: RosterFile = None,
    home: Home = None,
) -> None:
    """Deny a request, signed as an approval is; one denial closes it."""
    from schemas.states import Decision

    _decide(request, who, Means(key, assertion, yes, roster, home), Decision.DENY)


@app.command()
def challenge(
    request: RequestId,
    who: As,
    to_deny: Annotated[bool, typer.Option("--deny", help="For a denial; without it, for an approval.")] = False,
    roster: RosterFile = None,
    home: Home = None,
) -> None:
    """Print what a browser asks your passkey with (PublicKeyCredentialRequestOptions, JSON), for a console of your own.

    What the passkey answers (the credential's toJSON()) goes to `refacex request approve | deny --assertion FILE`. The console has to show
    what `refacex request show` does: the challenge is the hash of just that.
    """
    with service(home) as (_, sessions), sessions() as session:
        from schemas.requests import decision_message
        from schemas.states import Decision
        from workers.custody import passkeys
        from workers.custody.roster import APPROVER
        from workers.recoveries import decisions
        from workers.recoveries import service as requests
        from workers.recoveries.people import acting

        terms = requests.load_terms(session, find_request(session, request))
        decisions.check_decider(session, terms, who, None)
        requests.check_names(session, terms)
        person = acting(session, who, terms.tenant, APPROVER)
        if not person.passkeys:
            raise stop(
                f"{who} was added without a passkey: they decide with their key file, `refacex request approve --key FILE`"
            )
        message = decision_message(Decision.DENY if to_deny else Decision.APPROVE, terms.sha256())
        options = {
            "challenge": passkeys.challenge(message),
            "rpId": relying_party(roster, home).id,
            "allowCredentials": [{"type": "public-key", "id": one["id"]} for one in person.passkeys],
            "userVerification": "required",
        }
        print(json.dumps(options))


@app.command()
def withdraw(request: RequestId, who: As, key: KeyOption, home: Home = None) -> None:
    """Take your own request back, signed with your key."""
    with service(home) as (_, sessions), sessions.begin() as session:
        from schemas.requests import withdraw_message
        from workers.audit.receipts import receipt_for
        from workers.custody import keys
        from workers.recoveries import service as requests

        signing = own_key(key).of(keys.KeyType.ED25519)
        terms = requests.load_terms(session, find_request(session, request))
        requests.withdraw(session, terms.id, who, signing.sign(withdraw_message(terms.sha256())))
        given = receipt_for(session, terms.release, terms.id, who)
    tell("withdrawn")
    _tell_receipt(given)


@app.command()
def fetch(
    request: RequestId,
    who: As,
    key: KeyOption,
    out: Annotated[Path, typer.Option(help="Folder to write the faces to.")],
    timeout: Annotated[
        float, typer.Option(min=0, help="Seconds to wait for the recovery of an approved request.")
    ] = 60.0,
    home: Home = None,
) -> None:
    """Fetch the recovered faces, once, and open them with your key; prints the files.

    What was fetched and could not be opened stays in the folder, sealed: the same command tries again.
    """
    with service(home) as (_, sessions):
        from schemas.requests import fetch_message
        from workers.custody import keys
        from workers.recoveries import service as requests

        # Before the one fetch: a key that cannot open them, or a folder that cannot be written, would lose the faces.
        both = own_key(key)
        pair = both.of(keys.KeyType.X25519)
        make_private(out)
        with sessions() as session:
            terms = requests.load_terms(session, find_request(session, request))
            requests.check_names(session, terms)
            names = item_names(session, terms)
        if pair.public != terms.recipient_public:
            raise stop("this key file is not the one that the request was opened for")
        recovery = _wait(sessions, terms.id, timeout)
        signature = both.of(keys.KeyType.ED25519).sign(fetch_message(terms.sha256(), recovery))
        open_all(out, take(sessions, recovery, who, signature, out), names, pair.secret())
        with sessions() as session:
            if code := requests.failure_of(session, terms.id):
                from workers.refusals import why_no_face

                tell(f"not every face came back: {why_no_face(code)} [{code}]")


@dataclass(frozen=True)
class Means:
    """How somebody decides: with a key file, or with what their passkey answered."""

    key: Path | None
    assertion: Path | None
    yes: bool
    roster: Path | None
    home: Path | None


def _decide(given: str, who: str, means: Means, decision: Decision) -> None:
    if (means.key is None) == (means.assertion is None):
        raise typer.BadParameter("give your key file (--key) or your passkey's answer (--assertion), one of the two")
    with service(means.home) as (_, sessions):
        from schemas.requests import decision_message
        from schemas.states import Decision, RequestState
        from workers.audit.receipts import receipt_for
        from workers.custody import keys
        from workers.custody.judge import Signed
        from workers.recoveries import decisions
        from workers.recoveries import service as requests

        # What it is signed with is read before anybody is asked anything.
        signing = own_key(means.key).of(keys.KeyType.ED25519) if means.key is not None else None
        answer = answered(means.assertion) if means.assertion is not None else None
        party = relying_party(means.roster, means.home) if answer is not None else None
        with sessions() as session:
            # What is signed is put together here from what is shown, and not taken from the server as bytes.
            terms = requests.load_terms(session, find_request(session, given))
            decisions.check_decider(session, terms, who, signing.public if signing is not None else None)
            requests.check_names(session, terms)
            if decision is Decision.APPROVE:  # nobody signs for a face whose key was shredded meanwhile
                requests.check_faces(session, terms.release, terms.faces)
            table([decision.value, str(terms.id)], terms_rows(session, terms))
        try:
            if not means.yes and not typer.confirm(f"{decision.value.capitalize()} this as {who}?"):
                raise typer.Exit(1)
        except typer.Abort:
            raise stop("nobody answered: read it with `refacex request show`, then give --yes") from None
        if signing is not None:
            answer = Signed(signing.sign(decision_message(decision, terms.sha256())))
        assert answer is not None
        with sessions.begin() as session:
            record = decisions.approve if decision is Decision.APPROVE else decisions.deny
            state = record(session, terms.id, who, answer, party)
            receipt = receipt_for(session, terms.release, terms.id, who)
        tell(f"recorded; the request is {state.value}")
        _tell_receipt(receipt)
        if state is RequestState.OPEN:
            tell(f"it needs {number_of(terms.quorum, 'approval')} in all")
        elif state is RequestState.APPROVED:
            tell(f"{terms.requester} can fetch it in a moment: `refacex request fetch {str(terms.id)[:8]}`")


def _tell_receipt(given: Receipt) -> None:
    tell(f"your receipt, with which `refacex audit verify --receipt` tells whether the trail still says so: {given}")


def _wait(sessions: sessionmaker[Session], request: UUID, timeout: float) -> UUID:
    """The recovery of a request, once it has ended or the time is up. Raises NothingToFetch and, with why, RecoveryFailed."""
    import time

    from schemas.states import RecoveryState, RequestState
    from schemas.tables import RecoveryRequest
    from workers.recoveries import service as requests
    from workers.recoveries.errors import NothingToFetch, RecoveryFailed
    from workers.refusals import why_no_face

    waiting = (RequestState.APPROVED, RequestState.RECOVERING)  # on people nobody waits
    end = time.monotonic() + timeout
    while True:
        with sessions() as session:
            recovery = requests.find_recovery(session, request)
            state = session.get_one(RecoveryRequest, request).state
            code = requests.failure_of(session, request)
        came = recovery is not None and recovery.state in (RecoveryState.RECOVERED, RecoveryState.FETCHED)
        if code and not came and state not in waiting:
            raise RecoveryFailed(f"{code}: {why_no_face(code)}")
        if recovery is not None and recovery.state is not RecoveryState.BOUND:
            return recovery.id
        if state not in waiting or time.monotonic() >= end:
            raise NothingToFetch(f"the request is {state.value}")
        time.sleep(0.5)


def _minute(moment: Any) -> str:
    return f"{moment:%Y-%m-%d %H:%M}"
