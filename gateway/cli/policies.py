"""`refacex policy ...`: who must approve, for what, when, how much at once, and how long keys live."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from gateway.cli.passphrases import signer
from gateway.cli.people import By, ByKey
from gateway.cli.service import Home, Json, account, home_folder, lines, service, stop, table, tell, told
from gateway.json_files import read_object
from workers.words import number_of

app = typer.Typer(no_args_is_help=True, help="Policies of tenants for classes of data.")

_EXAMPLE = 'as {"name": "medical", "quorum": 2}; `refacex policy show` prints one'

Tenant = Annotated[str, typer.Option(help="Whose policy it is.")]
Pinned = Annotated[
    Path | None, typer.Option("--policies", help="The custodian's policies. [default: keys/policies.json at home]")
]


@app.command("set")
def set_one(
    file: Annotated[Path, typer.Argument(help="JSON: name, quorum, break_glass_quorum, purposes, hours, ...")],
    tenant: Tenant = "default",
    policies: Pinned = None,
    without_custodian: Annotated[
        bool, typer.Option("--without-custodian", help="Only the service: the custodian has its policies elsewhere.")
    ] = False,
    by: By = None,
    key: ByKey = None,
    home: Home = None,
) -> None:
    """Set a policy, in the service and with the custodian. Run it as whoever owns the custodian's policies."""
    with service(home) as (_, sessions):
        from schemas.administration import policy_message
        from workers.custody import policies as pinned
        from workers.recoveries import policies as known
        from workers.recoveries.people import Word

        policy = _read(file, tenant)
        admin = signer(by, key, "--by")
        # The custodian's copy inside the transaction: what counts there and what people are told here go together.
        with sessions.begin() as session:
            message = policy_message(policy.sha256(), known.next_version(session, policy))
            word = Word(admin.who, admin.sign(message)) if admin else None
            shut_out = known.shut_out(session, policy)
            version = known.set_policy(session, policy, account(), word)
            if not without_custodian:
                pinned.set_policy(_path(policies, home), policy)
        tell(f"policy {policy.name} of {policy.tenant}, version {version}")
        if shut_out:
            tell(
                f"submitted unsigned under it: {number_of(shut_out, 'release')}, of which nothing is recovered while it stands"
            )
        if without_custodian:
            tell("nothing of it counts before `refacex policy pin` on the custodian's machine")


@app.command()
def pin(
    file: Annotated[Path, typer.Argument(help="The same JSON as for `refacex policy set`.")],
    tenant: Tenant = "default",
    policies: Pinned = None,
    home: Home = None,
) -> None:
    """Set a policy with the custodian alone: run it on the custodian's machine."""
    with told():
        from workers.custody import policies as pinned

        policy = _read(file, tenant)
        pinned.set_policy(_path(policies, home), policy)
        tell(f"pinned: policy {policy.name} of {policy.tenant}")


@app.command("list")
def list_policies(as_json: Json = False, home: Home = None) -> None:
    """List the policies that the service knows. `default` is for releases that name none; its version is 0 where nobody set it."""
    with service(home) as (_, sessions), sessions() as session:
        from sqlalchemy import select

        from schemas.policies import DEFAULT_POLICY, Policy
        from schemas.tables import Person, Release
        from workers.recoveries import policies as known

        found = known.policies(session)
        tenants = set(session.scalars(select(Person.tenant).union(select(Release.tenant))))
        tenants -= {policy.tenant for policy, _ in found if policy.name == DEFAULT_POLICY}
        found += [(Policy(tenant), 0) for tenant in sorted(tenants)]
        entries = [policy.body() | {"version": version} for policy, version in found]
    if as_json:
        lines(entries)
        return
    names = ["tenant", "name", "version", "quorum", "break_glass_quorum", "max_items", "retain_days"]
    table([name.replace("_", " ") for name in names], [[_cell(entry[name]) for name in names] for entry in entries])


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="The policy's name.")] = "default",
    tenant: Tenant = "default",
    home: Home = None,
) -> None:
    """Print a policy as a file to edit, JSON: what `refacex policy set` takes."""
    with service(home) as (_, sessions), sessions() as session:
        from workers.recoveries import policies as known

        body = known.load_policy(session, tenant, name).body()
    print(json.dumps({key: value for key, value in body.items() if key not in ("v", "what", "tenant")}, indent=2))


def _read(file: Path, tenant: str) -> Any:
    from schemas.policies import Policy

    try:
        return Policy.of({"tenant": tenant} | read_object(file))
    except ValueError as error:
        raise stop(f"{file}: {error}; a policy is one JSON object, {_EXAMPLE}") from None


def _path(given: Path | None, home: Path | None) -> Path:
    return given or home_folder(home) / "keys" / "policies.json"


def _cell(value: Any) -> str:
    return "" if value is None else str(value)
