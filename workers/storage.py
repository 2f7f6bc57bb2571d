"""The object store: S3 through boto3, with answers as typed errors and no object ever overwritten by accident."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import IO, Any, NoReturn, Protocol

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from workers.errors import ObjectExists, ObjectMissing, StorageAway, StorageError

MISSING = {"404", "NoSuchKey", "NotFound"}
EXISTS = {"409", "412", "PreconditionFailed", "ConditionalRequestConflict"}
AWAY = {
    "500",
    "502",
    "503",
    "504",
    "InternalError",
    "ServiceUnavailable",
    "SlowDown",
    "RequestTimeout",
    "RequestTimeTooSkewed",
}
#: What the server says of an identity or a bucket, and never of one object.
REFUSED = {
    "AccessDenied",
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidToken",
    "NoSuchBucket",
    "SignatureDoesNotMatch",
}


class HasStorage(Protocol):
    """The part of a process's settings that names its identity at the S3 server."""

    @property
    def s3_endpoint(self) -> str | None: ...
    @property
    def s3_region(self) -> str: ...
    @property
    def s3_access_key(self) -> str: ...
    @property
    def s3_secret_key(self) -> str: ...


@dataclass(frozen=True)
class StoredObject:
    """One line of a listing: size in bytes, last modification as the server's clock has it."""

    key: str
    size: int
    modified: datetime


@dataclass(frozen=True)
class StoredVersion:
    """One version of an object in a bucket that keeps them, or a delete marker, which hides the versions before it."""

    key: str
    version: str
    marker: bool = False


class Storage:
    """One identity at one S3 server. Safe in threads; a forked child makes a client of its own.

    Every method raises StorageAway where the server cannot be reached, ObjectMissing, ObjectExists, or StorageError
    where it refuses.
    """

    def __init__(self, settings: HasStorage) -> None:
        self._settings = settings
        self._pid = os.getpid()

    @cached_property
    def _made(self) -> Any:
        config = Config(
            signature_version="s3v4",
            s3={"addressing_style": "path" if self._settings.s3_endpoint else "auto"},
            connect_timeout=3,
            read_timeout=60,
            retries={"max_attempts": 2, "mode": "standard"},
            max_pool_connections=16,
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        return boto3.client(
            "s3",
            endpoint_url=self._settings.s3_endpoint,
            region_name=self._settings.s3_region,
            aws_access_key_id=self._settings.s3_access_key,
            aws_secret_access_key=self._settings.s3_secret_key,
            config=config,
        )

    @property
    def _client(self) -> Any:
        if self._pid != os.getpid():  # sockets must not be shared across a fork
            self.__dict__.pop("_made", None)
            self._pid = os.getpid()
        return self._made

    def get(self, bucket: str, key: str, version: str | None = None) -> bytes:
        """The object's bytes; those of its newest version where none is named."""
        named = {} if version is None else {"VersionId": version}
        try:
            body: bytes = self._client.get_object(Bucket=bucket, Key=key, **named)["Body"].read()
        except (ClientError, BotoCoreError) as error:
            _refuse(error)
        return body

    def put(
        self,
        bucket: str,
        key: str,
        data: bytes | IO[bytes],
        *,
        if_none_match: bool = True,
        retain_until: datetime | None = None,
        content_type: str = "application/octet-stream",
    ) -> None:
        """Write an object, once: ObjectExists where one of that name is there, unless `if_none_match` is False.

        `retain_until` puts it under Object Lock (COMPLIANCE) until then.
        """
        extra: dict[str, Any] = {"ContentType": content_type}
        if if_none_match:
            extra["IfNoneMatch"] = "*"
        if retain_until is not None:
            extra |= {"ObjectLockMode": "COMPLIANCE", "ObjectLockRetainUntilDate": retain_until}
            if isinstance(data, bytes):  # S3 wants a checksum on a put under Object Lock
                extra["ContentMD5"] = base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
        try:
            self._client.put_object(Bucket=bucket, Key=key, Body=data, **extra)
        except (ClientError, BotoCoreError) as error:
            _refuse(error)

    def delete(self, bucket: str, key: str) -> None:
        """Delete an object; one that is not there is no error."""
        try:
            self._client.delete_object(Bucket=bucket, Key=key)
        except (ClientError, BotoCoreError) as error:
            _refuse(error)

    def exists(self, bucket: str, key: str) -> bool:
        """Whether the object is there."""
        return self.size(bucket, key) is not None

    def size(self, bucket: str, key: str) -> int | None:
        """The object's size in bytes; None where it is not there."""
        try:
            return int(self._client.head_object(Bucket=bucket, Key=key)["ContentLength"])
        except ClientError as error:
            if _code(error) in MISSING:
                return None
            _refuse(error)
        except BotoCoreError as error:
            _refuse(error)

    def list(self, bucket: str, prefix: str = "") -> Iterator[StoredObject]:
        """The objects whose keys begin with `prefix`, in the order of their keys."""
        try:
            for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
                for entry in page.get("Contents", []):
                    yield StoredObject(entry["Key"], int(entry["Size"]), entry["LastModified"])
        except (ClientError, BotoCoreError) as error:
            _refuse(error)

    def versions(self, bucket: str, prefix: str = "") -> Iterator[StoredVersion]:
        """Every version and delete marker of the objects whose keys begin with `prefix`; an object's newest version first."""
        try:
            for page in self._client.get_paginator("list_object_versions").paginate(Bucket=bucket, Prefix=prefix):
                for kind in ("Versions", "DeleteMarkers"):
                    for entry in page.get(kind, []):
                        yield StoredVersion(entry["Key"], entry["VersionId"], marker=kind == "DeleteMarkers")
        except (ClientError, BotoCoreError) as error:
            _refuse(error)

    def presigned_put(self, bucket: str, key: str, seconds: int = 300) -> str:
        """A URL that allows one PUT of this object for `seconds`."""
        parameters = {"Bucket": bucket, "Key": key}
        url: str = self._client.generate_presigned_url("put_object", Params=parameters, ExpiresIn=seconds)
        return url

    def download(self, bucket: str, key: str, target: IO[bytes]) -> None:
        """Write the object's bytes to an open file, a piece at a time."""
        try:
            body = self._client.get_object(Bucket=bucket, Key=key)["Body"]
            for piece in body.iter_chunks(2**20):
                target.write(piece)
        except (ClientError, BotoCoreError) as error:
            _refuse(error)


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _refuse(error: ClientError | BotoCoreError) -> NoReturn:
    if isinstance(error, ClientError):
        code = _code(error)
        status = str(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", ""))
        if code in MISSING:
            raise ObjectMissing from error
        if code in EXISTS or status == "412":
            raise ObjectExists from error
        if code in AWAY or status.startswith("5"):
            raise StorageAway(code) from error
        raise StorageError(code) from error
    # Everything that botocore raises without an answer from the server is a connection that failed or broke.
    raise StorageAway(type(error).__name__) from error
