"""Gives the store's room back after each module: every bucket that was written to takes seven of SeaweedFS's 50 volumes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError


@pytest.fixture(scope="module")
def buckets(buckets: Any, engines: Any) -> Iterator[Any]:
    """Fresh, empty buckets a test module, deleted at its end; what is under Object Lock stays, as it must."""
    yield buckets
    urls = engines.urls
    admin = boto3.client(
        "s3",
        endpoint_url=urls.s3_endpoint,
        region_name=buckets.region,
        aws_access_key_id=urls.s3_admin_access,
        aws_secret_access_key=urls.s3_admin_secret,
        config=Config(s3={"addressing_style": "path"}, connect_timeout=3, retries={"max_attempts": 1}),
    )
    for bucket in (buckets.releases, buckets.input, buckets.exports, buckets.anchors):
        with suppress(ClientError, BotoCoreError):
            for page in admin.get_paginator("list_objects_v2").paginate(Bucket=bucket):
                for entry in page.get("Contents", []):
                    admin.delete_object(Bucket=bucket, Key=entry["Key"])
            admin.delete_bucket(Bucket=bucket)
    admin.close()
