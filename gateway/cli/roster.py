"""`refacex roster ...`: who counts for the custodian. It runs where the custodian's keys lie and touches nothing else."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.service import Home, Json, home_folder, lines, stop, table, tell, told
from gateway.json_files import read_object

if TYPE_CHECKING:
    from workers.custody.passkeys import Passkey
    from workers.custody.roster import RosterPerson

app = typer.Typer(no_args_is_help=True, help="Who counts for the custodian: run it on the custodian's machine.")

PersonId = Annotated[str, typer.Argument(metavar="PERSON", help="An id: lower-case letters, digits and . _ @ -")]
Public = Annotated[Path, typer.Option(help="The public half of their key file.")]
Roles = Annotated[list[str], typer.Option(help="submitter, requester, approver, key-officer, auditor, administrator.")]
Tenant = Annotated[str, typer.Option(help="Whose person it is.")]
RosterFile = Annotated[
    Path | None, typer.Option(help="The custodian's roster. [default: keys/roster.json in the home folder]")
]


Passkeys = Annotated[
    list[Path], typer.Option("--passkey", help='JSON of a passkey: "id" (base64url), "public" (DER in base64).')
]


@app.command()
def add(
    person: PersonId,
    public: Public,
    role: Roles,
    tenant: Tenant = "default",
    passkey: Passkeys = [],  # noqa: B006  (typer copies it)
    roster: RosterFile = None,
    home: Home = None,
) -> None:
    """Put a person on the roster alone; `refacex person add --without-roster` makes them known to the service."""
    with told():
        new = member(person, public, role, tenant, passkey)
        enter(roster_path(roster, home), new)
        tell(f"{person} is on the roster ({', '.join(new.roles)})")


@app.command()
def remove(
    person: PersonId,
    keep_submitter: Annotated[
        bool, typer.Option("--keep-submitter", help="Stay as a submitter alone: for what they signed in the past.")
    ] = False,
    roster: RosterFile = None,
    home: Home = None,
) -> None:
    """Take a person off the roster: nothing that they signed or sign counts with the custodian any more."""
    with told():
        from workers.custody.roster import remove_person

        if not remove_person(roster_path(roster, home), person, keep_submitter=keep_submitter):
            raise stop(f"{person} is not on the roster")
        tell(f"{person} is off the roster" + (", but for what they submitted" if keep_submitter else ""))


@app.command()
def console(
    domain: Annotated[str, typer.Argument(help="The domain that passkeys are made for: example.org")],
    origin: Annotated[list[str], typer.Option(help="Where the console is served: https://refacex.example.org")],
    roster: RosterFile = None,
    home: Home = None,
) -> None:
    """Say which console's passkeys count. Before that, none does.

    An origin is what browsers name the console's page by: https://HOST or https://HOST:PORT, on the domain or a host below it.
    """
    with told():
        from workers.custody.passkeys import RelyingParty
        from workers.custody.roster import load_roster, write_roster

        _check_console(domain, origin)
        path = roster_path(roster, home)
        known = load_roster(path)
        write_roster(path, known.people.values(), known.least_quorum, RelyingParty(domain, tuple(origin)))
        tell(f"passkeys of {domain} count, from {', '.join(origin)}")


@app.command("list")
def list_people(roster: RosterFile = None, as_json: Json = False, home: Home = None) -> None:
    """List who is on the roster."""
    with told():
        from workers.custody.keys import KeyType, key_id
        from workers.custody.roster import load_roster

        entries = [
            {
                "id": one.id,
                "tenant": one.tenant,
                "roles": ", ".join(one.roles),
                "signs with": key_id(KeyType.ED25519, one.ed25519_public),
                "receives with": key_id(KeyType.X25519, one.x25519_public),
            }
            for one in load_roster(roster_path(roster, home)).people.values()
        ]
    if as_json:
        lines(entries)
    else:
        table(["id", "tenant", "roles", "signs with", "receives with"], [list(entry.values()) for entry in entries])


def roster_path(roster: Path | None, home: Path | None) -> Path:
    """The roster's file: as given, else in the home folder."""
    return roster or home_folder(home) / "keys" / "roster.json"


