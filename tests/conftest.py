"""What every test may ask for: the real engines, a fresh database, fresh buckets, empty brokers."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import boto3
import psycopg
import pytest
import redis
from botocore.config import Config

from gateway import provision
from gateway.engines import REGION, Engines, S3Identity

# A test must not pick up the settings of the shell that it runs in.
for _name in [name for name in os.environ if name.startswith("REFACEX_") and not name.startswith("REFACEX_EXTERNAL_")]:
    del os.environ[_name]


#: Files that take a minute and more come first, so that two processes end together.
LONGEST = (
    "test_faults",
    "test_runner",
    "test_demo",
    "test_state_machine",
    "test_rotation",
    "test_orders",
    "test_kills",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.stem not in LONGEST)


@pytest.fixture(scope="session")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engines]:
    """Two Valkeys, PostgreSQL and SeaweedFS, started once; REFACEX_EXTERNAL_*_URL replaces any of them."""
    with Engines(tmp_path_factory.mktemp("home"), bucket_families=True) as running:
        yield running


@dataclass(frozen=True)
class Database:
    """A migrated database of its own. URLs are SQLAlchemy's (`postgresql+psycopg://`)."""

    name: str
    admin_url: str = field(repr=False)
    passwords: dict[str, str] = field(repr=False)

    @property
    def owner_url(self) -> str:
        return self.url_for(provision.OWNER)

    def url_for(self, role: str) -> str:
        """The URL for a role, as `refacex_release` or in short `release`."""
        role = role if role.startswith("refacex_") else f"refacex_{role}"
        return provision.sqlalchemy_url(self.admin_url, role=role, password=self.passwords[role], database=self.name)


@pytest.fixture(scope="session")
def _database_template(engines: Engines) -> Database:
    """Roles with passwords, and one migrated database that the others are copied from."""
    passwords = {role: uuid.uuid4().hex for role in (provision.OWNER, *provision.ROLES)}
    template = Database(f"refacex_test_{uuid.uuid4().hex[:8]}", engines.urls.postgres_admin, passwords)
    provision.create_roles(template.admin_url, passwords)
    provision.create_database(template.admin_url, template.name)
    provision.migrate(template.owner_url)
    return template


@pytest.fixture(scope="module")
def database(_database_template: Database) -> Iterator[Database]:
    """A fresh migrated database a test module."""
    template = _database_template
    fresh = Database(f"{template.name}_{uuid.uuid4().hex[:8]}", template.admin_url, template.passwords)
    with psycopg.connect(template.admin_url, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{fresh.name}" TEMPLATE "{template.name}" OWNER {provision.OWNER}')
        provision.restrict_database(connection, fresh.name)
    yield fresh
    with psycopg.connect(template.admin_url, autocommit=True) as connection:
        connection.execute(f'DROP DATABASE "{fresh.name}" WITH (FORCE)')


@dataclass(frozen=True)
class Buckets:
    """Four buckets of a test module's own, under Object Lock the last, and the identities that may use them."""

    endpoint: str
    region: str
    releases: str
    input: str
    exports: str
    anchors: str
    identities: dict[str, S3Identity] = field(repr=False)

    def environment(self, process: str) -> dict[str, str]:
        """The REFACEX_S3_* and REFACEX_BUCKET_* variables of a process (`release`, `recovery`, `relay`, `notary`, `gateway`)."""
        keys = self.identities[process]
        names = {"RELEASES": self.releases, "INPUT": self.input, "EXPORTS": self.exports, "ANCHORS": self.anchors}
        return {
            "REFACEX_S3_ENDPOINT": self.endpoint,
            "REFACEX_S3_REGION": self.region,
            "REFACEX_S3_ACCESS_KEY": keys.access,
            "REFACEX_S3_SECRET_KEY": keys.secret,
            **{f"REFACEX_BUCKET_{name}": bucket for name, bucket in names.items()},
        }


@pytest.fixture(scope="module")
def buckets(engines: Engines) -> Buckets:
    """Fresh, empty buckets a test module."""
    urls = engines.urls
    suffix = uuid.uuid4().hex[:8]
    names = [f"{bucket}-{suffix}" for bucket in provision.BUCKETS]
    provision.create_buckets(urls.s3_endpoint, S3Identity(urls.s3_admin_access, urls.s3_admin_secret), names)
    return Buckets(urls.s3_endpoint, REGION, *names, identities=engines.s3_identities)


@pytest.fixture
def s3_admin(engines: Engines) -> object:
    """A boto3 client that may do everything."""
    urls = engines.urls
    return boto3.client(
        "s3",
        endpoint_url=urls.s3_endpoint,
        region_name=REGION,
        aws_access_key_id=urls.s3_admin_access,
        aws_secret_access_key=urls.s3_admin_secret,
        config=Config(s3={"addressing_style": "path"}),
    )


@dataclass(frozen=True)
class Brokers:
    """The two brokers' URLs."""

    release: str = field(repr=False)
    privileged: str = field(repr=False)  # its owner's
    privileged_for: Callable[[str], str] = field(repr=False)


@pytest.fixture
def brokers(engines: Engines) -> Brokers:
    """Both brokers, emptied."""
    urls = engines.urls
    for url in (urls.release_broker, urls.privileged_broker):
        with redis.Redis.from_url(url) as client:
            client.flushall()
    return Brokers(urls.release_broker, urls.privileged_broker, urls.privileged_for)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """An empty home folder."""
    return tmp_path / "home"
