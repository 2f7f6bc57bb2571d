"""A release worker that was taken over, with all that it is dealt: every way to unwrap a key is tried, and refused."""

from __future__ import annotations

import base64
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import boto3
import psycopg
import pytest
import redis
from botocore.exceptions import ClientError
from kombu import Connection
from moto import mock_aws
from moto.core.authorization import disable_iam_authentication, enable_iam_authentication
from sqlalchemy import select
from sqlalchemy.orm import undefer

from gateway.deal import deal
from gateway.engines import Engines
from gateway.engines.seaweed import s3_client
from gateway.provision import DATABASE, Home, S3Identity, create_keys, environments, read_env, write_env
from schemas.tables import SealedKey
from tests.conftest import Brokers, Buckets, Database
from tests.governance import World, build
from workers.app import make_app
from workers.custody import keys
from workers.custody.errors import KeyFileCorrupt, KeyUnknown, KmsRefused, Unwrappable
from workers.custody.opening import open_sealed, unwrap
from workers.custody.providers.kms import KmsClients, KmsSealer, KmsUnwrapper
from workers.settings import KmsSettings, ReleaseSettings


@dataclass(frozen=True)
class Stolen:
    """All that a release worker has: its variables and the folder with its files."""

    variables: dict[str, str]
    folder: Path
    world: World

    @property
    def files(self) -> list[Path]:
        return [path for path in self.folder.rglob("*") if path.is_file()]

    def everything(self) -> str:
        return json.dumps(self.variables) + "".join(path.read_text() for path in self.files)


@pytest.fixture(scope="module")
def stolen(engines: Engines, database: Database, tmp_path_factory: pytest.TempPathFactory) -> Stolen:
    """The release worker's share of a home that was set up and dealt out as in life."""
    folder = tmp_path_factory.mktemp("stolen")
    world = build(database, folder / "world")
    home = Home(folder / "home")
    for name in ("env", "keys"):
        (home.path / name).mkdir(parents=True)
    shutil.copy(world.folder / "custody.json", home.key("custody.keyring.json"))
    create_keys(home)
    made = environments(home, engines.urls, engines.s3_identities, database.passwords, [])
    for process, variables in made.items():
        variables["REFACEX_DATABASE_URL"] = re.sub(
            f"/{DATABASE}(?=$|\\?)", f"/{database.name}", variables["REFACEX_DATABASE_URL"]
        )
        write_env(home.env(process), variables)
    share = folder / "dealt" / "release"
    deal(home, share.parent, seen_as=share, processes=["release"])
    return Stolen(read_env(Home(share).env("release")), share, world)


def test_what_was_stolen_is_what_a_release_worker_works_with(stolen: Stolen) -> None:
    settings = ReleaseSettings.load(stolen.folder / "env" / "release.env")
    assert settings.custody_public_key is not None
    ring = keys.load(stolen.world.folder / "custody.json", keys.FileKind.CUSTODY)
    assert keys.load_public(settings.custody_public_key).id == ring.active, "it seals to the key that must stay away"


# --- its files


def test_none_of_its_files_is_a_key_ring_or_opens_anything(stolen: Stolen) -> None:
    secrets = []
    for path in stolen.files:
        with pytest.raises(KeyFileCorrupt):
            keys.load(path, keys.FileKind.CUSTODY)
        entries = json.loads(path.read_text())["keys"] if path.suffix == ".json" else []
        assert not [entry for entry in entries if entry["type"] == "x25519" and "private" in entry]
        secrets += [
            base64.b64decode(entry[half]) for entry in entries for half in ("private", "public") if half in entry
        ]
    assert secrets
    with stolen.world.as_("custodian")() as session:
        rows = session.scalars(select(SealedKey).options(undefer(SealedKey.wrapped))).all()
    for row in rows:
        context = stolen.world.context(row.item_id, row.face)
        for secret in secrets:
            with pytest.raises(Unwrappable):
                open_sealed(secret, bytes(row.wrapped or b""), context.canonical())
        with pytest.raises(KeyUnknown):
            unwrap({}, row.custody_key_id, row.suite, bytes(row.wrapped or b""), context)


