"""SeaweedFS as we start it: who may do what, conditional writes, Object Lock, and what survives kill -9."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from gateway.engines import REGION, Engines
from tests.conftest import Buckets


def client(engines: Engines, identity: str) -> Any:
    keys = engines.s3_identities[identity]
    return boto3.client(
        "s3",
        endpoint_url=engines.urls.s3_endpoint,
        region_name=REGION,
        aws_access_key_id=keys.access,
        aws_secret_access_key=keys.secret,
        config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}),
    )


def refused(call: Any, **arguments: Any) -> int:
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    return int(caught.value.response["ResponseMetadata"]["HTTPStatusCode"])


def test_each_identity_has_its_own_rights(engines: Engines, buckets: Buckets) -> None:
    release, recovery, notary = (client(engines, name) for name in ("release", "recovery", "notary"))
    release.put_object(Bucket=buckets.releases, Key="a/1", Body=b"stego")
    assert recovery.get_object(Bucket=buckets.releases, Key="a/1")["Body"].read() == b"stego"
    assert refused(recovery.put_object, Bucket=buckets.releases, Key="a/2", Body=b"x") == 403
    assert refused(recovery.delete_object, Bucket=buckets.releases, Key="a/1") == 403
    assert refused(recovery.list_objects_v2, Bucket=buckets.input) == 403
    assert refused(notary.get_object, Bucket=buckets.releases, Key="a/1") == 403
    assert refused(release.put_object, Bucket=buckets.anchors, Key="head", Body=b"x") == 403
    assert refused(client(engines, "gateway").put_object, Bucket=buckets.releases, Key="a/3", Body=b"x") == 403


def test_wrong_secret_is_refused(engines: Engines, buckets: Buckets) -> None:
    wrong = boto3.client(
        "s3",
        endpoint_url=engines.urls.s3_endpoint,
        region_name=REGION,
        aws_access_key_id=engines.s3_identities["release"].access,
        aws_secret_access_key="wrong",
    )
    assert refused(wrong.put_object, Bucket=buckets.releases, Key="a", Body=b"x") == 403


def test_a_second_write_of_a_name_is_refused(engines: Engines, buckets: Buckets) -> None:
    release = client(engines, "release")
    release.put_object(Bucket=buckets.releases, Key="once", Body=b"1", IfNoneMatch="*")
    assert refused(release.put_object, Bucket=buckets.releases, Key="once", Body=b"2", IfNoneMatch="*") == 412
    assert release.get_object(Bucket=buckets.releases, Key="once")["Body"].read() == b"1"


def test_an_anchored_head_cannot_be_deleted_or_shortened(engines: Engines, buckets: Buckets) -> None:
    notary, admin = client(engines, "notary"), client(engines, "admin")
    until = datetime.now(UTC) + timedelta(days=1)
    lock = {"ObjectLockMode": "COMPLIANCE", "ObjectLockRetainUntilDate": until}
    version = notary.put_object(Bucket=buckets.anchors, Key="heads/1", Body=b"head", **lock)["VersionId"]
    assert refused(admin.delete_object, Bucket=buckets.anchors, Key="heads/1", VersionId=version) == 403
    sooner = {"Mode": "COMPLIANCE", "RetainUntilDate": datetime.now(UTC) + timedelta(seconds=5)}
    assert refused(admin.put_object_retention, Bucket=buckets.anchors, Key="heads/1", Retention=sooner) == 403


def test_objects_survive_kill_9(engines: Engines, buckets: Buckets) -> None:
    release = client(engines, "release")
    bodies = {f"kept/{number}": bytes([number]) * 100_000 for number in range(5)}
    for key, body in bodies.items():
        release.put_object(Bucket=buckets.releases, Key=key, Body=body)
    engines.kill("s3")
    engines.restart("s3")
    after = client(engines, "release")
    assert {key: after.get_object(Bucket=buckets.releases, Key=key)["Body"].read() for key in bodies} == bodies
    after.put_object(Bucket=buckets.releases, Key="more", Body=b"x")
