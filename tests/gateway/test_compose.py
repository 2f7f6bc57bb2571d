"""docker-compose.yml against its own promises. The file is checked, not run: no Docker daemon can be had in the tests."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from pydantic import BaseModel, ConfigDict, Field

from gateway.deal import DEALT
from gateway.engines.external import IDENTITIES, VARIABLES, External
from gateway.engines.seaweed import identities_json, new_identities
from gateway.processes import PROCESSES

ROOT = Path(__file__).parents[2]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Condition(Strict):
    condition: Literal["service_started", "service_healthy", "service_completed_successfully"]


class Health(Strict):
    test: list[str]
    interval: str
    timeout: str
    retries: int


class Build(Strict):
    context: str
    target: Literal["slim", "worker"]
    args: dict[str, str] = {}


class Device(Strict):
    driver: str
    count: int
    capabilities: list[str]


class Reservations(Strict):
    devices: list[Device]


class Resources(Strict):
    reservations: Reservations


class Deploy(Strict):
    resources: Resources


class Service(Strict):
    image: str
    build: Build | None = None
    entrypoint: list[str] = []
    command: list[str] = []
    working_dir: str | None = None
    environment: dict[str, str] = {}
    volumes: list[str] = []
    networks: list[str] = []
    network_mode: Literal["none"] | None = None
    depends_on: dict[str, Condition] = {}
    healthcheck: Health | None = None
    restart: Literal["no", "unless-stopped"]
    read_only: bool = False
    tmpfs: list[str] = []
    cap_drop: list[str] = []
    security_opt: list[str] = []
    init: bool = False
    profiles: list[str] = []
    stop_grace_period: str | None = None
    deploy: Deploy | None = None


class Compose(BaseModel):
    model_config = ConfigDict(extra="ignore")  # x-* anchors
    name: str
    services: dict[str, Service]
    networks: dict[str, dict[str, bool]]
    volumes: dict[str, None] = Field(default_factory=dict)


@pytest.fixture(scope="module")
def compose() -> Compose:
    return Compose.model_validate(yaml.safe_load((ROOT / "docker-compose.yml").read_text()))


def mounts(service: Service) -> set[str]:
    """The named volumes that a service sees."""
    return {name for volume in service.volumes if re.fullmatch(r"[a-z0-9-]+", name := volume.split(":")[0])}


def test_every_name_is_declared(compose: Compose) -> None:
    for name, service in compose.services.items():
        assert set(service.networks) <= set(compose.networks), name
        assert mounts(service) <= set(compose.volumes), name
        assert set(service.depends_on) <= set(compose.services), name
        waits_for_health = [other for other, how in service.depends_on.items() if how.condition == "service_healthy"]
        assert all(compose.services[other].healthcheck for other in waits_for_health), name
        assert bool(service.networks) != (service.network_mode == "none"), f"{name} would get the default network"
    assert {name for service in compose.services.values() for name in mounts(service)} == set(compose.volumes)
    assert all(network.get("internal") for network in compose.networks.values()), "nothing needs the outside world"


def test_every_process_has_its_service_and_its_own_volume(compose: Compose) -> None:
    for process in PROCESSES:
        service = compose.services[process]
        assert service.command == ["run", process]
        assert mounts(service) == {process} and f"{process}:/refacex" in service.volumes
        assert service.depends_on["setup"].condition == "service_completed_successfully"
    dealt = {f"{process}:/deal/{process}" for process in DEALT}
    assert dealt <= set(compose.services["setup"].volumes)
    for process in DEALT:
        holders = {name for name, service in compose.services.items() if process in mounts(service)}
        assert holders == {process, "setup"}, f"the keys of {process} are seen by others"


def test_only_the_relay_stands_on_both_brokers(compose: Compose) -> None:
    both = {
        name
        for name, service in compose.services.items()
        if {"release-broker", "privileged-broker"} <= set(service.networks)
    }
    assert both == {"relay", "setup"}
    assert "storage" not in compose.services["custodian"].networks
    assert "privileged-broker" not in compose.services["release"].networks


def test_ours_run_without_rights_and_the_custodian_without_torch(compose: Compose) -> None:
    ours = [service for service in compose.services.values() if service.image.startswith("refacex:")]
    assert len(ours) == len(PROCESSES) + 4  # set-up, command line, storage identities and certificates
    for service in ours:
        assert service.read_only and service.cap_drop == ["ALL"]
        assert service.security_opt == ["no-new-privileges:true"]
    for name in ("custodian", "notary", "relay", "beat", "setup", "gateway"):
        assert compose.services[name].image == "refacex:slim", name
    device = compose.services["release"].deploy
    assert device is not None and device.resources.reservations.devices[0].capabilities == ["gpu"]


def test_engines_are_official_images_and_no_secret_stands_in_the_file(compose: Compose) -> None:
    engines = {name: s.image.split(":")[0] for name, s in compose.services.items() if s.build is None}
    assert engines == {
        "release-broker": "valkey/valkey",
        "privileged-broker": "valkey/valkey",
        "postgres": "postgres",
        "s3": "chrislusf/seaweedfs",
    }
    for service in compose.services.values():
        for name, value in service.environment.items():
            if re.search("PASSWORD|KEK|AUTH|URL", name) and name != "REFACEX_EXTERNAL_S3_URL":
                assert re.search(r"\$\{[A-Z_]+(:\?[^}]*)?\}", value), name


def test_only_s3_listens_on_the_network_that_workers_join(compose: Compose) -> None:
    s3 = compose.services["s3"]
    options = dict(part.removeprefix("-").split("=", 1) for part in s3.command if "=" in part)
    assert options["ip"] == options["ip.bind"] == "127.0.0.1"
    open_to_others = [name for name, value in options.items() if name.endswith("ip.bind") and value != "127.0.0.1"]
    assert open_to_others == ["s3.ip.bind"]
    assert f"s3-certificates:{s3.working_dir}:ro" in s3.volumes
    assert s3.depends_on["s3-certificates"].condition == "service_completed_successfully"
    holders = {name for name, service in compose.services.items() if "s3-certificates" in mounts(service)}
    assert holders == {"s3", "s3-certificates"}


def test_the_storages_certificate_is_drawn_once(compose: Compose, tmp_path: Path) -> None:
    service = compose.services["s3-certificates"]
    assert service.volumes == [f"s3-certificates:{service.command[0]}"]
    command = [sys.executable, *service.entrypoint[1:], str(tmp_path)]
    drawn = []
    for _ in range(2):
        subprocess.run(command, cwd=ROOT, check=True)
        drawn.append({file.name: file.read_bytes() for file in tmp_path.iterdir()})
    assert drawn[0] == drawn[1]
    parts = tomllib.loads(drawn[0]["security.toml"].decode())
    assert {"master", "volume", "filer", "s3"} <= set(parts["grpc"])
    assert {"master", "volume", "filer"} <= set(parts["https"])
    named = {part[kind] for part in (*parts["https"].values(),) for kind in ("ca", "cert", "key")}
    assert named | {"security.toml"} == set(drawn[0])


def test_the_set_up_service_passes_urls_that_are_accepted(compose: Compose, tmp_path: Path) -> None:
    variables = compose.services["setup"].environment
    assert set(variables) == {*VARIABLES.values(), IDENTITIES}
    file = tmp_path / "s3.json"
    file.write_text(identities_json(new_identities()))
    filled = {name: re.sub(r"\$\{[A-Z_]+\}", "f00d", value) for name, value in variables.items()}
    external = External.from_environment(filled | {IDENTITIES: str(file)})
    assert set(external.urls) == set(VARIABLES)
    hosts = {url.split("://")[1].split("@")[-1].split(":")[0] for url in external.urls.values()}
    assert hosts <= set(compose.services)


BLOCK = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "cv2", "onnxruntime", "PIL", "pillow_heif", "safetensors"}:
            raise ModuleNotFoundError(f"{name} is not in the slim image")
sys.meta_path.insert(0, Blocked())
import importlib
importlib.import_module(sys.argv[1])
"""


