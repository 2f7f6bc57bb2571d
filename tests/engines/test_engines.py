"""The supervisor with the real engines: start, stop, again, after kill -9, side by side, and with a server of one's own."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest
import redis

from gateway.engines import Engines, External
from gateway.engines.errors import (
    EngineExternal,
    EngineFailed,
    EngineUnknown,
    EngineUrlInvalid,
    HomeInUse,
    HomeUnusable,
)
from gateway.engines.process import ProcessId
from gateway.engines.seaweed import identities_json, new_identities
from gateway.engines.state import State, port_is_free

LIGHT = ("release_broker", "postgres")  # what starts in a second; the storage takes five
NO_EXTERNAL = External()


def light(home: Path, **options: object) -> Engines:
    return Engines(home, only=LIGHT, external=NO_EXTERNAL, **options)  # type: ignore[arg-type]


def pids(engines: Engines) -> list[ProcessId]:
    found = [engines.pid(name) for name in engines.running]
    return [identity for pid in found if pid is not None and (identity := ProcessId.of(pid)) is not None]


def wait_gone(processes: list[ProcessId], seconds: float = 15.0) -> bool:
    deadline = time.monotonic() + seconds
    while any(process.alive for process in processes):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def remember(url: str, value: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("create table if not exists kept (value text)")
        connection.execute("insert into kept values (%s)", [value])


def remembered(url: str) -> list[str]:
    with psycopg.connect(url) as connection:
        return [row[0] for row in connection.execute("select value from kept order by value")]


def test_second_start_keeps_ports_passwords_and_data(tmp_path: Path) -> None:
    with light(tmp_path / "home") as engines:
        first = engines.urls
        remember(first.postgres_admin, "one")
        redis.Redis.from_url(first.release_broker).set("key", "value")
        running = pids(engines)
        assert len(running) == 2
    assert wait_gone(running, 1), "stop() returned while an engine still ran"
    with light(tmp_path / "home") as engines:
        assert engines.urls == first
        assert engines.urls.postgres_admin == first.postgres_admin
        assert remembered(first.postgres_admin) == ["one"]
        assert redis.Redis.from_url(first.release_broker).get("key") == b"value"


def test_starts_again_after_everything_was_killed(tmp_path: Path) -> None:
    """kill -9 of the supervisor and all engines at once: nothing cleans up behind them."""
    script = f"""