def test_it_is_told_of_no_other_process(stolen: Stolen, engines: Engines) -> None:
    everything = stolen.everything()
    world, database = stolen.world, stolen.world.database
    ring = keys.load(world.folder / "custody.json", keys.FileKind.CUSTODY)
    foreign = [base64.b64encode(key.secret()).decode() for key in ring.keys]
    foreign += [secret for role, secret in database.passwords.items() if role != "refacex_release"]
    foreign += [each.secret for name, each in engines.s3_identities.items() if name != "release"]
    foreign += [engines.urls.privileged_broker, "keyring", "refacex_custodian", "tombstones", "roster"]
    assert not [secret for secret in foreign if secret in everything]


# --- its database role

STATEMENTS = [
    "SELECT wrapped FROM sealed_keys",
    "SELECT * FROM sealed_keys",
    "SELECT sealed_keys FROM sealed_keys",
    "COPY sealed_keys TO STDOUT",
    "COPY (SELECT wrapped FROM sealed_keys) TO STDOUT",
    "TABLE sealed_keys",
    "SELECT count(*) FROM sealed_keys WHERE get_byte(wrapped, 0) > 7",
    "UPDATE sealed_keys SET state = state RETURNING wrapped",
    "UPDATE sealed_keys SET custody_key_id = 'mine'",
    "UPDATE sealed_keys SET wrapped = ''",
    "DELETE FROM sealed_keys RETURNING wrapped",
    "INSERT INTO sealed_keys SELECT * FROM sealed_keys",
    "INSERT INTO sealed_keys (id, attempt_id, item_id, kind, face, suite, custody_key_id, wrapped) SELECT gen_random_uuid(), "
    "attempt_id, item_id, kind, 99, suite, custody_key_id, '' FROM sealed_keys WHERE face = 0 LIMIT 1 RETURNING wrapped",
    "LOCK TABLE sealed_keys IN ACCESS EXCLUSIVE MODE",
    "ALTER TABLE sealed_keys DISABLE TRIGGER USER",
    "CREATE VIEW mine AS SELECT wrapped FROM sealed_keys",
    "CREATE FUNCTION public.mine() RETURNS bigint SECURITY DEFINER LANGUAGE sql AS 'SELECT 1'",
    "CREATE TRIGGER mine AFTER INSERT ON sealed_keys EXECUTE FUNCTION guard_append_only()",
    "SET ROLE refacex_custodian",
    "SET SESSION AUTHORIZATION refacex_custodian",
    "GRANT refacex_custodian TO refacex_release",
    "GRANT SELECT ON sealed_keys TO refacex_release; SELECT wrapped FROM sealed_keys",
    "SELECT rolpassword FROM pg_authid",
    "SELECT * FROM pg_statistic",
    "SELECT pg_read_file('pg_hba.conf')",
    "SELECT lo_import('/etc/passwd')",
    "CREATE EXTENSION dblink",
    "SELECT id FROM custody_keys",
    "INSERT INTO custody_keys (id, suite, created_at) VALUES ('mine', 'x', now())",
    "SELECT key_bundle FROM recoveries",
    "SELECT sealed FROM recovered_faces",
    "SELECT canonical FROM recovery_requests",
    "INSERT INTO tickets (id, request_id, expires_at) VALUES (gen_random_uuid(), gen_random_uuid(), now())",
    "INSERT INTO approvals (request_id, approver, requester, decision, signature) VALUES (gen_random_uuid(), 'a', 'b', "
    "'approve', '')",
    "INSERT INTO outbox (broker, queue, task, args) VALUES ('privileged', 'custody', 'custody.open', '[]')",
    "INSERT INTO outbox (broker, queue, task, args) VALUES ('privileged', 'recovery', 'recoveries.recover', '[]')",
    "SELECT audit.append('ticket:issued', '{\"actor\": \"x\"}')",
    "SELECT audit.append('key:rewrapped', '{\"actor\": \"x\"}')",
]


