"""What every stage shares: data in memory, augmentation, the clock, checkpoints, logs, sample sheets."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import yaml
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from refacex_core import weights
from training.about import about_run


class Crops:
    """Prepared crops of several sets, kept as uint8; batches come as -1..1 floats."""

    def __init__(self, cache: Path, sets: list[str], limit: int | None = None) -> None:
        self.images: list[NDArray[np.uint8]] = []
        self.points: list[NDArray[np.float32]] = []
        self.names: list[str] = []
        for name in sets:
            images = np.load(cache / name / "crops.npy", mmap_mode="r")[:limit]
            self.images.append(images)
            self.points.append(np.load(cache / name / "points.npy")[:limit])
            self.names += [f"{name}/{n}" for n in json.loads((cache / name / "names.json").read_text())[:limit]]
        self.offsets = np.cumsum([0] + [len(i) for i in self.images])

    def __len__(self) -> int:
        return int(self.offsets[-1])

    def image(self, index: int) -> NDArray[np.uint8]:
        """Crop `index` (256 x 256 x 3 uint8)."""
        part = int(np.searchsorted(self.offsets, index, "right")) - 1
        return np.asarray(self.images[part][index - self.offsets[part]])

    def mesh(self, index: int) -> NDArray[np.float32]:
        """The 162 points of crop `index`, NaN where none are known."""
        part = int(np.searchsorted(self.offsets, index, "right")) - 1
        return self.points[part][index - self.offsets[part]]

    def batch(self, indices: NDArray[np.int64] | list[int]) -> Tensor:
        """B x 3 x 256 x 256 in -1..1."""
        stacked = np.stack([self.image(int(i)) for i in indices])
        return to_tensor(stacked)


def to_tensor(images: NDArray[np.uint8]) -> Tensor:
    """B x H x W x 3 uint8 to B x 3 x H x W in -1..1."""
    return torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def to_images(tensor: Tensor) -> NDArray[np.uint8]:
    """B x 3 x H x W in -1..1 to B x H x W x 3 uint8."""
    values = tensor.detach().clamp(-1, 1).add(1).mul(127.5).round()
    return values.permute(0, 2, 3, 1).byte().cpu().numpy()


def sheet(rows: list[list[NDArray[np.uint8]]], path: Path) -> None:
    """A contact sheet: a list of rows of equally large RGB images."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate([np.concatenate(r, 1) for r in rows], 0)).save(path)


def arguments(doc: str | None, minutes: float, batch: int, peak: float) -> argparse.ArgumentParser:
    """The options that every stage has."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, help="YAML file of options; those of the command line go before it")
    parser.add_argument("--cache", type=Path, default=Path("training/cache"), help="what training.prepare wrote")
    parser.add_argument("--loss-networks", type=Path, help="folder of the frozen loss networks")
    parser.add_argument(
        "--run", "--folder", type=Path, required=True, help="for checkpoints, log and samples (torchrun wants --folder)"
    )
    parser.add_argument("--minutes", type=float, default=minutes, help="stop by the clock after so long in this call")
    parser.add_argument(
        "--total-steps", type=int, default=0, help="length of the learning-rate schedule (0: by the clock)"
    )
    parser.add_argument("--batch", type=int, default=batch)
    parser.add_argument("--peak", type=float, default=peak, help="the highest learning rate of this call")
    parser.add_argument("--start", help="begin from these weights of refacex_core/weights, where the run is new")
    parser.add_argument("--limit", type=int, help="use only so many images a set (smoke runs)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--export", help="write the averaged weights under this name into refacex_core/weights")
    return parser


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The options, with those of `--config` as defaults. An option that the stage does not have ends the program."""
    first = argparse.ArgumentParser(add_help=False)
    first.add_argument("--config", type=Path)
    config = first.parse_known_args()[0].config
    if config is not None:
        given = yaml.safe_load(config.read_text())
        if not isinstance(given, dict):
            parser.error(f"{config}: a mapping of options is expected")
        known = {word.lstrip("-"): action for action in parser._actions for word in action.option_strings}
        for name, value in given.items():
            if name not in known:
                parser.error(f"{config}: no such option: {name}")
            action = known[name]
            try:
                action.default = value if action.type is None else action.type(value)  # type: ignore[operator]
            except (TypeError, ValueError):
                parser.error(f"{config}: {name}: {value!r} is no {getattr(action.type, '__name__', action.type)}")
            action.required = False
    return parser.parse_args()


def processes() -> tuple[int, int]:
    """This process's number in the run, and how many there are (`torchrun`)."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def descend(optimiser: torch.optim.Optimizer, backward: Callable[[], object]) -> None:
    """One step down the gradient that `backward` gives, averaged over the run's processes and at most 1 long."""
    optimiser.zero_grad()
    backward()
    parameters = [p for group in optimiser.param_groups for p in group["params"] if p.grad is not None]
    _, count = processes()
    if count > 1:
        for parameter in parameters:
            dist.all_reduce(parameter.grad)
            parameter.grad.div_(count)
    nn.utils.clip_grad_norm_(parameters, 1.0)
    optimiser.step()


