"""`refacex person ...`: people's keys, and who they are."""

from __future__ import annotations

import getpass
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from gateway.cli.service import Home, Json, home_folder, lines, service, table, tell, told

app = typer.Typer(no_args_is_help=True, help="People who ask, approve and receive.")


@app.command("new-key")
def new_key(
    file: Annotated[Path, typer.Argument(help="Where to put the secret key file; its public half goes beside it.")],
) -> None:
    """Make a person's keys. The secret file stays with that person; give FILE.public to whoever adds them."""
    with told():
        from workers.custody import keys

        public = keys.create_person_key(file)
        beside = file.with_name(file.name + ".public")
        keys.write_public(beside, public)
        print(beside)
        tell(f"{file} is secret: keep it with its person, and a copy of it where only they can read it")


@app.command()
def add(
    person: Annotated[str, typer.Argument(help="The person's id: lower-case letters, digits and . _ @ -")],
    public: Annotated[Path, typer.Option(help="The public half of their key file.")],
    role: Annotated[list[str], typer.Option(help="requester or approver; may be repeated.")],
    tenant: Annotated[str, typer.Option(help="Whose person it is.")] = "default",
    roster: Annotated[
        Path | None, typer.Option(help="The custodian's roster. [default: keys/roster.json in the home folder]")
    ] = None,
    home: Home = None,
) -> None:
    """Add a person, to the service and to the custodian's roster. Run it as whoever owns the roster."""
    with service(home) as (_, sessions):
        from workers.custody import keys
        from workers.custody.errors import RosterInvalid
        from workers.custody.roster import APPROVER, REQUESTER, RosterPerson, add_person, load_roster
        from workers.recoveries import people

        if not role or not set(role) <= {APPROVER, REQUESTER}:
            raise typer.BadParameter(f"a role is {REQUESTER} or {APPROVER}", param_hint="--role")
        _check_id(person)
        both = keys.load(public, keys.FileKind.PUBLIC)
        signing, receiving = both.of(keys.KeyType.ED25519), both.of(keys.KeyType.X25519)
        member = RosterPerson(person, tenant, tuple(sorted(set(role))), signing.public, receiving.public)
        path = roster or home_folder(home) / "keys" / "roster.json"
        # The roster inside the transaction: without a place on it nobody counts, and then they are not added either.
        with sessions.begin() as session:
            people.add(session, member, getpass.getuser())
            known = load_roster(path).people.get(person) if path.exists() else None
            if known is not None and known != member:
                raise RosterInvalid("another person of that id is on it")
            if known is None:
                add_person(path, member)
        tell(f"{person} added ({', '.join(member.roles)}), key {signing.id}")


@app.command("list")
def list_people(as_json: Json = False, home: Home = None) -> None:
    """List the people that the service knows."""
    with service(home) as (_, sessions), sessions() as session:
        from sqlalchemy import select

        from schemas.tables import Person
        from workers.custody.keys import KeyType, key_id

        rows = session.execute(select(Person).order_by(Person.tenant, Person.id)).scalars().all()
        entries = [
            {
                "id": row.id,
                "tenant": row.tenant,
                "roles": sorted(row.roles),
                "key": key_id(KeyType.ED25519, bytes(row.ed25519_public)),
            }
            for row in rows
        ]
        if as_json:
            lines(entries)
        else:
            table(["id", "tenant", "roles", "key"], [[_cell(value) for value in entry.values()] for entry in entries])


def _cell(value: str | Sequence[str]) -> str:
    return value if isinstance(value, str) else ", ".join(value)


def _check_id(person: str) -> None:
    import re

    if not re.fullmatch(r"[a-z0-9][a-z0-9._@-]{0,63}", person):
        raise typer.BadParameter("lower-case letters, digits and . _ @ - only", param_hint="PERSON")