@pytest.mark.parametrize("statement", STATEMENTS)
def test_its_database_role_is_refused(stolen: Stolen, statement: str) -> None:
    url = stolen.variables["REFACEX_DATABASE_URL"].replace("+psycopg", "")
    with psycopg.connect(url) as connection, pytest.raises(psycopg.Error) as refused:
        assert connection.execute("SELECT current_user, count(*) FROM attempts").fetchone() == ("refacex_release", 2)
        if statement.startswith("COPY"):
            with connection.cursor() as cursor, cursor.copy(statement) as copying:
                copying.read()
        else:
            connection.execute(statement)
    assert refused.value.sqlstate in {"42501", "0LP01"}, refused.value  # 0LP01: invalid grant operation


def test_the_planners_statistics_tell_it_nothing_of_wrapped_keys(stolen: Stolen) -> None:
    stolen.world.owner("ANALYZE sealed_keys")
    with psycopg.connect(stolen.variables["REFACEX_DATABASE_URL"].replace("+psycopg", "")) as connection:
        known = {row[0] for row in connection.execute("SELECT attname FROM pg_stats WHERE tablename = 'sealed_keys'")}
    assert "face" in known and "wrapped" not in known


# --- its storage identity


def test_its_storage_identity_reaches_neither_anchors_nor_other_buckets(
    stolen: Stolen, buckets: Buckets, s3_admin: Any
) -> None:
    s3_admin.create_bucket(Bucket="custodians-backup")
    s3_admin.put_object(Bucket="custodians-backup", Key="ring", Body=b"x")
    s3_admin.put_object(Bucket=buckets.anchors, Key="head", Body=b"x")
    identity = S3Identity(stolen.variables["REFACEX_S3_ACCESS_KEY"], stolen.variables["REFACEX_S3_SECRET_KEY"])
    client = s3_client(stolen.variables["REFACEX_S3_ENDPOINT"], identity)
    client.put_object(Bucket=buckets.releases, Key="mine", Body=b"x")  # it is an identity that works
    tries = [
        lambda: client.list_objects_v2(Bucket="custodians-backup"),
        lambda: client.get_object(Bucket="custodians-backup", Key="ring"),
        lambda: client.put_object(Bucket="custodians-backup", Key="ring", Body=b"y"),
        lambda: client.delete_object(Bucket="custodians-backup", Key="ring"),
        lambda: client.list_objects_v2(Bucket=buckets.anchors),
        lambda: client.put_object(Bucket=buckets.anchors, Key="head", Body=b"y"),
        lambda: client.delete_object(Bucket=buckets.anchors, Key="head"),
        lambda: client.delete_bucket(Bucket=buckets.anchors),
        lambda: client.copy_object(
            Bucket=buckets.releases, Key="stolen", CopySource={"Bucket": "custodians-backup", "Key": "ring"}
        ),
        lambda: client.create_bucket(Bucket="mine"),
        lambda: client.put_bucket_policy(Bucket=buckets.anchors, Policy="{}"),
    ]
    try:
        for attempt in tries:
            with pytest.raises(ClientError) as refused:
                attempt()
            assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403
    finally:
        s3_admin.delete_object(Bucket="custodians-backup", Key="ring")
        s3_admin.delete_bucket(Bucket="custodians-backup")
        client.close()


# --- its broker


def test_its_broker_url_does_not_reach_the_privileged_queues(stolen: Stolen, brokers: Brokers) -> None:
    own, privileged = (redis.connection.parse_url(url) for url in (brokers.release, brokers.privileged))
    assert stolen.variables["REFACEX_BROKER_URL"] == brokers.release
    assert (own["port"], own["password"]) != (privileged["port"], privileged["password"])
    for password in (own["password"], None, ""):
        with redis.Redis(port=privileged["port"], password=password) as intruder:
            for attempt in (
                intruder.keys,
                lambda: intruder.lrange("custody", 0, -1),
                lambda: intruder.lpush("custody", "x"),
            ):
                with pytest.raises((redis.AuthenticationError, redis.ResponseError), match=r"(?i)auth|pass"):
                    attempt()


