"""Deals a home folder out to separate machines or containers: to each process its env file, its keys, and nothing else."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from gateway.engines.errors import EngineUnknown, HomeNotReady, HomeUnusable
from gateway.processes import PROCESSES
from gateway.provision import LEDGER, Home, read_env, write_env
from workers.custody import keys

DEALT = (*PROCESSES, "gateway")
# Changes in the custodian's hands and is never taken back: what was shredded stays shredded, and a rotated key ring
# holds what the home's does not.
_KEPT = {LEDGER, "roster.json", "policies.json", "custody.keyring.json"}
_PUBLIC = {"gateway": ("audit.public.json", "export.public.json", "ticket.public.json")}


def deal(
    home: Home, target: Path, *, seen_as: Path, processes: Sequence[str] = DEALT, ledger_may_begin: bool = False
) -> None:
    """Write `target`/PROCESS/{env,keys} for each process; paths in the env files are as below `seen_as`, where it will run.

    Safe to repeat; the custodian's roster and tombstones are never overwritten. A ledger goes with the first key ring; one that is
    missing beside a ring is only put there where `ledger_may_begin`. Raises HomeUnusable.
    """
    try:
        for process in processes:
            _deal_one(home, target / process, process, seen_as, ledger_may_begin)
        _hand_on_public_key(target)
    except OSError as error:
        raise HomeUnusable(error.strerror or "") from error


def _deal_one(home: Home, target: Path, process: str, seen_as: Path, ledger_may_begin: bool) -> None:
    own = Home(target)
    lost = own.key("custody.keyring.json").exists() and not own.ledger_begun and not ledger_may_begin
    for folder in ("env", "keys", "logs", "run"):
        (target / folder).mkdir(parents=True, exist_ok=True, mode=0o700)
    variables = read_env(home.env(process))
    for name, value in variables.items():
        path = Path(value)
        if path.is_absolute() and path.parent == home.key("x").parent:
            if path.name != LEDGER or not lost:
                _copy(path, own.key(path.name))
            variables[name] = str(seen_as / "keys" / path.name)
    for public in _PUBLIC.get(process, ()):
        _copy(home.key(public), own.key(public))
    write_env(own.env(process), variables)


def _hand_on_public_key(target: Path) -> None:
    """What is sealed from now on is sealed to the key of the custodian's own ring, which may be newer than the home's."""
    ring = Home(target / "custodian").key("custody.keyring.json")
    if not ring.exists():
        return
    public = keys.load_public_half(ring, keys.FileKind.CUSTODY)
    for process in ("custodian", "release"):
        known = Home(target / process).key("custody.public.json")
        if known.exists():
            keys.write_public(known, public)


def _copy(source: Path, target: Path) -> None:
    if not source.exists() or (target.name in _KEPT and target.exists() and target.stat().st_size > 0):
        return
    temporary = target.with_name(f".{target.name}.new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, source.stat().st_mode & 0o777)
    with os.fdopen(descriptor, "wb") as file, source.open("rb") as original:
        shutil.copyfileobj(original, file)
    temporary.replace(target)


def become(process: str, home: Home) -> None:
    """Turn this process into one of the system's: its env file over our environment, its command in our place.

    Raises EngineUnknown for a name that is none of them and HomeNotReady without its env file; does not return otherwise.
    """
    if process not in PROCESSES:
        raise EngineUnknown(f"{process}: one of {', '.join(PROCESSES)}")
    if not home.env(process).exists():
        raise HomeNotReady(f"no env/{process}.env")
    environment = {**os.environ, **read_env(home.env(process))}
    command = PROCESSES[process].command(home)
    home.run.mkdir(parents=True, exist_ok=True)
    os.chdir(home.run)
    os.execve(command[0], command, environment)  # noqa: S606  (no shell: that is the point)
