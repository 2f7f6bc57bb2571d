"""Points at which a fault test kills the process. Tests only: `Settings.load` refuses them without
REFACEX_ALLOW_FAULTS=1.

`REFACEX_FAULT=after-commit` sends SIGKILL to the whole process group the first time that point is reached, as a
power cut would: a prefork parent that lived on would start a new child and walk into the same point again. With
`after-commit:stop` it is SIGSTOP, once: a worker that hangs until its claim has run out, and then goes on as if
nothing had been.
"""

from __future__ import annotations

import http.client
import os
import signal
from collections.abc import Sequence
from typing import NoReturn, Protocol
from urllib.parse import urlsplit

POINTS = (
    "after-claim",
    "after-read",
    "after-anonymise",
    "after-commit",
    "during-upload",
    "after-upload",
    "after-finish",
    "after-release-finished",
    "after-report",
    "before-publish",
    "after-publish",
)


class HasFault(Protocol):
    """The part of a process's settings that arms a fault."""

    @property
    def allow_faults(self) -> bool: ...
    @property
    def fault(self) -> str: ...


class Faults:
    """The armed fault of a process; by default none. `points`: those that the process has."""

    def __init__(self, settings: HasFault | None = None, points: Sequence[str] = POINTS) -> None:
        fault = settings.fault if settings is not None and settings.allow_faults else ""
        self._armed, _, how = fault.partition(":")
        self._stops = how == "stop"
        if self._armed and self._armed not in points:
            raise ValueError(f"no such fault point; there are {', '.join(points)}")

    def armed(self, point: str) -> bool:
        """Whether the process is to die at this point."""
        return self._armed == point

    def reach(self, point: str) -> None:
        """Dies here, or hangs, if this is the armed point."""
        if self._armed == point:
            if self._stops:
                self._armed = ""
                os.killpg(0, signal.SIGSTOP)
            else:
                _die()

    def half_upload(self, presigned_url: str, data: bytes) -> NoReturn:
        """Puts half of the bytes on the wire, and dies."""
        parts = urlsplit(presigned_url)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port)
        connection.putrequest("PUT", f"{parts.path}?{parts.query}")
        connection.putheader("Content-Length", str(len(data)))
        connection.endheaders()
        connection.send(data[: len(data) // 2])
        _die()


def _die() -> NoReturn:
    os.killpg(0, signal.SIGKILL)
    raise AssertionError("a process outlived SIGKILL")
