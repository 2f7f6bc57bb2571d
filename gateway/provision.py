"""Makes a home folder ready to run: roles, database, buckets, keys, and one env file a process. Safe to repeat.

What exists is kept: keys and people are never made anew, passwords stay, the env files are written again from what is true now.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import boto3
import psycopg
from botocore.config import Config
from botocore.exceptions import ClientError
from psycopg import sql

from gateway.engines import REGION, Engines, EngineUrls, S3Identity
from gateway.engines.errors import HomeUnusable
from gateway.engines.seaweed import BUCKETS
from gateway.engines.state import write_private
from workers.custody import keys
from workers.custody.ledger import Ledger
from workers.custody.policies import write_policies
from workers.custody.recall import tells_of_work
from workers.custody.roster import LEAST_QUORUM, write_roster
from workers.db import migrate, session_factory

OWNER = "refacex_owner"
SERVICES = ("release", "custodian", "recovery", "relay", "notary", "gateway")
ROLES = tuple(f"refacex_{service}" for service in SERVICES)
DATABASE = "refacex"
LEDGER = "tombstones.json"
ANCHORS = "refacex-anchors"
_CHOSEN = ("REFACEX_CUSTODY_PASSPHRASE_FILE", "REFACEX_CUSTODY_KMS_", "REFACEX_KMS_")

__all__ = ["BUCKETS", "DATABASE", "OWNER", "ROLES", "Home", "migrate", "provision"]


@dataclass(frozen=True)
class Home:
    """Where things are below a home folder."""

    path: Path

    def env(self, process: str) -> Path:
        return self.path / "env" / f"{process}.env"

    def key(self, name: str) -> Path:
        return self.path / "keys" / name

    def password(self, role: str) -> str:
        """A database role's password, drawn when the home was provisioned."""
        known: dict[str, str] = json.loads((self.path / "passwords.json").read_text())
        return known[role]

    @property
    def ledger_begun(self) -> bool:
        """Whether the custodian's ledger is there, with a line in it: older custodians left an empty one where nothing was told."""
        ledger = self.key(LEDGER)
        return ledger.exists() and ledger.stat().st_size > 0

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def run(self) -> Path:
        return self.path / "run"


def provision(home: Path, engines: Engines, *, source_roots: Sequence[Path] = ()) -> Home:
    """Make everything that the processes need and that is missing; `engines` must have been started.

    `source_roots`: folders below which originals may be read where they are; added to those that are already allowed.
    Raises HomeUnusable where the folder cannot be written, and what the engines' clients raise where one refuses.
    """
    place = Home(home.absolute())
    try:
        for folder in (place.path, *(place.path / name for name in ("env", "keys", "logs", "run"))):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        passwords = _passwords(place)
    except OSError as error:
        raise HomeUnusable(error.strerror or "") from error
    urls = engines.urls
    create_roles(urls.postgres_admin, passwords)
    create_database(urls.postgres_admin)
    migrate(sqlalchemy_url(urls.postgres_admin, role=OWNER, password=passwords[OWNER], database=DATABASE))
    create_buckets(urls.s3_endpoint, S3Identity(urls.s3_admin_access, urls.s3_admin_secret))
    create_keys(place)
    if not place.ledger_begun and ledger_may_begin(urls.postgres_admin, passwords[OWNER]):
        Ledger.begin(place.key(LEDGER))
    roots = sorted({*allowed_roots(place), *(str(root.absolute()) for root in source_roots)})
    for process, variables in environments(place, urls, engines.s3_identities, passwords, roots).items():
        write_env(place.env(process), variables)
    return place


def _passwords(home: Home) -> dict[str, str]:
    """Everyone's database password, drawn once."""
    path = home.path / "passwords.json"
    known: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
    complete = {role: known.get(role) or secrets.token_urlsafe(24) for role in (OWNER, *ROLES)}
    if complete != known:
        write_private(path, json.dumps(complete, indent=1))
    return complete


# --- keys and env files