def test_a_task_of_the_custodians_put_on_its_own_broker_comes_to_nobody(stolen: Stolen, brokers: Brokers) -> None:
    app = make_app("intruder", stolen.variables["REFACEX_BROKER_URL"], ["custody", "recovery"])
    with Connection(brokers.release) as connection:
        for task, queue in (("custody.open", "custody"), ("recoveries.recover", "recovery")):
            app.send_task(task, [str(UUID(int=1))], queue=queue, connection=connection)
    with redis.Redis.from_url(brokers.release) as own, redis.Redis.from_url(brokers.privileged) as privileged:
        assert own.llen("custody") == 1, "it was sent"
        assert privileged.dbsize() == 0
    app.close()


# --- its KMS identity


@pytest.fixture
def kms_users() -> Iterator[tuple[str, KmsClients, KmsClients, Any]]:
    """A key, and the identities of release worker and custodian with IAM enforced; moto knows no resources of KMS."""
    with mock_aws(), disable_iam_authentication():
        admin = {"region_name": "eu-central-1", "aws_access_key_id": "admin", "aws_secret_access_key": "x"}
        arn = boto3.client("kms", **admin).create_key()["KeyMetadata"]["Arn"]
        iam = boto3.client("iam", **admin)
        clients, raw = [], None
        for user, action in (("release", "kms:Encrypt"), ("custodian", "kms:Decrypt")):
            iam.create_user(UserName=user)
            allow = {"Effect": "Allow", "Action": action, "Resource": "*"}
            document = json.dumps({"Version": "2012-10-17", "Statement": [allow]})
            iam.put_user_policy(UserName=user, PolicyName="custody", PolicyDocument=document)
            pair = iam.create_access_key(UserName=user)["AccessKey"]
            secrets = (pair["AccessKeyId"], pair["SecretAccessKey"])
            clients.append(KmsClients(KmsSettings(kms_access_key=secrets[0], kms_secret_key=secrets[1])))
            raw = raw or boto3.client(
                "kms", "eu-central-1", aws_access_key_id=secrets[0], aws_secret_access_key=secrets[1]
            )
        with enable_iam_authentication():
            yield arn, clients[0], clients[1], raw


def test_kms_encrypts_for_it_and_decrypts_for_the_custodian_alone(
    kms_users: tuple[str, KmsClients, KmsClients, Any], stolen: Stolen
) -> None:
    arn, release, custodian, client = kms_users
    context = stolen.world.context(stolen.world.items[0], 0)
    sealed = KmsSealer(arn, release).seal(bytes(range(32)), context)
    with pytest.raises(KmsRefused, match="403"):  # moto's code for what AWS calls AccessDeniedException
        KmsUnwrapper([arn], release).unwrap(sealed, context)
    assert KmsUnwrapper([arn], custodian).unwrap(sealed, context) == bytes(range(32))
    with pytest.raises(KmsRefused, match="403"):
        KmsSealer(arn, custodian).seal(bytes(range(32)), context)
    blob = sealed.wrapped
    tries: list[tuple[str, dict[str, Any]]] = [
        ("decrypt", {"CiphertextBlob": blob}),
        ("re_encrypt", {"CiphertextBlob": blob, "DestinationKeyId": arn}),
        ("generate_data_key", {"KeyId": arn, "KeySpec": "AES_256"}),
        ("create_grant", {"KeyId": arn, "GranteePrincipal": "arn:aws:iam::1:user/release", "Operations": ["Decrypt"]}),
        ("put_key_policy", {"KeyId": arn, "PolicyName": "default", "Policy": "{}"}),
        ("disable_key", {"KeyId": arn}),
        ("schedule_key_deletion", {"KeyId": arn}),
    ]
    for name, arguments in tries:
        with pytest.raises(ClientError) as refused:
            getattr(client, name)(**arguments)
        assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403, name
