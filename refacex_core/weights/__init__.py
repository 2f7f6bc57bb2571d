"""Our own trained weights: one `NAME.safetensors` (half precision) and one `NAME.json` (its card) a network.

The weights of every model version stay here for ever, because files released with them stay recoverable.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from refacex_core.errors import ModelFileMissing
from refacex_core.versions import card

_FOLDER = Path(__file__).parent

__all__ = ["card", "load_into", "save"]


def load_into(module: torch.nn.Module, name: str, folder: Path | None = None) -> dict[str, Any]:
    """Load the weights `name` into `module`, which then is in evaluation mode and frozen; gives the card.

    Raises ModelFileMissing when they are not there.
    """
    path = (folder or _FOLDER) / f"{name}.safetensors"
    if not path.is_file():
        raise ModelFileMissing(path.name)
    module.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in load_file(path).items()})
    module.eval().requires_grad_(False)
    return card(name, folder)


def save(module: torch.nn.Module, name: str, about: dict[str, Any], folder: Path | None = None) -> Path:
    """Write weights in half precision and their card."""
    path = (folder or _FOLDER) / f"{name}.safetensors"
    half = {k: (v.half() if v.is_floating_point() else v).contiguous() for k, v in module.state_dict().items()}
    save_file(half, path)
    path.chmod(0o644)
    path.with_suffix(".json").write_text(json.dumps(about, indent=2, sort_keys=True) + "\n")
    return path