def create_keys(home: Home) -> None:
    """Make the keys that are missing. An existing key is never replaced: what it sealed would be lost.

    The ledger is begun together with the key ring, and not later: one that is missing then was lost. Raises KeyFileCorrupt or
    KeyFileLoose for an existing one that cannot be used.
    """
    if not home.key("custody.keyring.json").exists() and not home.ledger_begun:
        Ledger.begin(home.key(LEDGER))
    makers = {
        "custody.keyring.json": (keys.FileKind.CUSTODY, keys.create_custody_keyring, "custody.public.json"),
        "recovery.private.json": (keys.FileKind.KEYPAIR, keys.create_keypair, "recovery.public.json"),
        "ticket.signing.json": (keys.FileKind.SIGNING, keys.create_signing_key, "ticket.public.json"),
        "audit.signing.json": (keys.FileKind.SIGNING, keys.create_signing_key, "audit.public.json"),
        "export.signing.json": (keys.FileKind.SIGNING, keys.create_signing_key, "export.public.json"),
    }
    for private, (kind, create, public) in makers.items():
        path = home.key(private)
        known = keys.load_public_half(path, kind) if path.exists() else create(path)
        keys.write_public(home.key(public), known)
    if not home.key("roster.json").exists():
        write_roster(home.key("roster.json"), [], least_quorum=LEAST_QUORUM)
    if not home.key("policies.json").exists():
        write_policies(home.key("policies.json"), [])


def environments(
    home: Home,
    urls: EngineUrls,
    identities: Mapping[str, S3Identity],
    passwords: Mapping[str, str],
    source_roots: Sequence[str],
) -> dict[str, dict[str, str]]:
    """The REFACEX_* variables of every process: only what it needs, so that one taken over gives nothing away."""
    roles = {"owner": OWNER, "beat": "refacex_relay", **{service: f"refacex_{service}" for service in SERVICES}}
    brokers = {
        "release": urls.release_broker,
        "beat": urls.release_broker,
        "relay": urls.release_broker,
        "custodian": urls.privileged_for("custodian"),
        "recovery": urls.privileged_for("recovery"),
    }
    result: dict[str, dict[str, str]] = {}
    for process, role in roles.items():
        database = sqlalchemy_url(urls.postgres_admin, role=role, password=passwords[role], database=DATABASE)
        variables = {"DATABASE_URL": database}
        if process in brokers:
            variables["BROKER_URL"] = brokers[process]
        if process in identities:
            variables |= {
                "S3_ENDPOINT": urls.s3_endpoint,
                "S3_REGION": REGION,
                "S3_ACCESS_KEY": identities[process].access,
                "S3_SECRET_KEY": identities[process].secret,
            }
        result[process] = variables
    roots = {"SOURCE_ROOTS": json.dumps(list(source_roots))}
    result["release"] |= {
        "CUSTODY_PUBLIC_KEY": str(home.key("custody.public.json")),
        "EXPORT_SIGNING_KEY": str(home.key("export.signing.json")),
        **roots,
    }
    result["gateway"] |= roots
    result["relay"] |= {"PRIVILEGED_BROKER_URL": urls.privileged_for("relay")}
    result["custodian"] |= {
        "CUSTODY_KEYRING": str(home.key("custody.keyring.json")),
        "CUSTODY_PUBLIC_KEY": str(home.key("custody.public.json")),
        "TICKET_SIGNING_KEY": str(home.key("ticket.signing.json")),
        "ROSTER": str(home.key("roster.json")),
        "POLICIES": str(home.key("policies.json")),
        "TOMBSTONES": str(home.key(LEDGER)),
        "RECOVERY_PUBLIC_KEY": str(home.key("recovery.public.json")),
    }
    result["recovery"] |= {
        "RECOVERY_PRIVATE_KEY": str(home.key("recovery.private.json")),
        "TICKET_PUBLIC_KEY": str(home.key("ticket.public.json")),
    }
    result["notary"] |= {"AUDIT_SIGNING_KEY": str(home.key("audit.signing.json"))}
    named = {p: {f"REFACEX_{name}": value for name, value in v.items()} for p, v in result.items()}
    return {process: variables | _chosen(home.env(process)) for process, variables in named.items()}


