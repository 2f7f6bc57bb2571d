"""Kills a process at a step that the product knows nothing of: just before, or just after, a call of the step's own."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

Arm = Callable[[], None]


def kill_before(owner: Any, name: str, call: int = 1) -> Arm:
    """This process is killed at the call of that number of `owner.name`."""
    return _armed(owner, name, call, late=False)


def kill_after(owner: Any, name: str, call: int = 1) -> Arm:
    """This process is killed when the call of that number of `owner.name` has returned."""
    return _armed(owner, name, call, late=True)


def run_killed(arm: Arm, run: Callable[[], Any]) -> None:
    """Does `run` in a process of its own, which must be killed on the way."""
    child = os.fork()
    if child == 0:
        try:
            arm()
            run()
        finally:
            os._exit(1)  # it lived on, or failed
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL, "it never came to that step"


def _armed(owner: Any, name: str, call: int, *, late: bool) -> Arm:
    def arm() -> None:
        real, calls = getattr(owner, name), iter(range(1, 1000))

        def armed(*arguments: Any, **options: Any) -> Any:
            now = next(calls) == call
            if now and not late:
                os.kill(os.getpid(), signal.SIGKILL)
            result = real(*arguments, **options)
            if now:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        setattr(owner, name, armed)

    return arm
