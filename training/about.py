"""What a result says of its own making."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def about_run() -> dict[str, str]:
    """Command line, git commit, torch version."""
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = "unknown"
    words = list(sys.argv[1:])
    for option, stand_in in (
        ("--loss-networks", "WEIGHTS"),
        ("--data", "DATA"),
        ("--cache", "CACHE"),
        ("--shards", "SHARDS"),
        ("--out", "OUT"),
        ("--results", "RESULTS"),
    ):  # where they lie here is nobody's concern
        if option in words:
            words[words.index(option) + 1] = stand_in
    spec = sys.modules["__main__"].__spec__
    module = spec.name if spec else Path(sys.argv[0]).stem
    return {
        "command": " ".join(["python", "-m", module, *words]),
        "commit": commit,
        "torch": _torch(),
    }


def _torch() -> str:
    try:
        return version("torch")
    except PackageNotFoundError:  # some measure without it
        return "none"
