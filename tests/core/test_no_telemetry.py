"""Nothing that the core loads keeps a diary for anybody else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

USE_IT = """
import numpy as np
from refacex_core import recognisers
recognisers.sface()(np.zeros((1, 256, 256, 3), np.uint8))
"""


def test_a_recogniser_leaves_nothing_in_the_home_folder(tmp_path: Path) -> None:
    """ONNX Runtime with its telemetry on puts a device id and a queue of events there before it sends them."""
    kept = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY" and not k.startswith("XDG_")}
    subprocess.run([sys.executable, "-c", USE_IT], env={**kept, "HOME": str(tmp_path)}, check=True, timeout=120)
    assert list(tmp_path.rglob("*")) == []
