"""SeaweedFS's inner ports know no S3 rights: without the process's own certificate they read, write and delete nothing."""

from __future__ import annotations

import http.client
import json
import os
import socket
import ssl
import stat
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gateway.engines import Engines
from gateway.engines.seaweed import SHARED, Seaweed
from gateway.engines.state import LOOPBACK, State
from gateway.engines.storage_tls import AUTHORITY, CERTIFICATE, KEY, draw
from tests.conftest import Buckets
from tests.engines.test_storage import client

GRPC = [name for name in Seaweed.port_names if name.endswith(".grpc")]
HTTP = ["master", "volume", "filer"]
PLAIN_HTTP = b"Client sent an HTTP request to an HTTPS server."


@dataclass(frozen=True)
class Ports:
    """The running storage's ports, and the three ways to knock: with its own certificate, with none, with another authority's."""

    numbers: dict[str, int]
    own: ssl.SSLContext
    strangers: dict[str, ssl.SSLContext | None]


def context(folder: Path | None) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    made.set_alpn_protocols(["h2", "http/1.1"])
    made.maximum_version = ssl.TLSVersion.TLSv1_2  # in 1.3 a refusal comes only after the client's handshake
    if folder is not None:
        made.load_cert_chain(folder / CERTIFICATE, folder / KEY)
    return made


@pytest.fixture(scope="module")
def ports(engines: Engines, tmp_path_factory: pytest.TempPathFactory) -> Ports:
    if "s3" in engines.external.urls:
        pytest.skip("a store of your own")
    state = State.load(engines.folder / "state.json")
    other = tmp_path_factory.mktemp("other")
    draw(other)
    strangers = {"plain": None, "no certificate": context(None), "another authority": context(other)}
    return Ports(
        {name: state.ports[f"s3.{name}"] for name in Seaweed.port_names}, context(engines.folder / "s3"), strangers
    )


