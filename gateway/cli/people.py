"""`refacex person ...`: people's keys, and who they are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from gateway.cli.passphrases import new_passphrase, signer
from gateway.cli.roster import Passkeys, PersonId, Public, Roles, RosterFile, Tenant, enter, member, roster_path
from gateway.cli.service import Home, Json, account, lines, service, stop, table, tell, told

app = typer.Typer(no_args_is_help=True, help="People who submit, ask, approve and administer.")

By = Annotated[str | None, typer.Option("--by", help="Which administrator signs it; needed once the tenant has one.")]
ByKey = Annotated[Path | None, typer.Option("--key", help="That administrator's own key file.")]
KeepSubmitter = Annotated[
    bool, typer.Option("--keep-submitter", help="Stay on the roster as a submitter: for what they signed in the past.")
]


@app.command("new-key")
def new_key(
    file: Annotated[Path, typer.Argument(help="Where to put the secret key file; its public half goes beside it.")],
    passphrase: Annotated[
        bool, typer.Option("--passphrase", help="Put it under a passphrase, which is asked for whenever it is used.")
    ] = False,
) -> None:
    """Make a person's keys. The secret file stays with that person; give FILE.public to whoever adds them."""
    with told():
        from workers.custody import keys

        public = keys.create_person_key(file, new_passphrase(file) if passphrase else None)
        beside = file.with_name(file.name + ".public")
        keys.write_public(beside, public)
        print(beside)
        tell(f"{file} is secret: keep it with its person, and a copy of it where only they can read it")


@app.command()
def add(
    person: PersonId,
    public: Public,
    role: Roles,
    tenant: Tenant = "default",
    passkey: Passkeys = [],  # noqa: B006  (typer copies it)
    roster: RosterFile = None,
    without_roster: Annotated[
        bool, typer.Option("--without-roster", help="Only the service: the custodian has its roster elsewhere.")
    ] = False,
    by: By = None,
    key: ByKey = None,
    home: Home = None,
) -> None:
    """Add a person, to the service and to the custodian's roster. Run it as whoever owns the roster."""
    with service(home) as (_, sessions):
        from schemas.administration import add_message
        from workers.custody.keys import KeyType, key_id
        from workers.recoveries import people

        new = member(person, public, role, tenant, passkey)
        admin = signer(by, key, "--by")
        word = people.Word(admin.who, admin.sign(add_message(people.terms_of(new).sha256()))) if admin else None
        # The roster inside the transaction: without a place on it nobody counts, and then they are not added either.
        with sessions.begin() as session:
            added = people.add(session, new, account(), word)
            if not without_roster:
                enter(roster_path(roster, home), new)
        signs, receives = key_id(KeyType.ED25519, new.ed25519_public), key_id(KeyType.X25519, new.x25519_public)
        done = "added" if added else "was there already, just so"
        tell(f"{person} {done} ({', '.join(new.roles)}): signs with {signs}, receives with {receives}")
        if without_roster:
            tell(f"nothing that {person} signs counts before `refacex roster add` on the custodian's machine")


@app.command()
def enrol(
    public: Public,
    token: Annotated[Path, typer.Option(help="A file with your OpenID Connect ID token.")],
    provider: Annotated[Path, typer.Option(help="JSON: issuer, audience, jwks, tenant, groups {group: role}.")],
    passkey: Passkeys = [],  # noqa: B006  (typer copies it)
    home: Home = None,
) -> None:
    """Enrol with your own keys as whom your organisation's sign-in names, in the roles that your groups give.

    It makes you known to the service; whoever keeps the custodian's roster enters you there with `refacex roster add`.
    """
    with service(home) as (_, sessions):
        from gateway.identity import Provider
        from workers.recoveries import people

        given = _token(token)
        who = Provider.load(provider).identify(given)
        new = member(who.person, public, list(who.roles), who.tenant, passkey)
        with sessions.begin() as session:
            added = people.add(session, new, who.person, issuer=who.issuer, identity=who.subject)
        done = "enrolled" if added else "was there already, just so"
        tell(f"{who.person} of {who.tenant} {done} ({', '.join(who.roles)})")
        tell(f"nothing that {who.person} signs counts before `refacex roster add` on the custodian's machine")


def _token(file: Path) -> str:
    what = "give --token the file that your ID token is in, as your organisation's sign-in gave it"
    try:
        return file.read_text("utf-8").strip()
    except OSError as error:
        raise stop(f"{file} cannot be read ({error.strerror}): {what}") from None
    except ValueError:
        raise stop(f"{file} is no text: {what}") from None


@app.command()
def remove(
    person: PersonId,
    roster: RosterFile = None,
    without_roster: Annotated[
        bool, typer.Option("--without-roster", help="Only the service: the custodian has its roster elsewhere.")
    ] = False,
    keep_submitter: KeepSubmitter = False,
    by: By = None,
    key: ByKey = None,
    home: Home = None,
) -> None:
    """Remove a person, from the service and from the custodian's roster: what they sign counts no more."""
    with service(home) as (_, sessions):
        from schemas.administration import remove_message
        from workers.custody.roster import SUBMITTER, remove_person
        from workers.recoveries import people

        admin = signer(by, key, "--by")
        with sessions.begin() as session:
            gone = people.find(session, person)
            message = remove_message(people.terms_of(gone).sha256())
            people.remove(session, person, account(), people.Word(admin.who, admin.sign(message)) if admin else None)
            if not without_roster:
                remove_person(roster_path(roster, home), person, keep_submitter=keep_submitter)
        tell(f"{person} is removed")
        if SUBMITTER in gone.roles and not keep_submitter and not without_roster:
            tell(
                f"what {person} submitted is recovered no more where its policy has signed_submissions: see `refacex roster add`"
            )
        if without_roster:
            tell(f"what {person} signs still counts before `refacex roster remove` on the custodian's machine")


@app.command("list")
def list_people(as_json: Json = False, home: Home = None) -> None:
    """List the people that the service knows."""
    with service(home) as (_, sessions), sessions() as session:
        from sqlalchemy import select

        from schemas.tables import Person
        from workers.custody.keys import KeyType, key_id

        rows = (
            session.execute(select(Person).where(Person.removed_at.is_(None)).order_by(Person.tenant, Person.id))
            .scalars()
            .all()
        )
        entries = [
            {
                "id": row.id,
                "tenant": row.tenant,
                "roles": sorted(row.roles),
                "signs with": key_id(KeyType.ED25519, bytes(row.ed25519_public)),
                "receives with": key_id(KeyType.X25519, bytes(row.x25519_public)),
            }
            for row in rows
        ]
        if as_json:
            lines(entries)
        else:
            table(
                ["id", "tenant", "roles", "signs with", "receives with"],
                [[_cell(value) for value in entry.values()] for entry in entries],
            )


def _cell(value: str | Sequence[str]) -> str:
    return value if isinstance(value, str) else ", ".join(value)
