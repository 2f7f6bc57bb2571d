"""A signal that comes at the worst moment stops a loop and does not hang it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

WORST = """
import os, signal, time
from workers.stopping import stop_on_signals
stop = stop_on_signals()
with stop._cond:  # as `wait` holds it for a moment
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.2)
assert stop.wait(10)
"""


def test_a_signal_within_the_wait_stops_it() -> None:
    done = subprocess.run([sys.executable, "-c", WORST], cwd=Path(__file__).parents[2], timeout=60, check=False)
    assert done.returncode == 0
