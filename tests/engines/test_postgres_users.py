"""PostgreSQL as root, as nobody, and as a plain user: it refuses root, and a folder that only root may enter must do."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest

from gateway.engines import Engines, External
from gateway.engines.postgres import Postgres, RunAs
from gateway.engines.process import ProcessId

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has to shed its rights")


@as_root
def test_setpriv_fallback_below_a_private_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Postgres, "run_as", RunAs.NOBODY)
    (tmp_path / "private").mkdir(mode=0o700)
    for _ in range(2):
        with Engines(tmp_path / "private", only=["postgres"], external=External()) as engines:
            pid = engines.pid("postgres")
            assert pid is not None and Path(f"/proc/{pid}").stat().st_uid == 65534
            with psycopg.connect(engines.urls.postgres_admin) as connection:
                assert connection.execute("select 1").fetchone() == (1,)


@as_root
def test_setpriv_server_ends_with_its_supervisor(tmp_path: Path) -> None:
    script = f"""
import time
from gateway.engines import Engines, External
from gateway.engines.postgres import Postgres, RunAs
Postgres.run_as = RunAs.NOBODY
engines = Engines({str(tmp_path)!r}, only=["postgres"], external=External())
engines.start()
print(engines.pid("postgres"), flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as supervisor:
        assert supervisor.stdout is not None
        server = ProcessId.of(int(supervisor.stdout.readline()))
        assert server is not None
        supervisor.kill()
    deadline = time.monotonic() + 15
    while server.alive and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not server.alive, "PostgreSQL outlived its supervisor"
