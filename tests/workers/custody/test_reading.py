"""The custodian can be read in one sitting: what its process imports of ours, and how many lines that is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
#: The custodian itself is about 4,000 of them; the rest are tables, messages, settings and errors. Whoever needs more looks first
#: whether the custodian must know it.
MOST_LINES = 7_000
#: What other processes are for: asking, recovering, releasing, exporting, acknowledging, and every way in.
NEVER = (
    "gateway",
    "refacex_core",
    "workers.audit.acknowledged",
    "workers.exports",
    "workers.recoveries.service",
    "workers.recoveries.worker",
    "workers.releases",
)

IMPORTED = """
import json, sys
from workers.settings import CustodianSettings
CustodianSettings.load = classmethod(lambda cls: cls.model_construct(
    database_url="", broker_url="redis://none", log_format="json", log_level="INFO"))
import workers.custody.app
root = sys.argv[1]
print(json.dumps({n: m.__file__ for n, m in sys.modules.items() if (getattr(m, "__file__", None) or "").startswith(root)}))
"""


def test_the_custodian_is_read_in_one_sitting() -> None:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    run = [sys.executable, "-c", IMPORTED, f"{ROOT}/"]
    done = subprocess.run(run, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    ours = {name: path for name, path in json.loads(done.stdout).items() if f"{ROOT}/.venv" not in path}
    assert "workers.custody.service" in ours
    assert not [name for name in ours for never in NEVER if name == never or name.startswith(f"{never}.")]
    lines = sum(len(Path(path).read_text().splitlines()) for path in ours.values())
    assert lines <= MOST_LINES, f"{lines} lines: {sorted(ours)}"
