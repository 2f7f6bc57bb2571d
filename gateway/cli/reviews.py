"""`refacex review ...`: what became of broken glasses, and somebody's word that it was looked into."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gateway.cli.passphrases import own_key
from gateway.cli.requested import find_request
from gateway.cli.service import Home, Json, lines, service, table, tell

app = typer.Typer(no_args_is_help=True, help="Reviews of requests that broke the glass.")


@app.command("list")
def list_reviews(
    every: Annotated[bool, typer.Option("--all", help="Closed ones as well, with what was found.")] = False,
    as_json: Json = False,
    home: Home = None,
) -> None:
    """List the reviews that are still open, the oldest first."""
    with service(home) as (_, sessions), sessions() as session:
        from schemas.tables import RecoveryRequest
        from workers.recoveries.reviews import all_reviews, open_reviews

        rows = []
        for review in all_reviews(session) if every else open_reviews(session):
            request = session.get_one(RecoveryRequest, review.request_id)
            row = [str(request.id), request.requester, request.case_reference, f"{review.opened_at:%Y-%m-%d %H:%M}"]
            closed = f"{review.closed_at:%Y-%m-%d %H:%M}" if review.closed_at else ""
            rows.append(row + ([closed, review.closed_by or "", review.conclusion or ""] if every else []))
    names = ["request", "requester", "case", "open since", *(["closed", "by", "conclusion"] if every else [])]
    if as_json:
        lines([dict(zip(names, row, strict=True)) for row in rows])
    else:
        table(names, rows)


@app.command()
def close(
    request: Annotated[str, typer.Argument(help="The request's id, or its beginning.")],
    who: Annotated[str, typer.Option("--as", help="Who you are: an auditor who neither asked nor decided.")],
    key: Annotated[Path, typer.Option("--key", help="Your own key file.")],
    conclusion: Annotated[str, typer.Option(help="What you found.")],
    home: Home = None,
) -> None:
    """Close a review with what you found, signed with your key."""
    with service(home) as (_, sessions), sessions.begin() as session:
        from schemas.requests import review_message
        from workers.custody import keys
        from workers.recoveries.reviews import close_review
        from workers.recoveries.service import load_terms

        signing = own_key(key).of(keys.KeyType.ED25519)
        terms = load_terms(session, find_request(session, request))
        signature = signing.sign(review_message(terms.sha256(), conclusion))
        close_review(session, terms.id, who, conclusion, signature)
    tell("closed")
