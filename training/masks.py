"""The masks under which training works, from known landmarks; at run time the landmark network gives them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from refacex_core.faces.landmarks import oval_mask
from training.common import Crops


def masks(data: Crops, indices: np.ndarray, feather: float = 6.0) -> Tensor:
    """B x 1 x 256 x 256 face masks."""
    return torch.from_numpy(np.stack([oval_mask(data.mesh(int(i)), feather) for i in indices]))[:, None]


def with_mesh(data: Crops) -> np.ndarray:
    """The crops whose landmarks are known."""
    return np.array([i for i in range(len(data)) if np.isfinite(data.mesh(i)).all()])
