"""The roster: who may approve and who may receive, by public key. A file outside Postgres, read by the custodian alone.

Nobody who can write to the database can put themselves on it, and no approval counts without it.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from workers.custody import pinned
from workers.custody.errors import (
    RosterInvalid,
    RosterKeyShared,
    RosterKeyUnusable,
    RosterLoose,
    RosterMissing,
)
from workers.custody.passkeys import Passkey, RelyingParty, key_of
from workers.custody.publickeys import usable_ed25519, usable_x25519

FORMAT = "refacex-roster"
VERSION = 1
APPROVER = "approver"
REQUESTER = "requester"
KEY_OFFICER = "key-officer"  # orders keys shredded or held
AUDITOR = "auditor"  # closes reviews
SUBMITTER = "submitter"  # signs what they hand in
ADMINISTRATOR = (
    "administrator"  # signs who is added and removed, and policies: with the service, not with the custodian
)
ROLES = (SUBMITTER, REQUESTER, APPROVER, KEY_OFFICER, AUDITOR, ADMINISTRATOR)
LEAST_QUORUM = 2  # what a roster says that nobody said otherwise for: one person alone opens nothing


@dataclass(frozen=True)
class RosterPerson:
    """One person: raw 32-byte public keys, and the passkeys that they may approve with in the console."""

    id: str
    tenant: str
    roles: tuple[str, ...]
    ed25519_public: bytes
    x25519_public: bytes
    passkeys: tuple[Passkey, ...] = ()


@dataclass(frozen=True)
class Roster:
    """Everybody who counts, the least quorum that the custodian accepts whatever the database says, and whom passkeys are
    made for (None: approvals by passkey count for nothing). `sha256`: of the file that it was read from, in hex.
    """

    people: dict[str, RosterPerson]
    least_quorum: int
    relying_party: RelyingParty | None = None
    sha256: str = field(default="", compare=False)

    def find(self, person: str, tenant: str, role: str) -> RosterPerson | None:
        """The person, where they have this role in this tenant."""
        found = self.people.get(person)
        return found if found is not None and found.tenant == tenant and role in found.roles else None


def write_roster(
    path: Path | str,
    people: Iterable[RosterPerson],
    least_quorum: int = LEAST_QUORUM,
    relying_party: RelyingParty | None = None,
) -> None:
    """Writes the roster in one step, mode 0600. Raises RosterKeyShared for two people with one id or one key, RosterKeyUnusable for
    what is no public key of somebody's own.
    """
    path, members = Path(path), sorted(people, key=lambda person: person.id)
    _check(members, least_quorum)
    entries = [
        {
            "id": person.id,
            "tenant": person.tenant,
            "roles": sorted(person.roles),
            "ed25519_public": base64.b64encode(person.ed25519_public).decode("ascii"),
            "x25519_public": base64.b64encode(person.x25519_public).decode("ascii"),
            "passkeys": [{"id": one.id, "public": base64.b64encode(one.public).decode()} for one in person.passkeys],
        }
        for person in members
    ]
    party = {"id": relying_party.id, "origins": list(relying_party.origins)} if relying_party else None
    pinned.write(path, FORMAT, VERSION, {"least_quorum": least_quorum, "people": entries, "webauthn": party})


def load_roster(path: Path | str) -> Roster:
    """The roster. Raises RosterMissing; RosterInvalid for what is damaged or no roster may say; RosterLoose where others may write it."""
    people, roster = _read(path)
    _check(people, roster.least_quorum)
    return roster


def _read(path: Path | str) -> tuple[list[RosterPerson], Roster]:
    """Everybody on it, and the roster; also one that was written before somebody's key was known to be of no use."""
    try:
        body, sha256 = pinned.read(Path(path), FORMAT, VERSION)
        people = [_person(entry) for entry in body["people"]]
        party = body.get("webauthn")
        relying_party = RelyingParty(party["id"], tuple(party["origins"])) if party else None
        return people, Roster({each.id: each for each in people}, body["least_quorum"], relying_party, sha256)
    except pinned.Loose as error:
        raise RosterLoose(str(error)) from error
    except FileNotFoundError as error:
        raise RosterMissing(str(path)) from error
    except OSError as error:
        raise RosterInvalid(f"{path}: {error.strerror}") from error
    except json.JSONDecodeError as error:
        raise RosterInvalid(f"{path}: it is no JSON at line {error.lineno}, column {error.colno}") from error
    except (KeyError, TypeError, AttributeError, binascii.Error) as error:
        raise RosterInvalid(f"{path}: an entry lacks a part, or has one of another kind") from error
    except ValueError as error:
        raise RosterInvalid(f"{path}: {error}") from error