class Run:
    """A training run that can stop at any time: checkpoint, averaged weights, log."""

    def __init__(
        self, args: argparse.Namespace, networks: dict[str, nn.Module], optimisers: list[torch.optim.Optimizer]
    ) -> None:
        self.args, self.networks, self.optimisers = args, networks, optimisers
        self.step, self.seen, self.seconds = 0, 0, 0.0
        self.origin: dict[str, Any] | None = None  # the weights that this run began from, and what had gone into them
        if args.start:
            self.origin = {"weights": args.start, "trained": weights.card(args.start)["trained"]}
            network = next(iter(networks.values()))  # a critic beside it begins anew
            weights.load_into(network, args.start)
            network.train().requires_grad_(True)
        self.averages = {k: {n: p.detach().clone() for n, p in m.state_dict().items()} for k, m in networks.items()}
        args.run.mkdir(parents=True, exist_ok=True)
        self.path = args.run / "checkpoint.pt"
        self.history: list[dict[str, str]] = []  # every call that this run was made of
        if self.path.exists():
            self._resume()
        self.first, count = processes()[0] == 0, processes()[1]
        if count > 1:  # all begin alike, whatever each drew
            for module in networks.values():
                for value in module.state_dict().values():
                    dist.broadcast(value, 0)
        self.history.append(about_run())
        self.started = self.last = time.monotonic()
        self.before = self.seconds

    def _resume(self) -> None:
        state = torch.load(self.path, map_location=self.args.device, weights_only=True)
        for key, module in self.networks.items():
            module.load_state_dict(state["networks"][key])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        self.averages, self.history = state["averages"], state.get("history", [])
        self.origin = state.get("origin")
        self.step, self.seen, self.seconds = state["step"], state["seen"], state["seconds"]

    def progress(self) -> float:
        """0..1 of this call's minutes, or of `--total-steps`."""
        if self.args.total_steps:
            return min(self.step / self.args.total_steps, 1.0)
        return min((time.monotonic() - self.started) / (60 * self.args.minutes), 1.0)

    def running(self) -> bool:
        """False when the clock has run out."""
        in_time = time.monotonic() - self.started < 60 * self.args.minutes
        on = in_time and not (self.args.total_steps and self.step >= self.args.total_steps)
        if processes()[1] == 1:
            return on
        told = torch.tensor(int(on), device=self.args.device)  # clocks differ: the first process's counts
        dist.broadcast(told, 0)
        return bool(told)

    def learning_rate(self, warm_up: int = 50) -> None:
        """Linear warm-up, then cosine to 2 % of `--peak`."""
        cosine = 0.5 * (1 + math.cos(math.pi * self.progress()))
        rate = self.args.peak * min(1.0, (self.step + 1) / warm_up) * (0.02 + 0.98 * cosine)
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = rate * group.get("scale", 1.0)

    def tick(self, images: int, losses: Mapping[str, float | Tensor], every: int = 50, decay: float = 0.998) -> None:
        """After each step: average the weights, and now and then log and save."""
        self.step += 1
        self.seen += images * processes()[1]
        decay = min(decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for key, module in self.networks.items():
                state = module.state_dict()
                moving = [name for name, value in state.items() if value.is_floating_point()]
                torch._foreach_lerp_([self.averages[key][n] for n in moving], [state[n] for n in moving], 1 - decay)
                for name in state.keys() - set(moving):
                    self.averages[key][name].copy_(state[name])
        if self.step % every == 0 and self.first:
            now = time.monotonic()
            line = {
                "step": self.step,
                "images": self.seen,
                "images_per_s": round(images * processes()[1] * every / (now - self.last), 2),
            }
            line |= {k: round(float(v), 5) for k, v in losses.items()}
            self.last = now
            with (self.args.run / "log.jsonl").open("a") as log:
                log.write(json.dumps(line) + "\n")
            print(json.dumps(line), flush=True)
        if self.step % (every * 10) == 0:
            self.save()

    def save(self) -> None:
        """Write the checkpoint; an old one is replaced only by a whole new one."""
        if not self.first:
            return
        self.seconds = self.before + time.monotonic() - self.started
        state: dict[str, Any] = {
            "networks": {k: m.state_dict() for k, m in self.networks.items()},
            "optimisers": [o.state_dict() for o in self.optimisers],
            "averages": self.averages,
            "step": self.step,
            "seen": self.seen,
            "seconds": self.seconds,
            "history": self.history,
            "origin": self.origin,
        }
        temporary = self.path.with_suffix(".tmp")
        torch.save(state, temporary)
        temporary.replace(self.path)

    def end(self) -> None:
        """Save, and load the averaged weights into the networks; of several processes, the first alone goes on."""
        self.save()
        if dist.is_initialized():
            dist.barrier()
            dist.destroy_process_group()
            if not self.first:
                sys.stdout.flush()
                os._exit(0)  # threads of the group's that still end would abort an ordinary exit
        for key, module in self.networks.items():
            module.load_state_dict(self.averages[key])

    def card(self, data: list[str], figures: dict[str, Any], rights: str) -> dict[str, Any]:
        """The card of the weights that this run made."""
        self.seconds = self.before + time.monotonic() - self.started
        return {
            "trained": {"steps": self.step, "images": self.seen, "minutes": round(self.seconds / 60, 1)},
            "device": f"{self.args.device}, {torch.get_num_threads()} threads",
            "data": data,
            "rights": rights,
            "figures": figures,
            **about_run(),
            "calls": [call["command"] for call in self.history],
            **({"began_from": self.origin} if self.origin else {}),
        }


RIGHTS = (
    "Trained on CelebA-HQ and LFW, which are for research use; train on your own data for commercial use. "
    "The weights hold no image of either set."
)


def set_up(args: argparse.Namespace) -> np.random.Generator:
    """Seeds, threads, and the other processes of this run where `torchrun` began several."""
    if args.threads:
        torch.set_num_threads(args.threads)
    cuda = args.device.startswith("cuda")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        dist.init_process_group("nccl" if cuda else "gloo")
        if cuda:
            args.device = f"cuda:{os.environ['LOCAL_RANK']}"
            torch.cuda.set_device(args.device)
    seed = args.seed + processes()[0]
    torch.manual_seed(seed)
    return np.random.default_rng(seed)
