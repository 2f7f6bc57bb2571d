"""How the processes that run in a loop of their own are told to stop."""

from __future__ import annotations

import signal
import threading


def stop_on_signals() -> threading.Event:
    """An event that SIGTERM and SIGINT set; for the main thread to wait on.

    Not in the handler itself: it runs in the main thread, between any two instructions, and where these are within `wait`,
    which holds the event's lock for a moment, `set` would wait for it for ever.
    """
    stop = threading.Event()

    def ask(*_: object) -> None:
        threading.Thread(target=stop.set, daemon=True).start()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, ask)
    return stop