def ask(port: int, how: ssl.SSLContext | None, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    connection: http.client.HTTPConnection
    if how is None:
        connection = http.client.HTTPConnection(LOOPBACK, port, timeout=10)
    else:
        how.set_alpn_protocols(["http/1.1"])
        connection = http.client.HTTPSConnection(LOOPBACK, port, timeout=10, context=how)
    try:
        connection.request(method, path, body, {"Accept": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def refuses(port: int, how: ssl.SSLContext | None, method: str, path: str, body: bytes | None = None) -> bool:
    """Whether the call ended before any handler saw it."""
    try:
        status, answer = ask(port, how, method, path, body)
    except (OSError, http.client.HTTPException):
        return True
    return status == 400 and answer.strip() == PLAIN_HTTP


def test_no_inner_port_touches_a_locked_object_for_a_stranger(engines: Engines, buckets: Buckets, ports: Ports) -> None:
    notary = client(engines, "notary")
    body = b"head" * 50_000
    until = datetime.now(UTC) + timedelta(days=1)
    lock = {"ObjectLockMode": "COMPLIANCE", "ObjectLockRetainUntilDate": until}
    version = notary.put_object(Bucket=buckets.anchors, Key="heads/7", Body=body, **lock)["VersionId"]
    filer, volume, master = (ports.numbers[name] for name in ("filer", "volume", "master"))

    # The calls are real ones: with the process's own certificate they find the object and its bytes.
    folder = f"/buckets/{buckets.anchors}/heads/7.versions"
    status, listing = ask(filer, ports.own, "GET", f"{folder}/?limit=10")
    assert status == 200
    stored = json.loads(listing)["Entries"][0]
    path = stored["FullPath"]
    assert ask(filer, ports.own, "GET", path) == (200, body)
    status, metadata = ask(filer, ports.own, "GET", f"{path}?metadata=true")
    chunk = json.loads(metadata)["chunks"][0]["file_id"]
    assert status == 200 and ask(volume, ports.own, "GET", f"/{chunk}") == (200, body)
    assert ask(master, ports.own, "GET", "/dir/assign")[0] == 200

    for name, how in ports.strangers.items():
        for port, method, target in [
            (filer, "GET", path),
            (filer, "PUT", path),
            (filer, "POST", path),
            (filer, "DELETE", path),
            (filer, "DELETE", f"{folder}/?recursive=true"),
            (filer, "DELETE", f"/buckets/{buckets.anchors}/heads/?recursive=true"),
            (volume, "GET", f"/{chunk}"),
            (volume, "POST", f"/{chunk}"),
            (volume, "DELETE", f"/{chunk}"),
            (volume, "GET", "/status"),
            (master, "GET", "/dir/assign"),
            (master, "GET", f"/dir/lookup?fileId={chunk}"),
            (master, "GET", f"/col/delete?collection={buckets.anchors}"),
            (master, "POST", f"/col/delete?collection={buckets.anchors}"),
        ]:
            sent = b"forged" if method in ("PUT", "POST") else None
            assert refuses(port, how, method, target, sent), f"{name}: {method} {target}"

    read = notary.get_object(Bucket=buckets.anchors, Key="heads/7", VersionId=version)["Body"].read()
    assert read == body and notary.get_object(Bucket=buckets.anchors, Key="heads/7")["Body"].read() == body


@pytest.mark.parametrize("name", [*HTTP, *GRPC])
def test_every_inner_port_shakes_hands_with_its_own_certificate_alone(ports: Ports, name: str) -> None:
    address = (LOOPBACK, ports.numbers[name])
    with socket.create_connection(address, timeout=10) as plain, ports.own.wrap_socket(plain) as secure:
        assert secure.version() == "TLSv1.2"
    for how in filter(None, ports.strangers.values()):
        with socket.create_connection(address, timeout=10) as plain, pytest.raises(OSError):
            how.wrap_socket(plain).close()
    with socket.create_connection(address, timeout=10) as plain:
        plain.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
        answer = b""
        try:
            while part := plain.recv(1000):
                answer += part
        except ConnectionResetError:
            pass
        assert answer == b"" or PLAIN_HTTP in answer


def test_the_key_is_its_owners_and_goes_with_the_process(engines: Engines, ports: Ports) -> None:
    folder = engines.folder / "s3"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    before = {name: (folder / name).read_bytes() for name in (AUTHORITY, CERTIFICATE, KEY)}
    assert all(stat.S_IMODE((folder / name).stat().st_mode) == 0o600 for name in before)
    engines.restart("s3")
    assert all((folder / name).read_bytes() != old for name, old in before.items())
    with pytest.raises(OSError):
        ask(ports.numbers["filer"], ports.own, "GET", "/")


@pytest.fixture
def engine(tmp_path: Path) -> Seaweed:
    state = State(tmp_path / "state.json")
    made = Seaweed("s3", tmp_path, state)
    state.assign_ports(made.ports, made.port_is_usable)
    return made


def _leave_socket(kind: str, port: int) -> Path:
    path = SHARED / f"seaweedfs-{kind}-grpc-{port}.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
    return path


def test_sockets_in_the_shared_folder_go_with_the_engine(engine: Seaweed) -> None:
    left = [_leave_socket(kind, engine.port(f"{kind}.grpc")) for kind in ("master", "volume", "filer", "s3")]
    engine.stop()
    assert not any(path.exists() for path in left)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make another user's socket")
def test_a_port_whose_socket_is_another_users_is_given_up(engine: Seaweed) -> None:
    """Else a home whose stored port meets it could never start again."""
    before = dict(engine.state.ports)
    left = _leave_socket("volume", engine.port("volume.grpc"))
    try:
        os.chown(left, 65534, 65534)
        engine.state.assign_ports(engine.ports, engine.port_is_usable)
        assert {name for name, port in before.items() if engine.state.ports[name] != port} == {"s3.volume.grpc"}
        left.unlink()
        left = SHARED / f"seaweedfs-filer-grpc-{engine.port('filer.grpc')}.sock"
        left.symlink_to("/nowhere")  # no socket, and in the way all the same
        os.lchown(left, 65534, 65534)
        assert not engine.port_is_usable(engine.port("filer.grpc"))
    finally:
        left.unlink()
