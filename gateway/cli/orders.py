"""`refacex shred ...`, `hold ...`, `lift ...`: a key officer's signed orders to the custodian; and what became of them.

Orders are signed here, on the officer's own machine. The custodian carries them out, or refuses.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli.passphrases import own_key
from gateway.cli.service import Cell, Home, Json, by_beginning, lines, name_shown, service, stop, table, tell, told
from schemas.states import OrderKind, OrderScope, OrderState
from workers.words import number_of

if TYPE_CHECKING:
    from sqlalchemy.orm import Session, sessionmaker

    from schemas.orders import OrderTerms
    from schemas.tables import CustodyOrder
    from workers.custody.holds import Target

_VERBS = {OrderKind.SHRED: "Shred the keys of", OrderKind.HOLD: "Hold", OrderKind.LIFT: "Lift the hold on"}
_QUESTIONS = {
    OrderKind.SHRED: "Shred these keys for ever",
    OrderKind.HOLD: "Hold this, so that its keys are not shredded",
    OrderKind.LIFT: "Lift the hold on this, so that its keys may be shredded again",
}
_WHAT = {
    OrderScope.FACE: "one face and no other of its item: TARGET is ITEM:FACE, the item by its id or the id's beginning",
    OrderScope.ITEM: "an item with all of its faces: TARGET is its id or the id's beginning",
    OrderScope.RELEASE: "a release with all of its items: TARGET is its id or the id's beginning",
    OrderScope.SUBJECT: "every item that shows a subject: TARGET is the subject's id, the id's beginning, or your "
    "reference for them",
}
TargetArgument = Annotated[str, typer.Argument(metavar="TARGET", show_default=False)]
As = Annotated[str | None, typer.Option("--as", help="Who you are: a key officer.")]
KeyOption = Annotated[Path | None, typer.Option("--key", help="Your own key file.")]
Reason = Annotated[str | None, typer.Option(help="Why. It stands in the order, and never in the audit trail.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be shredded and what forbids it, and end.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask again.")]

app = typer.Typer(no_args_is_help=True, help="Orders to the custodian, and what became of them.")
hold_app = typer.Typer(no_args_is_help=True, help="Forbid that keys are shredded: a legal hold.")
lift_app = typer.Typer(no_args_is_help=True, help="Lift a hold, on just the face, item, release or subject it was for.")
shred_app = typer.Typer(no_args_is_help=True, help="Shred keys, for ever: nobody can recover these faces any more.")

_GROUPS = {OrderKind.SHRED: shred_app, OrderKind.HOLD: hold_app, OrderKind.LIFT: lift_app}


def register(root: typer.Typer) -> None:
    """Add the commands to the command line."""
    for kind, group in _GROUPS.items():
        root.add_typer(group, name=kind.value)
    root.add_typer(app, name="order")
    root.command()(retention)


@hold_app.command("list")
def list_holds(
    ledger: Annotated[
        Path | None, typer.Option(help="The custodian's ledger, on its machine: what really holds.")
    ] = None,
    as_json: Json = False,
    home: Home = None,
) -> None:
    """List what is held, the oldest first: by the orders that were carried out, or by the custodian's ledger itself."""
    entries = _ledger_holds(ledger) if ledger is not None else _known_holds(home)
    names = ["target", "ordered", *(["by", "reason"] if ledger is None else [])]
    _print(names, entries, as_json)


