"""Recovery is detached, the anonymiser keeps to its mask, and weights come with their cards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from refacex_core import weights
from refacex_core.anonymiser import (
    GENTLE,
    MOVED,
    STRONG,
    Anonymiser,
    Drawing,
    FusionUNet,
    Sketch,
    target_shape,
    together,
    tone,
)
from refacex_core.errors import ModelFileMissing
from refacex_core.faces import warp
from refacex_core.faces.landmarks import _EYES, GROUPS, OVAL, LandmarkNet, _mirror, oval_mask
from refacex_core.faces.presentation import PresentationNet
from refacex_core.recovery import RecoveryNetwork
from refacex_core.stego.network import StegoNetwork
from refacex_core.stego.unembed import Unembedder
from refacex_core.versions import MODELS


@pytest.fixture(scope="module")
def anonymiser() -> Anonymiser:
    net = Anonymiser()
    weights.load_into(net.unet, "anonymiser")
    return net


def _inputs(net: Anonymiser) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    source = torch.rand(2, 3, 256, 256) * 2 - 1
    points = net.appearance.mean_shape[None].repeat(2, 1, 1) + torch.randn(2, 1, 2)
    return source, points, net.appearance.codes[:2]


def _masked(net: Anonymiser) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    source, points, codes = _inputs(net)
    return source, points, codes, torch.from_numpy(np.stack([oval_mask(p.numpy()) for p in points]))[:, None]


def test_no_reconstruction_gradient_reaches_the_anonymiser(anonymiser: Anonymiser) -> None:
    anonymiser.unet.requires_grad_(True)
    recovery = RecoveryNetwork()
    out = anonymiser(*_inputs(anonymiser))
    assert out.crop.requires_grad  # the graph to the anonymiser is there, whole
    restored = recovery(out.crop, torch.rand(2, 3, 208, 192))
    (restored - torch.rand_like(restored)).square().mean().backward()
    assert all(p.grad is None for p in anonymiser.unet.parameters())
    assert all(p.grad is not None for p in recovery.parameters())


def test_the_anonymiser_learns_from_its_own_losses(anonymiser: Anonymiser) -> None:
    anonymiser.unet.requires_grad_(True)
    anonymiser.zero_grad()
    anonymiser(*_inputs(anonymiser)).crop.square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in anonymiser.unet.out.parameters())


def test_outside_the_mask_every_pixel_stays(anonymiser: Anonymiser) -> None:
    source, points, codes = _inputs(anonymiser)
    with torch.no_grad():
        out = anonymiser(source, points, codes)
    outside = (out.mask == 0).expand_as(source)
    assert outside.float().mean() > 0.4
    assert torch.equal(out.crop[outside], source[outside])
    inside = (out.mask > 0.99).expand_as(source)
    assert (out.crop[inside] - source[inside]).abs().mean() > 0.1


def test_a_face_in_studio_light_gets_the_contrast_and_colour_of_the_source(anonymiser: Anonymiser) -> None:
    """A flat, dim source: the posed donor has no more of either, and its eyes and lips do not fade away."""
    torch.manual_seed(0)
    base = torch.tensor([-0.1, -0.3, -0.4]).view(1, 3, 1, 1)
    source = (base + 0.02 * torch.randn(1, 3, 256, 256)).clamp(-1, 1)
    mask = torch.zeros(1, 1, 256, 256)
    mask[:, :, 64:192, 64:192] = 1
    donor = (base + 0.5 * torch.randn(1, 3, 256, 256)).clamp(-1, 1)
    inside = (slice(None), slice(None), slice(64, 192), slice(64, 192))
    before, toned = donor[inside].std(), tone(donor, source, mask)[inside]
    assert 0.3 * before < toned.std() < 0.6 * before
    assert (toned.mean((2, 3)) - donor[inside].mean((2, 3))).abs().max() < 0.01
    calm = (base + 0.01 * torch.randn(1, 3, 256, 256)).clamp(-1, 1)
    grey, colour = (lambda x: x[inside].mean(1), lambda x: x[inside] - x[inside].mean(1, keepdim=True))
    made = tone(calm, source, mask)
    assert torch.allclose(grey(made).std(), 1.4 * grey(calm).std(), rtol=0.01), "one with less gets more, to a limit"
    assert torch.allclose(colour(made), colour(calm), atol=1e-5), "but no more colour"
    out, _ = anonymiser.pose(source, anonymiser.appearance.mean_shape[None], anonymiser.appearance.codes[:1], mask)
    assert out[inside].std() < 0.8 * anonymiser.appearance(anonymiser.appearance.codes[:1])[0].std()


def test_the_network_draws_nothing_over_eyes_and_mouth(anonymiser: Anonymiser) -> None:
    """What they do is the source's already; the light on them alone is led to the source's."""
    source, points, codes, mask = _masked(anonymiser)
    with torch.no_grad():
        drawn = anonymiser(source, points, codes, mask).face
        posed, parts = anonymiser.pose(source, points, codes, mask)
    expressive = parts[:, :1]
    changed = drawn - posed
    detail = (changed - changed.roll(1, 3)).abs().mean(1, keepdim=True)  # from pixel to pixel
    kept, free = expressive > 0.95, (expressive < 0.05) & (mask > 0.95)
    assert kept.sum() > 1500 and detail[free].mean() > 0.002
    assert detail[kept].mean() < 0.3 * detail[free].mean()


def test_no_brow_is_pulled_apart() -> None:
    brows = torch.zeros(1, 1, 256, 256)
    brows[..., 100:112, 60:110] = 1
    apart = torch.zeros(1, 2, 256, 256)
    apart[:, 1, :, :84], apart[:, 1, :, 84:] = 8, -4  # up on one side of it, down on the other
    moved = together(apart, brows)[0, 1]
    assert moved[106, 64:106].diff().abs().max() < 0.6, "where it was 12 from one pixel to the next"
    assert torch.equal(moved[200:], apart[0, 1, 200:]), "and what is far from it as before"
    assert (moved - moved.roll(1, 0))[90:122].abs().max() < 3, "with no step at its edge"


@pytest.mark.parametrize(("drawing", "most"), [(STRONG, 0.25), (GENTLE, 0.12), (MOVED, 0.0)])
def test_no_correction_is_strong_enough_to_leave_a_blotch(
    anonymiser: Anonymiser, drawing: Drawing, most: float
) -> None:
    """Whatever the network asks for: an eighth of the range at most, half as much where it is drawn gently, none where moved alone."""
    source, points, codes, mask = _masked(anonymiser)

    def wild(x: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        signs = torch.where(torch.rand(len(x), 1, 256, 256) < 0.5, -50.0, 50.0).expand(-1, 3, -1, -1)
        return torch.zeros(len(x), 2, 256, 256), signs

    with torch.no_grad(), pytest.MonkeyPatch.context() as patched:
        patched.setattr(anonymiser.unet, "forward", wild)
        drawn = anonymiser(source, points, codes, mask, drawing).face
        patched.setattr(anonymiser.unet, "forward", lambda x, code: tuple(0 * part for part in wild(x, code)))
        plain = anonymiser(source, points, codes, mask, drawing).face
    changed = (drawn - plain).abs()
    assert 0.4 * most <= changed.max() <= 1.2 * most


def test_a_sketch_in_half_precision_draws_the_same(anonymiser: Anonymiser) -> None:
    source, points, codes, mask = _masked(anonymiser)
    with torch.no_grad():
        sketch = anonymiser.sketch(source, points, codes, mask)
        kept = Sketch(*(part.half().float() for part in sketch))
        for drawing in (MOVED, GENTLE, STRONG):
            drawn = anonymiser(source, points, codes, mask, drawing).crop
            assert torch.equal(anonymiser.draw(source, mask, sketch, drawing).crop, drawn)
            again = anonymiser.draw(source, mask, kept, drawing).crop
            assert (again - drawn).abs().max() < 2 / 127.5 and (again - drawn).abs().mean() < 0.2 / 127.5


def test_a_correction_has_no_colour(anonymiser: Anonymiser) -> None:
    source, points, codes, mask = _masked(anonymiser)
    colours = 0.1 * torch.tensor([1.0, -1.0, 0.0])[:, None, None].expand(3, 256, 256)

    def face(correction: torch.Tensor) -> torch.Tensor:
        with torch.no_grad(), pytest.MonkeyPatch.context() as patched:
            still = torch.zeros(len(source), 2, 256, 256)
            patched.setattr(anonymiser.unet, "forward", lambda x, code: (still, correction.expand(len(x), -1, -1, -1)))
            return anonymiser(source, points, codes, mask).face

    plain = face(torch.zeros(3, 256, 256))
    assert torch.allclose(face(colours), plain, atol=1e-4)
    striped = torch.zeros(3, 256, 256)
    striped[:, ::4] = 0.1
    assert (face(striped) - plain).abs().max() > 0.05


def test_the_donor_code_steers_the_result(anonymiser: Anonymiser) -> None:
    source, points, codes = _inputs(anonymiser)
    with torch.no_grad():
        a = anonymiser(source, points, codes).crop
        b = anonymiser(source, points, codes.flip(0)).crop
    assert (a - b).abs().mean() > 0.01


def test_shapes_go_half_way_to_the_donor_in_the_outline_and_further_inside(
    anonymiser: Anonymiser, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = anonymiser.appearance.shapes[:1].clone()
    donor = anonymiser.appearance.shapes[1:2]
    target = target_shape(source, donor)
    monkeypatch.setattr("refacex_core.anonymiser.SHAPE_FROM_DONOR", dict.fromkeys(GROUPS, 1.0))
    posed = target_shape(source, donor)
    assert torch.allclose(target[:, OVAL], (source[:, OVAL] + posed[:, OVAL]) / 2, atol=1e-3)
    assert (target - source).norm(dim=-1).max() > 1.0


def test_a_spline_passes_through_its_points() -> None:
    torch.manual_seed(0)
    source = torch.rand(1, 30, 2, dtype=torch.float64) * 256
    target = source + torch.randn(1, 30, 2, dtype=torch.float64) * 4
    moved = warp.evaluate(warp.spline(source, target, smooth=0.0), source)
    assert (moved - target).abs().max() < 1e-3
    same = warp.field(source.float(), source.float(), 0, 0, 64, 64)
    ys, xs = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    assert (same[0] - torch.stack([xs, ys], -1)).abs().max() < 0.05


def test_both_eyes_are_seen_alike(anonymiser: Anonymiser) -> None:
    """A mirrored face has its eyes' points mirrored, whatever the weights; and each point's other is its mirror image."""
    mean = anonymiser.appearance.shapes.mean(0)
    for rows in ([each[:16] for each in _EYES], [each[16:21] for each in _EYES], [each[21:] for each in _EYES]):
        here, there = (mean[part] - mean[part].mean(0) for part in rows)
        assert torch.equal(torch.cdist(here, there * torch.tensor([-1.0, 1.0])).argmin(1), torch.arange(len(here)))
    torch.manual_seed(0)
    net = LandmarkNet().eval()
    crops, points = torch.rand(2, 3, 256, 256) * 2 - 1, anonymiser.appearance.shapes[:2].clone()
    rows = (
        torch.cat([torch.tensor(each) for each in _EYES]),
        torch.cat([torch.tensor(each) for each in reversed(_EYES)]),
    )

    def mirrored(points: torch.Tensor) -> torch.Tensor:
        out = points.clone()
        out[:, rows[0]] = _mirror(points[:, rows[1]])
        return out

    with torch.inference_mode():
        seen, other = net.closer(crops, points), net.closer(crops.flip(3), mirrored(points))
    assert torch.allclose(mirrored(other)[:, rows[0]], seen[:, rows[0]], atol=1e-3)
    assert (seen - points)[:, rows[0]].abs().max() > 0.1


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("anonymiser", FusionUNet),
        ("landmarks", LandmarkNet),
        ("presentation", PresentationNet),
        *((version.channel, StegoNetwork) for version in MODELS.values()),
        *((version.recovery, RecoveryNetwork) for version in MODELS.values()),
        *((version.unembedder, Unembedder) for version in MODELS.values() if version.unembedder is not None),
    ],
)
def test_shipped_weights_load_and_say_how_they_were_made(name: str, module: type[torch.nn.Module]) -> None:
    card = weights.load_into(module(), name)
    assert card["data"] and card["figures"] and card["command"].startswith("python -m training.")
    assert "draft" not in card
    size = (Path(weights.__file__).parent / f"{name}.safetensors").stat().st_size
    assert size < 10_000_000


def test_missing_weights_say_so(tmp_path: Path) -> None:
    with pytest.raises(ModelFileMissing, match=r"channel\.safetensors"):
        weights.load_into(StegoNetwork(), "channel", tmp_path)