import sys, time
from gateway.engines import Engines, External
engines = Engines({str(tmp_path / "home")!r}, only={LIGHT!r}, external=External())
engines.start()
print(*[engines.pid(name) for name in engines.running], flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as supervisor:
        assert supervisor.stdout is not None
        numbers = [int(word) for word in supervisor.stdout.readline().split()]
        for number in (*numbers, supervisor.pid):
            os.kill(number, signal.SIGKILL)
    assert (tmp_path / "home/engines/postgres/data/postmaster.pid").exists()
    with light(tmp_path / "home") as engines:
        remember(engines.urls.postgres_admin, "after")
        assert remembered(engines.urls.postgres_admin) == ["after"]


def test_engines_end_with_a_killed_supervisor(tmp_path: Path) -> None:
    script = f"""
import time
from gateway.engines import Engines, External
engines = Engines({str(tmp_path / "home")!r}, only={LIGHT!r}, external=External())
engines.start()
print(*[engines.pid(name) for name in engines.running], flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as supervisor:
        assert supervisor.stdout is not None
        running = [ProcessId.of(int(word)) for word in supervisor.stdout.readline().split()]
        known = [process for process in running if process is not None]
        assert len(known) == 2
        supervisor.kill()
    assert wait_gone(known), "an engine outlived its supervisor"


def test_engines_told_to_stay_are_taken_over(tmp_path: Path) -> None:
    script = f"""
from gateway.engines import Engines, External
engines = Engines({str(tmp_path / "home")!r}, only={LIGHT!r}, external=External(), die_with_parent=False)
engines.start()
print(*[engines.pid(name) for name in engines.running], flush=True)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    numbers = [int(word) for word in done.stdout.split()]
    engines = light(tmp_path / "home", die_with_parent=False)
    engines.start()
    try:
        assert [engines.pid(name) for name in engines.running] == numbers
        remember(engines.urls.postgres_admin, "here")
    finally:
        running = pids(engines)
        engines.stop()
    assert len(running) == 2 and wait_gone(running, 1)


def test_two_homes_side_by_side_and_one_home_once(tmp_path: Path) -> None:
    with light(tmp_path / "a") as a, light(tmp_path / "b") as b:
        remember(a.urls.postgres_admin, "a")
        remember(b.urls.postgres_admin, "b")
        assert remembered(a.urls.postgres_admin) == ["a"]
        with pytest.raises(HomeInUse):
            light(tmp_path / "a").start()
        assert remembered(b.urls.postgres_admin) == ["b"], "the refused start must not touch what runs"


def test_a_taken_port_is_replaced(tmp_path: Path) -> None:
    with Engines(tmp_path, only=["release_broker"], external=NO_EXTERNAL) as engines:
        first = engines.urls.release_broker
    with Engines(tmp_path / "other", only=["release_broker"], external=NO_EXTERNAL) as other:
        state = State.load(tmp_path / "engines/state.json")
        state.ports["release_broker"] = State.load(tmp_path / "other/engines/state.json").ports["release_broker"]
        state.save()
        with Engines(tmp_path, only=["release_broker"], external=NO_EXTERNAL) as engines:
            assert engines.urls.release_broker not in (first, other.urls.release_broker)
            assert redis.Redis.from_url(engines.urls.release_broker).ping()


def test_kill_and_restart_keep_url_and_data(tmp_path: Path) -> None:
    with light(tmp_path) as engines:
        url = engines.urls.postgres_admin
        remember(url, "kept")
        redis.Redis.from_url(engines.urls.release_broker).rpush("queue", "message")
        time.sleep(1.2)  # appendfsync everysec
        for name in LIGHT:
            engines.kill(name)
            assert not engines.alive(name)
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(url, connect_timeout=2)
        for name in LIGHT:
            engines.restart(name)
            assert engines.alive(name)
        assert remembered(url) == ["kept"]
        assert redis.Redis.from_url(engines.urls.release_broker).lrange("queue", 0, -1) == [b"message"]
        with pytest.raises(EngineUnknown):
            engines.kill("mysql")


def test_passwords_are_asked_for_and_never_shown(tmp_path: Path) -> None:
    with light(tmp_path) as engines:
        urls = engines.urls
        password = urls.postgres_admin.split(":")[2].split("@")[0]
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(urls.postgres_admin.replace(password, "wrong"))
        with pytest.raises(redis.AuthenticationError):
            redis.Redis.from_url("redis://" + urls.release_broker.split("@")[1]).ping()
        with psycopg.connect(urls.postgres_admin) as connection:
            assert (
                connection.execute("select rolpassword from pg_authid where rolname = 'refacex_admin'")
                .fetchall()[0][0]
                .startswith("SCRAM-SHA-256$")
            )
        secrets = State.load(tmp_path / "engines/state.json").secrets.values()
        shown = repr(urls) + "".join(Path(f"/proc/{engines.pid(name)}/cmdline").read_text() for name in engines.running)
        assert secrets and not [secret for secret in secrets if secret in shown]
        assert stat.S_IMODE((tmp_path / "engines/state.json").stat().st_mode) == 0o600
        assert stat.S_IMODE((tmp_path / "engines").stat().st_mode) == 0o700


def test_a_server_of_ones_own_replaces_an_engine(tmp_path: Path) -> None:
    with Engines(tmp_path / "own", only=["postgres"], external=NO_EXTERNAL) as own:
        external = External.from_environment({"REFACEX_EXTERNAL_POSTGRES_URL": own.urls.postgres_admin})
        with Engines(tmp_path / "ours", only=LIGHT, external=external) as engines:
            assert engines.urls.postgres_admin == own.urls.postgres_admin
            assert engines.running == ("release_broker",)
            with pytest.raises(EngineExternal):
                engines.restart("postgres")
        assert own.alive("postgres")


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("REFACEX_EXTERNAL_POSTGRES_URL", "mysql://u:hunter2@host/db"),
        ("REFACEX_EXTERNAL_RELEASE_BROKER_URL", "localhost:6379/hunter2"),
        ("REFACEX_EXTERNAL_S3_URL", "http://storage:9000/hunter2"),
        ("REFACEX_EXTERNAL_S3_URL", "s3://a:hunter2@b"),
    ],
)
def test_a_bad_external_url_is_refused_without_repeating_it(variable: str, value: str) -> None:
    with pytest.raises(EngineUrlInvalid, match=variable) as caught:
        External.from_environment({variable: value})
    assert "hunter2" not in str(caught.value)