def member(person: str, public: Path, roles: list[str], tenant: str, passkeys: Sequence[Path] = ()) -> RosterPerson:
    """A person as the roster has them. Raises typer.BadParameter, and KeyFileInvalid for a file that is no public one."""
    from workers.custody import keys
    from workers.custody.roster import ROLES, RosterPerson

    if not roles or not set(roles) <= set(ROLES):
        raise typer.BadParameter(f"a role is one of {', '.join(ROLES)}", param_hint="--role")
    if not re.fullmatch(r"[a-z0-9][a-z0-9._@-]{0,63}", person):
        raise typer.BadParameter("lower-case letters, digits and . _ @ - only", param_hint="PERSON")
    both = keys.load(public, keys.FileKind.PUBLIC)
    signing, receiving = both.of(keys.KeyType.ED25519), both.of(keys.KeyType.X25519)
    credentials = tuple(_passkey(file) for file in passkeys)
    return RosterPerson(person, tenant, tuple(sorted(set(roles))), signing.public, receiving.public, credentials)


def _passkey(file: Path) -> Passkey:
    try:
        return _read_passkey(file)
    except ValueError as error:
        raise typer.BadParameter(
            f'{file} is no passkey, {error}: it is JSON with "id" (the credential\'s, base64url) and "public" (a P-256 or '
            "Ed25519 key, DER in base64)",
            param_hint="--passkey",
        ) from None


def _read_passkey(file: Path) -> Passkey:
    """Raises ValueError with what is wrong, in words."""
    from workers.custody.passkeys import Passkey, key_of, unb64url

    fields = read_object(file)
    for name, decode in (("id", unb64url), ("public", lambda text: base64.b64decode(text, validate=True))):
        if not isinstance(fields.get(name), str) or not fields[name]:
            raise ValueError(f'its "{name}" is missing, empty or no text')
        try:
            decode(fields[name])
        except ValueError:
            raise ValueError(f'its "{name}" is not in {"base64url" if name == "id" else "base64"}') from None
    made = Passkey(fields["id"], base64.b64decode(fields["public"]))
    try:
        key_of(made.public)
    except ValueError as error:
        raise ValueError(f'its "public" is {error}') from None
    return made


_HOST = re.compile(r"(?:(?!-)[a-z0-9-]{1,63}(?<!-)\.)*(?!-)(?!\d+$)[a-z0-9-]{1,63}(?<!-)")
_ORIGIN = re.compile(r"(https?)://([^/:@?#\s]+)(?::([1-9]\d{0,4}))?")
_OWN_PORT = {"https": "443", "http": "80"}


def _check_console(domain: str, origins: Sequence[str]) -> None:
    """That a browser would use a passkey for this domain on each of these pages, and name them just so. Raises typer.BadParameter."""
    if not _HOST.fullmatch(domain):
        raise typer.BadParameter(
            f"{domain} is no domain: give a host's name in small letters, and nothing else (example.org)",
            param_hint="DOMAIN",
        )
    for origin in origins:
        if why := _no_origin(origin, domain):
            raise typer.BadParameter(f"{origin} {why}", param_hint="--origin")


def _no_origin(origin: str, domain: str) -> str | None:
    """Why a browser would name no page so, or use no passkey for the domain on it; None where it does both."""
    parts = _ORIGIN.fullmatch(origin)
    if parts is None or not _HOST.fullmatch(parts[2]) or int(parts[3] or 0) > 65535:
        return "is no origin: give https://HOST or https://HOST:PORT, in small letters and with nothing after it"
    scheme, host, port = parts.groups()
    if scheme == "http" and host != "localhost":
        return "is not https: browsers use passkeys over nothing else, but for http://localhost"
    if port == _OWN_PORT[scheme]:
        return f"is named without its port by browsers: give {scheme}://{host}"
    if host != domain and not host.endswith(f".{domain}"):
        return f"is neither on {domain} nor on a host below it: browsers use no passkey of {domain} there"
    return None


def enter(path: Path, person: RosterPerson) -> None:
    """Put a person on the roster, where they are not on it already. Raises RosterInvalid, RosterMissing where there is none."""
    from workers.custody.errors import RosterInvalid

    try:
        _enter(path, person)
    except OSError as error:
        raise RosterInvalid(f"{path}: {error.strerror}; do it as the user who owns it") from None


def _enter(path: Path, person: RosterPerson) -> None:
    from workers.custody.errors import RosterInvalid
    from workers.custody.roster import add_person, load_roster

    known = load_roster(path).people.get(person.id)
    if known is not None and known != person:
        raise RosterInvalid("another person of that id is on it")
    if known is None:
        add_person(path, person)
