"""How fast the whole core is on CPUs, from file to released file: `python -m bench.core PHOTOS [--deface PROGRAM]`.

One process a core, each with one thread and every `processes`-th photograph of the folder, started together after one photograph to warm
up; then the milliseconds of each stage, a photograph. `--deface` names the program of that name (PyPI, in an environment of its own): it
blurs faces, which is what most people use today, and is run over the same files in the same run; its own start is taken off. Prints and
writes JSON.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import shutil
import subprocess
import tempfile
import time
from collections import defaultdict
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

from refacex_core import images

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, help="a folder")
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--deface", type=Path, help="the program")
    parser.add_argument("--out", type=Path, default=Path("bench/results/core.json"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for path in sorted(path for path in args.photos.iterdir() if path.is_file())[: args.images]:
            files.append(Path(folder) / f"{len(files):04}.png")
            files[-1].write_bytes(images.encode(images.decode(path.read_bytes()).rgb, "png"))
        if len(files) < 2:
            parser.error(f"{args.photos}: two photographs or more are needed")
        result = {"cpu": _cpu(), **ours(files, min(args.processes, len(files)))}
        if args.deface is not None:
            result["deface"] = deface(args.deface, files)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def ours(files: list[Path], processes: int) -> dict[str, Any]:
    """Photographs and faces a second, and milliseconds a stage."""
    os.environ.update(dict.fromkeys(THREADS, "1"))
    context = multiprocessing.get_context("spawn")
    ready = context.Barrier(processes)
    with context.Pool(processes, _share, (ready,)) as pool:
        parts = pool.map(_run, [files[i::processes] for i in range(processes)], chunksize=1)
    seconds = max(part["until"] for part in parts) - min(part["since"] for part in parts)
    stages: dict[str, float] = defaultdict(float)
    for part in parts:
        for stage, ms in part["stages"].items():
            stages[stage] += ms / len(files)
    faces = sum(part["faces"] for part in parts)
    return {
        "processes": processes,
        "photographs": len(files),
        "released": sum(part["released"] for part in parts),
        "photographs_per_s": round(len(files) / seconds, 2),
        "released_faces_per_s": round(faces / seconds, 2),
        "ms_a_photograph": {name: round(ms, 1) for name, ms in sorted(stages.items(), key=lambda each: -each[1])},
    }


def _share(ready: Barrier) -> None:
    global _ready
    _ready = ready


def _run(files: list[Path]) -> dict[str, Any]:
    import torch

    from refacex_core.pipeline import Core
    from refacex_core.types import ItemInput, ItemKeys, ItemOptions, Released, SealContext

    torch.set_num_threads(1)
    core, key = Core.load("cpu"), os.urandom(32)
    keys = ItemKeys(lambda locator: key, lambda locator, face: key)
    context = SealContext("bench", "", "", core.model_version, "default")

    def release(path: Path) -> Any:
        return core.anonymise([ItemInput(path.read_bytes(), keys, context, ItemOptions())])[0]

    release(files[0])
    stages: dict[str, float] = defaultdict(float)
    faces = released = 0
    _ready.wait(timeout=300)  # for the other processes to have loaded
    since = time.time()
    for path in files:
        outcome = release(path)
        for stage, ms in outcome.timings_ms.items():
            stages[stage] += ms
        if isinstance(outcome, Released):
            path.with_suffix(".released").write_bytes(outcome.data)
            faces, released = faces + len(outcome.faces), released + 1
    return {"since": since, "until": time.time(), "stages": dict(stages), "faces": faces, "released": released}


def deface(program: Path, files: list[Path]) -> dict[str, float]:
    """Photographs a second of all files less its start, as one file shows it."""

    def seconds(some: list[Path]) -> float:
        with tempfile.TemporaryDirectory() as folder:
            copies = [shutil.copy(path, folder) for path in some]
            environment = {name: value for name, value in os.environ.items() if name not in THREADS}
            start = time.perf_counter()
            subprocess.run([program, *copies], check=True, capture_output=True, env=environment)
            return time.perf_counter() - start

    alone = min(seconds(files[:1]) for _ in range(3))
    return {"start_s": round(alone, 2), "photographs_per_s": round((len(files) - 1) / (seconds(files) - alone), 2)}


if __name__ == "__main__":
    main()
