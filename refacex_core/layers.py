"""What several networks build with."""

from __future__ import annotations

from torch import nn


def filled(layer: nn.Conv2d, bias: float = 0.0) -> nn.Conv2d:
    """`layer` with zero weights: at first it gives `bias` whatever it sees."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.constant_(layer.bias, bias)
    return layer