def _chosen(path: Path) -> dict[str, str]:
    """What its owner wrote into an env file about custody: the key ring's passphrase, KMS. No set-up takes it back."""
    known = read_env(path) if path.exists() else {}
    return {name: value for name, value in known.items() if name.startswith(_CHOSEN)}


def allowed_roots(home: Home) -> list[str]:
    """The source folders that earlier set-ups allowed."""
    path = home.env("release")
    known = read_env(path).get("REFACEX_SOURCE_ROOTS", "[]") if path.exists() else "[]"
    return [str(root) for root in json.loads(known)]


def write_env(path: Path, variables: Mapping[str, str]) -> None:
    """An env file of mode 0600 that python-dotenv, a shell and Docker Compose read alike."""
    for value in variables.values():
        if "'" in value or "\n" in value:
            raise HomeUnusable("a path or URL holds a quote or a line break")
    write_private(path, "".join(f"{name}='{value}'\n" for name, value in sorted(variables.items())))


def read_env(path: Path) -> dict[str, str]:
    """The variables of a file that `write_env` wrote."""
    pairs = (line.split("=", 1) for line in path.read_text().splitlines() if "=" in line and not line.startswith("#"))
    return {name: value.removeprefix("'").removesuffix("'") for name, value in pairs}


# --- database


def sqlalchemy_url(admin_url: str, *, role: str, password: str, database: str) -> str:
    """The URL of `role` on the server of `admin_url`, as SQLAlchemy and Celery's workers want it."""
    parts = urlsplit(admin_url)
    port = f":{parts.port}" if parts.port else ""
    query = f"?{parts.query}" if parts.query else ""
    return f"postgresql+psycopg://{quote(role)}:{quote(password)}@{parts.hostname}{port}/{quote(database)}{query}"


def create_roles(admin_url: str, passwords: Mapping[str, str]) -> None:
    """Make the roles that are missing and set everyone's password (stored as a scram verifier, never logged)."""
    with psycopg.connect(admin_url, autocommit=True) as connection:
        existing = {row[0] for row in connection.execute("SELECT rolname FROM pg_roles")}
        for role, password in passwords.items():
            # the verifier is computed here, so that no server log can hold the password
            verifier = connection.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256").decode()
            if role not in existing:  # without rights of any kind; the migration grants what each needs
                connection.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(role)))
            change = sql.SQL("ALTER ROLE {} LOGIN PASSWORD {}")
            connection.execute(change.format(sql.Identifier(role), sql.Literal(verifier)))


def create_database(admin_url: str, name: str = DATABASE) -> None:
    """Make the owner's database, and let nobody in but the owner and the service roles."""
    with psycopg.connect(admin_url, autocommit=True) as connection:
        if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone():
            connection.execute(
                sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(name), sql.Identifier(OWNER))
            )
        restrict_database(connection, name)


def ledger_may_begin(admin_url: str, owner_password: str) -> bool:
    """Whether the custodian never did anything that its ledger would have to remember, so that a missing one is no loss: an
    installation of before ledgers were begun with the keys.
    """
    url = sqlalchemy_url(admin_url, role=OWNER, password=owner_password, database=DATABASE)
    sessions = session_factory(url)
    try:
        with sessions() as session:
            return not tells_of_work(session)
    finally:
        sessions.kw["bind"].dispose()


def restrict_database(connection: psycopg.Connection[Any], name: str) -> None:
    """Take the public's right to connect and give it to the service roles."""
    roles = sql.SQL(", ").join(sql.Identifier(role) for role in ROLES)
    connection.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(sql.Identifier(name)))
    connection.execute(sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(sql.Identifier(name), roles))


# --- storage


def create_buckets(endpoint: str, admin: S3Identity, names: Sequence[str] = BUCKETS) -> None:
    """Make the buckets that are missing; the last of the four is made under Object Lock, which cannot be added later."""
    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name=REGION,
        aws_access_key_id=admin.access,
        aws_secret_access_key=admin.secret,
        config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 3}),
    )
    for name in names:
        try:
            client.head_bucket(Bucket=name)
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] != 404:
                raise
            client.create_bucket(
                Bucket=name, **({"ObjectLockEnabledForBucket": True} if name.startswith(ANCHORS) else {})
            )
