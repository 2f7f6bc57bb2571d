"""Smooth warps between two sets of face points: thin-plate splines (Bookstein 1989), batched."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    """r^2 log r^2 between points (B x N x 2) and (B x M x 2), coordinates about 0..1."""
    products = torch.baddbmm(
        a.square().sum(-1, keepdim=True) + b.square().sum(-1)[:, None], a, b.transpose(1, 2), alpha=-2
    )
    r2 = products.clamp_(min=1e-9)
    return r2 * torch.log(r2)


def spline(source: Tensor, target: Tensor, smooth: float = 1e-4) -> tuple[Tensor, Tensor]:
    """The spline that takes `source` (B x N x 2, pixels) to `target`: (centres, coefficients) for `evaluate`."""
    centres = source / 256
    b, n, _ = centres.shape
    k = _kernel(centres, centres) + smooth * torch.eye(n, dtype=source.dtype, device=source.device)
    p = torch.cat([torch.ones(b, n, 1, dtype=source.dtype, device=source.device), centres], 2)
    top = torch.cat([k, p], 2)
    bottom = torch.cat([p.transpose(1, 2), torch.zeros(b, 3, 3, dtype=source.dtype, device=source.device)], 2)
    right = torch.cat([target / 256, torch.zeros(b, 3, 2, dtype=source.dtype, device=source.device)], 1)
    return centres, solve(torch.cat([top, bottom], 1), right)


def solve(matrix: Tensor, right: Tensor) -> Tensor:
    """The X of `matrix` X = `right` (B x N x N and B x N x M); no gradient.

    On the CPU by NumPy: PyTorch's own batched solver over MKL was seen to hang where the number of threads had been set.
    """
    solved: Tensor
    if matrix.device.type == "cpu":
        solved = torch.from_numpy(np.linalg.solve(matrix.detach().numpy(), right.detach().numpy()))
    else:
        solved = torch.linalg.solve(matrix, right)
    return solved


def evaluate(fit: tuple[Tensor, Tensor], points: Tensor) -> Tensor:
    """Where a fitted spline takes `points` (B x M x 2, pixels)."""
    centres, coefficients = fit
    x = points / 256
    basis = torch.cat([_kernel(x, centres), torch.ones_like(x[..., :1]), x], 2)
    moved: Tensor = basis @ coefficients * 256
    return moved


def field(source: Tensor, target: Tensor, top: int, left: int, height: int, width: int, stride: int = 8) -> Tensor:
    """For each pixel of a window, where the spline from `source` to `target` takes it: as `over`."""
    return over(spline(source.double(), target.double()), top, left, height, width, stride)


def over(fit: tuple[Tensor, Tensor], top: int, left: int, height: int, width: int, stride: int = 8) -> Tensor:
    """For each pixel of a window, where a fitted spline takes it: B x height x width x 2 (x, y in pixels).

    The spline is evaluated on every `stride`-th pixel and interpolated between.
    """
    centres, _ = fit
    ys = torch.arange(top, top + height + stride, stride, device=centres.device, dtype=centres.dtype)
    xs = torch.arange(left, left + width + stride, stride, device=centres.device, dtype=centres.dtype)
    grid = torch.stack(torch.meshgrid(xs, ys, indexing="xy"), -1).reshape(1, -1, 2).expand(len(centres), -1, 2)
    moved = evaluate(fit, grid).float()
    coarse = moved.reshape(len(centres), len(ys), len(xs), 2).permute(0, 3, 1, 2)
    size = ((len(ys) - 1) * stride + 1, (len(xs) - 1) * stride + 1)
    fine = F.interpolate(coarse, size=size, mode="bilinear", align_corners=True)
    return fine[:, :, :height, :width].permute(0, 2, 3, 1)


def sample(image: Tensor, where: Tensor) -> Tensor:
    """`image` (B x C x H x W) at pixel positions `where` (B x h x w x 2), bilinear, edges repeated."""
    size = torch.tensor([image.shape[3], image.shape[2]], device=image.device, dtype=image.dtype)
    return F.grid_sample(
        image, (2 * where.to(image.dtype) + 1) / size - 1, mode="bilinear", padding_mode="border", align_corners=False
    )
