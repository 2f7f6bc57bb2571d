"""`refacex alerts`: what somebody had to be told at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.service import Home, Json, lines, service, table, tell

if TYPE_CHECKING:
    from schemas.tables import Alert


def alerts(
    limit: Annotated[int, typer.Option(help="How many at most.")] = 20, as_json: Json = False, home: Home = None
) -> None:
    """List alerts, the newest first, and whether they were delivered."""
    with service(home) as (_, sessions), sessions() as session:
        from workers.alerts import newest

        found = newest(session, limit)
    if as_json:
        lines(
            [
                {"id": a.id, "at": a.at, "kind": a.kind, "detail": a.detail}
                | {"delivered_at": None if a.here_only else a.delivered_at, "here_only": a.here_only}
                for a in found
            ]
        )
        return
    rows = [
        [
            str(alert.id),
            f"{alert.at:%Y-%m-%d %H:%M:%S}",
            alert.kind,
            _delivery(alert),
            ", ".join(f"{name} {value}" for name, value in sorted(alert.detail.items())),
        ]
        for alert in found
    ]
    table(["id", "at", "kind", "delivered", "detail"], rows)
    if any(alert.here_only for alert in found):
        tell("shown here only: no webhook was set when they came; see REFACEX_ALERT_WEBHOOK, which the relay reads")


def _delivery(alert: Alert) -> str:
    if alert.here_only:
        return "shown here only"
    return f"{alert.delivered_at:%H:%M:%S}" if alert.delivered_at else "waits"
