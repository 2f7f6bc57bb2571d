"""Images a second of the core's networks by batch size, 256 x 256 faces: `python -m bench.networks [--out FILE]`.

Landmarks, anonymiser (donor's pose, U-Net, light), embedding, extraction and recovery, each by itself and one after another, in
single precision and in bf16 (`torch.autocast`). The payload codec, error correction, detectors and recognisers run on the CPU and
are not in it. Prints one line of JSON a batch size, and a roofline: what a multiply-accumulate count and this device's measured
peaks would allow the U-Net.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from refacex_core import weights
from refacex_core.anonymiser import Anonymiser
from refacex_core.faces.landmarks import LandmarkNet
from refacex_core.payload.network import WINDOW
from refacex_core.recovery import RecoveryNetwork
from refacex_core.stego.network import CARRIERS, StegoNetwork
from refacex_core.versions import CURRENT, MODELS


def seconds(step: Callable[[], object], device: torch.device, least: float) -> float:
    """Median seconds of a step, after a warm-up, over at least `least` seconds."""
    wait = torch.cuda.synchronize if device.type == "cuda" else (lambda: None)
    for _ in range(2):
        step()
    wait()
    times: list[float] = []
    while sum(times) < least or len(times) < 3:
        start = time.perf_counter()
        step()
        wait()
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2]


def peaks(device: torch.device) -> dict[str, float]:
    """Measured: multiply-accumulates a second of a bf16 matrix product, bytes a second of a copy."""
    side, count = (8192, 2**29) if device.type == "cuda" else (1024, 2**26)
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    big = torch.randint(0, 255, (count,), device=device, dtype=torch.uint8)
    into = torch.empty_like(big)
    return {
        "macs_per_s": side**3 / seconds(lambda: a @ b, device, 0.5),
        "bytes_per_s": 2 * count / seconds(lambda: into.copy_(big), device, 0.5),
    }


def macs(net: torch.nn.Module, *inputs: Tensor) -> int:
    """Multiply-accumulates of the convolutions and linear layers in one call."""
    total = 0

    def count(layer: torch.nn.Module, _: object, out: Tensor) -> None:
        nonlocal total
        weight: Tensor = layer.weight  # type: ignore[assignment]
        total += weight.numel() * (out[0, 0].numel() if isinstance(layer, torch.nn.Conv2d) else 1) * len(out)

    layers = [m for m in net.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
    handles = [m.register_forward_hook(count) for m in layers]
    net(*inputs)
    for handle in handles:
        handle.remove()
    return total


@torch.inference_mode()
def main() -> None:
    """Measure every network at every batch size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32, 128])
    parser.add_argument("--least", type=float, default=0.3, help="seconds a measurement")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    device = torch.device(args.device)
    landmarks, anonymiser, channel, recovery = LandmarkNet(), Anonymiser(), StegoNetwork(), RecoveryNetwork()
    model = MODELS[CURRENT]
    for net, name in (
        (landmarks, "landmarks"), (anonymiser.unet, "anonymiser"), (channel, model.channel), (recovery, model.recovery)
    ):  # fmt: skip
        weights.load_into(net, name)
    for net in (landmarks, anonymiser, channel, recovery):
        net.to(device, memory_format=torch.channels_last).eval()
    cores = (landmarks, anonymiser.unet, channel.embedder, channel.extractor, recovery)
    forwards = [(net, net.forward) for net in cores]
    name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    lines: list[dict[str, object]] = []
    for batch in args.batches:
        crops = torch.rand(batch, 3, 256, 256, device=device) * 2 - 1
        points = anonymiser.appearance.mean_shape.expand(batch, -1, -1)
        codes = anonymiser.appearance.codes[torch.arange(batch) % len(anonymiser.appearance.codes)]
        mask = torch.ones(batch, 1, 256, 256, device=device)
        view = torch.rand(batch, 3, *WINDOW[2:], device=device) * 2 - 1
        bits = torch.randint(0, 2, (batch, CARRIERS, 32, 32), device=device).float()
        used = torch.ones_like(bits)
        steps: dict[str, Callable[[], object]] = {
            "landmarks": lambda c=crops: landmarks(c),
            "pose": lambda c=crops, p=points, d=codes, m=mask: anonymiser.pose(c, p, d, m),
            "anonymise": lambda c=crops, p=points, d=codes, m=mask: anonymiser(c, p, d, m),
            "embed": lambda c=crops, b=bits, u=used: channel.embed((c + 1) * 127.5, b, u),
            "extract": lambda c=crops: channel.extract((c + 1) * 127.5),
            "recover": lambda c=crops, v=view: recovery.forward(c, v),
        }
        for precision in ("single", "bf16"):
            for net, forward in forwards:  # the networks alone: splines and light are fitted in single precision
                cast = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
                net.forward = cast(forward)  # type: ignore[method-assign]
            took = {k: seconds(step, device, args.least) for k, step in steps.items()}
            release = took["landmarks"] + took["anonymise"] + took["embed"] + took["extract"]
            line = {"device": name, "batch": batch, "precision": precision}
            line |= {f"{k}_per_s": round(batch / t, 1) for k, t in took.items()}
            lines.append(line | {"release_per_s": round(batch / release, 1)})
            print(json.dumps(lines[-1]), flush=True)
    measured = peaks(device)
    one = torch.rand(1, 7, 256, 256, device=device)
    count = macs(anonymiser.unet, one, anonymiser.appearance.codes[:1])
    roof = {"unet_macs": count, **{k: round(v) for k, v in measured.items()}}
    roof["unet_per_s_at_peak"] = round(measured["macs_per_s"] / count)
    lines.append({"device": name, "roofline": roof})
    print(json.dumps(lines[-1]), flush=True)
    if args.out:
        args.out.write_text(json.dumps(lines, indent=1) + "\n")


if __name__ == "__main__":
    main()