def add_person(path: Path | str, person: RosterPerson) -> None:
    """Puts one person on the roster. Raises as `load_roster` does, RosterKeyShared for an id or key on it, and RosterKeyUnusable."""
    roster = load_roster(path)
    write_roster(path, [*roster.people.values(), person], roster.least_quorum, roster.relying_party)


def remove_person(path: Path | str, person: str, *, keep_submitter: bool = False) -> bool:
    """Takes a person off the roster: nothing they signed or sign counts any more; False where they were not on it.

    `keep_submitter`: a submitter stays, as that alone, so that what they submitted can still be recovered. Raises as
    `load_roster` does, of what is left.
    """
    people, roster = _read(path)  # who is taken off may be what is wrong with it
    gone = roster.people.get(person)
    left = [each for each in people if each.id != person]
    if gone is not None and keep_submitter and SUBMITTER in gone.roles:
        left.append(replace(gone, roles=(SUBMITTER,), passkeys=()))
    write_roster(path, left, roster.least_quorum, roster.relying_party)
    return gone is not None


def _person(entry: dict[str, Any]) -> RosterPerson:
    return RosterPerson(
        str(entry["id"]),
        str(entry["tenant"]),
        tuple(map(str, entry["roles"])),
        base64.b64decode(entry["ed25519_public"], validate=True),
        base64.b64decode(entry["x25519_public"], validate=True),
        tuple(
            Passkey(str(each["id"]), base64.b64decode(each["public"], validate=True))
            for each in entry.get("passkeys", [])
        ),
    )


def _check(people: list[RosterPerson], least_quorum: int) -> None:
    if not isinstance(least_quorum, int) or least_quorum < 1:
        raise RosterInvalid("the least quorum must be 1 or more")
    for name in ("id", "x25519_public"):
        values = [getattr(person, name) for person in people]
        if len(set(values)) != len(values):
            raise RosterKeyShared(f"two people with one {name}")
    for why in map(unusable_key, people):
        if why is not None:
            raise RosterKeyUnusable(why)
    credentials = [passkey.id for person in people for passkey in person.passkeys]
    if len(set(credentials)) != len(credentials):
        raise RosterKeyShared("two people with one passkey")
    signing = [key for person in people for key in signing_keys(person)]
    if len(set(signing)) != len(signing):
        raise RosterKeyShared("two people with one key that signs")


def unusable_key(person: RosterPerson) -> str | None:
    """Which of somebody's public keys is none, or one that needs no secret, in words; None where all of them are theirs alone to use."""
    who = person.id[:64]
    if not usable_ed25519(person.ed25519_public):
        return f"what {who} would sign with is not 32 bytes of an Ed25519 key, or one of small order, or not canonical"
    if not usable_x25519(person.x25519_public):
        return (
            f"what {who} would receive with is not 32 bytes of an X25519 key, or one of small order, or not canonical"
        )
    try:
        for passkey in person.passkeys:
            key_of(passkey.public)
    except ValueError as error:
        return f"a passkey of {who} is {error}"
    return None


def signing_keys(person: RosterPerson) -> set[bytes]:
    """Every key that signs for them, the same however it is written: one under two names would make one person a quorum.

    A passkey that never counts is left out.
    """
    keys = {b"ed25519" + person.ed25519_public}
    for passkey in person.passkeys:
        with suppress(ValueError):
            keys.add(key_of(passkey.public))
    return keys