@app.command("list")
def list_orders(
    state: Annotated[str | None, typer.Option(help="Only orders in this state: given, done or refused.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 20,
    as_json: Json = False,
    home: Home = None,
) -> None:
    """List orders, the newest first. The outcome of a shredding as JSON is how many keys of its target are gone."""
    with service(home) as (_, sessions), sessions() as session:
        from sqlalchemy import select

        from schemas.tables import CustodyOrder
        from workers.custody.holds import Target

        query = select(CustodyOrder).order_by(CustodyOrder.created_at.desc()).limit(limit)
        if state is not None:
            if state not in set(OrderState):
                raise stop(f"an order is {', '.join(OrderState)}")
            query = query.where(CustodyOrder.state == OrderState(state))
        entries = [
            {
                "id": str(order.id),
                "order": order.kind.value,
                "target": str(Target.of(order)),
                "by": order.ordered_by,
                "ordered": _minute(order.created_at),
                "state": order.state.value,
                "outcome": (order.outcome or "") if as_json else _outcome(order),
            }
            for order in session.execute(query).scalars()
        ]
    _print(["id", "order", "target", "by", "ordered", "state", "outcome"], entries, as_json)


@app.command()
def show(
    order: Annotated[str, typer.Argument(help="The order's id, or its beginning.")],
    as_json: Json = False,
    home: Home = None,
) -> None:
    """Show an order: what was signed, and what became of it."""
    with service(home) as (_, sessions), sessions() as session:
        from schemas.tables import CustodyOrder
        from workers.custody.ordering import OrderUnknown
        from workers.custody.rows import order_terms

        found = by_beginning(session, CustodyOrder.id, order)
        row = session.get(CustodyOrder, found) if found is not None else None
        if row is None:
            raise OrderUnknown
        terms = order_terms(row)
        became, told_as = {"state": row.state.value, "outcome": row.outcome}, _outcome(row, whole=True)
    if as_json:
        import json

        lines([json.loads(terms.canonical()) | {"sha256": terms.sha256().hex()} | became])
        return
    table(
        ["order", str(terms.id)],
        [*_terms_rows(terms), ["state", row.state.value], ["outcome", told_as]],
    )


def retention(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what is due, when, and what holds keep.")
    ] = False,
    as_json: Json = False,
    home: Home = None,
) -> None:
    """List the releases whose policy ends their keys, and have the custodian shred those that are due.

    The custodian goes by its own copy of the policies and by the trail's times, and shreds nothing that is held.
    """
    with service(home) as (_, sessions), sessions.begin() as session:
        from schemas.states import OrderScope
        from workers.custody import ordering, retained
        from workers.custody.holds import Target
        from workers.custody.retention import ask

        found = retained.retained(session)
        surveys = [ordering.survey(session, Target(OrderScope.RELEASE, each.release)) for each in found]
        entries = [
            {
                "release": str(each.release),
                "name": each.name,
                "policy": f"{each.policy} of {each.tenant}",
                "keys": str(surveyed.keys.left),
                "due": _minute(each.due_at) + (" (now)" if each.is_due else ""),
                "held": ", ".join(sorted(map(str, surveyed.holds))),
            }
            for each, surveyed in zip(found, surveys, strict=True)
        ]
        asked = 0 if dry_run else ask(session, [each.release for each in found if each.is_due])
    _print(["release", "name", "policy", "keys", "due", "held"], entries, as_json)
    due = sum(each.is_due for each in found)
    if dry_run:
        later = f"; {number_of(len(found) - due, 'release')} only later, as listed" if len(found) > due else ""
        tell(f"nothing was done: due today, and shredded but for what is held: {number_of(due, 'release')}{later}")
    elif asked:
        tell(f"the custodian is asked to shred {number_of(asked, 'release')}; what is held stays")
    else:
        tell("no release is due: nothing was done")


def _shred_command(scope: OrderScope) -> Callable[..., None]:
    def command(
        target: TargetArgument,
        who: As = None,
        key: KeyOption = None,
        reason: Reason = None,
        dry_run: DryRun = False,
        yes: Yes = False,
        home: Home = None,
    ) -> None:
        with service(home) as (_, sessions):
            found = _find(sessions, scope, target)
            _survey(sessions, found)
            if not dry_run:
                _order(sessions, OrderKind.SHRED, found, who, key, reason, yes)

    return command


def _command(kind: OrderKind, scope: OrderScope) -> Callable[..., None]:
    def command(
        target: TargetArgument,
        who: As = None,
        key: KeyOption = None,
        reason: Reason = None,
        yes: Yes = False,
        home: Home = None,
    ) -> None:
        with service(home) as (_, sessions):
            _order(sessions, kind, _find(sessions, scope, target), who, key, reason, yes)

    return command


def _order(
    sessions: sessionmaker[Session],
    kind: OrderKind,
    target: Target,
    who: str | None,
    key: Path | None,
    reason: str | None,
    yes: bool,
) -> None:
    """Drafts, shows, signs and gives an order; prints its id."""
    from schemas.orders import order_message
    from workers.custody import keys, ordering

    if who is None or key is None or reason is None:
        raise stop("an order needs --as, --key and --reason")
    signing = own_key(key).of(keys.KeyType.ED25519)
    with sessions() as session:
        terms = ordering.draft_order(session, kind, target, ordered_by=who, reason=reason)
        ordering.check_officer(session, terms, signing.public)
    table(["order", str(terms.id)], _terms_rows(terms))
    try:
        if not yes and not typer.confirm(f"{_QUESTIONS[kind]}, as {who}?"):
            raise typer.Exit(1)
    except typer.Abort:
        raise stop("nobody answered: read what would be signed above, then give --yes") from None
    with sessions.begin() as session:
        ordering.give_order(session, terms, signing.sign(order_message(terms)))
    tell(f"given to the custodian; what becomes of it: refacex order show {str(terms.id)[:8]}")


def _survey(sessions: sessionmaker[Session], target: Target) -> None:
    """Says what shredding would mean."""
    from workers.custody import ordering

    with sessions() as session:
        found = ordering.survey(session, target)
    faces = found.keys.left - found.keys.layout
    forbids = [f"hold on {hold}" for hold in sorted(found.holds, key=str)]
    forbids += ["its release is not finished"] if found.running else []
    rows: list[list[Cell]] = [
        ["tenant", found.tenant],
        ["items", str(found.items)],
        ["keys to shred", f"{found.keys.left} ({faces} of faces, {found.keys.layout} of layouts)"],
        ["shredded before", str(found.keys.gone)],
        ["open requests it ends", str(found.requests)],
        ["waiting recoveries it ends", str(found.recoveries)],
        ["forbidden by", tuple(forbids) or "nothing that the database knows"],
    ]
    table(["shred", str(target)], rows)


def _find(sessions: sessionmaker[Session], scope: OrderScope, given: str) -> Target:
    """What the words name. Raises TargetUnknown, SubjectAmbiguous, SubjectsChanged."""
    from schemas.tables import Item, Release, Subject
    from workers.custody.errors import TargetUnknown
    from workers.custody.holds import Target
    from workers.custody.proof import ONE_SNAPSHOT
    from workers.releases import subjects

    numbered = re.fullmatch(r"(.+):(\d{1,4})", given) if scope is OrderScope.FACE else None
    if scope is OrderScope.FACE and numbered is None:
        raise TargetUnknown("a face is named ITEM:FACE")
    name = numbered[1] if numbered else given
    column = {OrderScope.RELEASE: Release.id, OrderScope.SUBJECT: Subject.id}.get(scope, Item.id)
    with sessions() as session:
        session.connection(execution_options=ONE_SNAPSHOT)
        found = by_beginning(session, column, name)
        if scope is OrderScope.SUBJECT:
            subject = subjects.named(session, name, found)
            found = subject.id if subject is not None else None
            if subject is not None:
                tell(f"subject {subject.id} is {name_shown(subject.reference or 'erased')} of {subject.tenant}")
    if found is None:
        raise TargetUnknown
    return Target(scope, found, int(numbered[2]) if numbered else None)


def _terms_rows(terms: OrderTerms) -> list[list[str]]:
    from workers.custody.holds import Target

    return [
        ["what", terms.kind.value],
        ["target", str(Target.of(terms))],
        ["tenant", terms.tenant],
        ["ordered by", terms.ordered_by],
        ["reason", terms.reason],
        ["SHA-256", terms.sha256().hex()],
    ]


def _outcome(order: CustodyOrder, *, whole: bool = False) -> str:
    """What became of an order; where it was refused, with `whole`, also what to do."""
    from workers.refusals import why_no_order

    if order.state is OrderState.GIVEN:
        return "waits for the custodian"
    if order.state is OrderState.REFUSED:
        code = order.outcome or ""
        return f"{why_no_order(code)} [{code}]" if whole else f"refused: {code.replace('_', ' ')}"
    if order.kind is OrderKind.SHRED:
        keys = order.outcome or "0"
        return f"{number_of(int(keys), 'key') if keys.isdecimal() else keys} shredded"
    return "held" if order.kind is OrderKind.HOLD else "lifted"


def _known_holds(home: Path | None) -> list[dict[str, str]]:
    with service(home) as (_, sessions), sessions() as session:
        from workers.custody.holds import Target
        from workers.custody.ordering import standing_holds

        return [
            {
                "target": str(Target.of(order)),
                "ordered": _minute(order.created_at),
                "by": order.ordered_by,
                "reason": order.reason,
            }
            for order in standing_holds(session)
        ]


def _ledger_holds(path: Path) -> list[dict[str, str]]:
    with told():
        from workers.custody.ledger import Ledger

        if not path.exists():
            raise stop(f"there is no ledger at {path}: run it on the custodian's machine")
        standing = sorted(Ledger(path).holds().standing().items(), key=lambda each: each[1])
        return [{"target": str(target), "ordered": _minute(at)} for target, at in standing]


def _print(names: list[str], entries: list[dict[str, str]], as_json: bool) -> None:
    if as_json:
        lines(entries)
    else:
        table(names, [[entry[name] for name in names] for entry in entries])


def _minute(moment: Any) -> str:
    return f"{moment:%Y-%m-%d %H:%M}"


for _kind, _group in _GROUPS.items():
    for _scope in OrderScope:
        _made = _shred_command(_scope) if _kind is OrderKind.SHRED else _command(_kind, _scope)
        _group.command(_scope.value, help=f"{_VERBS[_kind]} {_WHAT[_scope]}.")(_made)