@pytest.mark.parametrize(
    "module",
    [
        "workers.custody.app",
        "workers.outbox.__main__",
        "workers.audit.notary",
        "workers.releases.app",  # beat
        "gateway.cli.system",
        "gateway.cli.governance",
        "gateway.cli.releases",
        "gateway.provision",
        "gateway.engines.draw_storage_certificate",
    ],
)
def test_what_the_slim_image_runs_needs_no_networks_and_no_decoders(module: str) -> None:
    settings: dict[str, Any] = {
        "REFACEX_DATABASE_URL": "postgresql+psycopg://r:p@127.0.0.1:1/x",
        "REFACEX_BROKER_URL": "redis://127.0.0.1:1/0",
        "REFACEX_CUSTODY_KEYRING": "/none",
        "REFACEX_ROSTER": "/none",
        "REFACEX_POLICIES": "/none",
        "REFACEX_TICKET_SIGNING_KEY": "/none",
        "REFACEX_TOMBSTONES": "/none",
        "REFACEX_RECOVERY_PUBLIC_KEY": "/none",
    }
    done = subprocess.run(
        [sys.executable, "-c", BLOCK, module], capture_output=True, text=True, env=settings, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr[-600:]


def test_dockerfile_ends_as_a_plain_user() -> None:
    stages = re.split(r"^FROM ", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)[1:]
    named = {stage.split(" AS ")[1].split("\n")[0]: stage for stage in stages}
    assert set(named) == {"base", "slim", "worker"}
    for name in ("slim", "worker"):
        assert re.findall(r"^USER (.+)$", named[name], flags=re.MULTILINE)[-1] == "refacex"
        assert 'ENTRYPOINT ["refacex"]' in named[name]
