"""Makes a home folder ready to run: roles, database, buckets, keys, and one env file a process. Safe to repeat.

What exists is kept: keys and people are never made anew, passwords stay, the env files are written again from what is true now.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlsplit

import boto3
import psycopg
from botocore.config import Config
from botocore.exceptions import ClientError
from psycopg import sql

from gateway.engines import REGION, S3Identity
from gateway.engines.seaweed import BUCKETS
from workers.db import migrate

OWNER = "refacex_owner"
ROLES = (
    "refacex_release",
    "refacex_custodian",
    "refacex_recovery",
    "refacex_relay",
    "refacex_notary",
    "refacex_gateway",
)
DATABASE = "refacex"
ANCHORS = "refacex-anchors"

__all__ = ["BUCKETS", "DATABASE", "OWNER", "ROLES", "create_buckets", "create_database", "create_roles", "migrate"]


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
            verb = "ALTER" if role in existing else "CREATE"
            # the verifier is computed here, so that no server log can hold the password
            verifier = connection.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256").decode()
            connection.execute(
                sql.SQL(verb + " ROLE {} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOINHERIT PASSWORD {}").format(
                    sql.Identifier(role), sql.Literal(verifier)
                )
            )


def create_database(admin_url: str, name: str = DATABASE) -> None:
    """Make the owner's database, and let nobody in but the owner and the service roles."""
    with psycopg.connect(admin_url, autocommit=True) as connection:
        if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone():
            connection.execute(
                sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(name), sql.Identifier(OWNER))
            )
        restrict_database(connection, name)


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