def test_external_storage_gives_its_credentials_to_every_process() -> None:
    external = External.from_environment(
        {"REFACEX_EXTERNAL_S3_URL": "https://ac%2Fcess:se%40cret@storage.example:9000"}
    )
    assert external.urls == {"s3": "https://storage.example:9000"}
    assert external.s3_identities["release"].access == "ac/cess"
    assert external.s3_identities["admin"].secret == "se@cret"


def test_external_storage_takes_an_identity_a_process_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "s3.json"
    identities = new_identities()
    file.write_text(identities_json(identities))
    variables = {"REFACEX_EXTERNAL_S3_URL": "http://s3:8333", "REFACEX_EXTERNAL_S3_IDENTITIES": str(file)}
    assert External.from_environment(variables).s3_identities == identities
    identities.pop("notary")
    file.write_text(identities_json(identities))
    with pytest.raises(EngineUrlInvalid, match="notary"):
        External.from_environment(variables)
    file.write_text("{}")
    with pytest.raises(EngineUrlInvalid, match="no file of identities"):
        External.from_environment(variables)


def test_a_server_that_is_away_is_named_without_its_password() -> None:
    external = External.from_environment({"REFACEX_EXTERNAL_POSTGRES_URL": "postgresql://u:hunter2@127.0.0.1:1/x"})
    with pytest.raises(EngineFailed, match="REFACEX_EXTERNAL_POSTGRES_URL") as caught:
        external.await_ready(("postgres",), seconds=0.6)
    assert "hunter2" not in str(caught.value)


def test_a_broken_configuration_is_told_with_the_log(tmp_path: Path) -> None:
    with light(tmp_path) as engines:
        assert engines.running == LIGHT
    (tmp_path / "engines/postgres/data/global/pg_control").unlink()
    with pytest.raises(EngineFailed, match="pg_control"):
        light(tmp_path).start()
    state = State.load(tmp_path / "engines/state.json")
    assert not state.processes and all(port_is_free(port) for port in state.ports.values()), (
        "something was left running"
    )


def test_an_unreadable_state_is_refused(tmp_path: Path) -> None:
    (tmp_path / "engines").mkdir()
    (tmp_path / "engines/state.json").write_text("{")
    with pytest.raises(HomeUnusable):
        light(tmp_path).start()
    (tmp_path / "file").touch()
    with pytest.raises(HomeUnusable):
        light(tmp_path / "file").start()


def test_an_interrupted_initdb_starts_from_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "engines/postgres"
    (folder / "data").mkdir(parents=True)
    (folder / "data/PG_VERSION").write_text("17\n")
    (folder / "initialising").touch()
    with Engines(tmp_path, only=["postgres"], external=NO_EXTERNAL) as engines:
        remember(engines.urls.postgres_admin, "fresh")
