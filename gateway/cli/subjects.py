"""`refacex subject ...`: whom images show, by the submitter's own word for them and by the pseudonym that the trail knows."""

from __future__ import annotations

from typing import Annotated

import typer

from gateway.cli.service import Home, Json, lines, service, table

app = typer.Typer(no_args_is_help=True, help="Whom images show, where a manifest said so.")

Tenant = Annotated[str, typer.Option(help="Whose subject it is.")]


@app.command()
def find(
    reference: Annotated[str, typer.Argument(help="The word for the subject in the manifests.")],
    tenant: Tenant = "default",
    as_json: Json = False,
    home: Home = None,
) -> None:
    """Print a subject's pseudonym, and the items that show it."""
    with service(home) as (_, sessions), sessions() as session:
        from workers.custody.proof import ONE_SNAPSHOT
        from workers.releases import subjects

        session.connection(execution_options=ONE_SNAPSHOT)
        pseudonym, shown = subjects.find(session, tenant, reference)
    if as_json:
        items = [
            {"release": each.release, "item": each.item, "position": each.position, "state": each.state}
            for each in shown
        ]
        lines([{"subject": pseudonym, "items": items}])
        return
    print(pseudonym)
    head = ["release", "item", "position", "state"]
    table(head, [[str(each.release), str(each.item), str(each.position), each.state] for each in shown])


@app.command("list")
def list_subjects(
    tenant: Tenant = "default",
    limit: Annotated[int, typer.Option(help="How many at most.")] = 50,
    as_json: Json = False,
    home: Home = None,
) -> None:
    """List a tenant's subjects, the newest first."""
    with service(home) as (_, sessions), sessions() as session:
        from workers.custody.proof import ONE_SNAPSHOT
        from workers.releases import subjects

        session.connection(execution_options=ONE_SNAPSHOT)
        known = subjects.subjects(session, tenant, limit)
    if as_json:
        lines([{"subject": each.id, "reference": each.reference, "items": each.items} for each in known])
        return
    rows = [
        [str(each.id), each.reference or "erased", str(each.items), f"{each.created_at:%Y-%m-%d}"] for each in known
    ]
    table(["subject", "reference", "items", "since"], rows)
