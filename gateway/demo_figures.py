"""The figures and the contact sheet of the demo, all from the saved files."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from refacex_core.errors import CoreError
from refacex_core.faces import align
from refacex_core.faces.detect import YuNet
from refacex_core.images import decode, encode
from refacex_core.pipeline import Core
from refacex_core.recognisers import REGISTRY, Recogniser
from refacex_core.release import psnr
from refacex_core.stego.framing import FaceGeometry
from refacex_core.types import RGB, ItemInput, ItemKeys, RecoveredFace, RecoveryKeys, Released, SealContext
from workers.words import number_of

if TYPE_CHECKING:
    from gateway.demo_run import Photograph, Run

# Two judges: SFace, which also gates releases, and dlib, which has no part in making them. Cosines; dlib's are compressed.
JUDGES = ("sface", "dlib")
JPEG_QUALITY = 75
COLUMNS = ("original", "released", "recovered", "difference x 4")
_CELL = 300  # pixels, contact sheet
_MOST_ROWS = 12


@dataclass
class Figures:
    """One photograph's figures; lists hold one number a face."""

    name: str
    state: str
    reason: str | None = None
    faces: int = 0
    similarity: dict[str, list[float]] = field(default_factory=dict)
    similarity_recovered: dict[str, list[float]] = field(default_factory=dict)
    payload_bytes: int = 0
    stego_psnr_db: float | None = None
    decodes_after_jpeg75: bool | None = None
    psnr_db: list[float] = field(default_factory=list)
    ssim: list[float] = field(default_factory=list)
    lpips: list[float] = field(default_factory=list)
    core_ms: float = 0.0


def show(run: Run, out: Path, console: Console) -> bool:
    """Measure, print the table, write `figures.json` and `contact-sheet.png`. True if every photograph came all the way."""
    with console.status("measuring from the saved files"):
        core, detector, judges, lpips = Core.load(), YuNet(), _judges(), _lpips()
        rows: list[list[RGB]] = []
        measured = [_measure(photograph, core, detector, judges, lpips, rows) for photograph in run.photographs]
    console.print(_table(measured, run))
    _explain(measured, run, console)
    totals = {
        "release_seconds": round(run.release_seconds, 2),
        "faces_a_second_core": _faces_a_second(measured),
        "audit_events_verified": run.verification.events if run.verification.ok else 0,
        "audit_anchored_to": run.verification.anchored_to,
        "refused": run.refusals,
    }
    report = {"photographs": [asdict(one) for one in measured], **totals}
    (out / "figures.json").write_text(json.dumps(report, indent=1) + "\n")
    if rows:
        sheet = out / "contact-sheet.png"
        sheet.write_bytes(encode(_sheet(rows[:_MOST_ROWS]), "png"))
        console.print("contact sheet (original | released | recovered | difference of original and recovered x 4):")
        console.print(f"[bold]{sheet.absolute()}[/]", soft_wrap=True, highlight=False)
    return all(one.state == "done" and len(one.psnr_db) == one.faces for one in measured) and bool(measured)


def _judges() -> dict[str, Recogniser]:
    judges: dict[str, Recogniser] = {}
    for name in JUDGES:
        try:
            judges[name] = REGISTRY[name]()
        except (ImportError, CoreError):  # dlib comes with the `evaluation` extra
            continue
    return judges


def _lpips() -> Callable[[RGB, RGB], float] | None:
    """LPIPS, where REFACEX_LPIPS names a TorchScript file that takes two images in -1..1; no such file ships with us."""
    path = os.environ.get("REFACEX_LPIPS")
    if not path or not Path(path).is_file():
        return None
    import torch

    network = torch.jit.load(path, map_location="cpu").eval()  # type: ignore[no-untyped-call]

    def tensor(image: RGB) -> torch.Tensor:
        return torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1

    def distance(a: RGB, b: RGB) -> float:
        with torch.inference_mode():
            return float(network(tensor(a), tensor(b)).mean())

    return distance


def _measure(
    photograph: Photograph,
    core: Core,
    detector: YuNet,
    judges: dict[str, Recogniser],
    lpips: Callable[[RGB, RGB], float] | None,
    rows: list[list[RGB]],
) -> Figures:
    figures = Figures(photograph.name, photograph.state.value, photograph.reason)
    reported = photograph.report.get("faces", [])
    figures.faces = len(reported)
    figures.core_ms = round(sum(photograph.report.get("timings_ms", {}).values()), 1)
    if photograph.released is None:
        return figures
    figures.payload_bytes = int(photograph.report.get("payload_bytes", 0))
    figures.stego_psnr_db = photograph.stego_psnr
    data = photograph.source.read_bytes()
    original, released = decode(data).rgb, decode(photograph.released.read_bytes()).rgb
    geometries = _geometries(detector, original)
    if len(geometries) != figures.faces:  # detection is deterministic; if it were not, no number could be trusted
        raise RuntimeError("the faces found now are not those that were released")
    before = [align.crop(original, geometry.matrix()) for geometry in geometries]
    after = [align.crop(released, geometry.matrix()) for geometry in geometries]
    figures.similarity = _similarities(judges, before, after)
    figures.decodes_after_jpeg75 = _decodes_after_jpeg(core, data)
    # without the band under the picture that says under which ticket it was recovered
    recovered = {i: decode(path.read_bytes()).rgb[: align.CROP] for i, path in photograph.recovered.items()}
    if recovered:
        kept = [before[index] for index in recovered]
        figures.similarity_recovered = _similarities(judges, kept, list(recovered.values()))
        for index, crop in recovered.items():
            figures.psnr_db.append(round(psnr(before[index], crop), 2))
            figures.ssim.append(round(ssim(before[index], crop), 4))
            if lpips is not None:
                figures.lpips.append(round(lpips(before[index], crop), 4))
    faces = [RecoveredFace(index, crop, geometries[index].matrix()) for index, crop in recovered.items()]
    whole = core.restore(photograph.released.read_bytes(), faces)
    rows.append([original, released, whole, _difference(original, whole)])
    rows.extend([before[i], after[i], crop, _difference(before[i], crop)] for i, crop in recovered.items())
    return figures


def _geometries(detector: YuNet, original: RGB) -> list[FaceGeometry]:
    """The faces as the core numbers them, placed as the payload's layout holds them."""
    found = sorted(detector(original), key=lambda one: (one.box[0], one.box[1]))
    return [FaceGeometry.from_matrix(align.similarity(one.points)) for one in found]


def _similarities(judges: dict[str, Recogniser], a: list[RGB], b: list[RGB]) -> dict[str, list[float]]:
    if not a:
        return {}
    pairs = {name: (judge(np.stack(a)) * judge(np.stack(b))).sum(1) for name, judge in judges.items()}
    return {name: [round(float(value), 3) for value in values] for name, values in pairs.items()}


def _decodes_after_jpeg(core: Core, data: bytes) -> bool | None:
    """Release the photograph once more with keys of our own, save it as JPEG 75, and recover every face from that.

    The service's own file cannot be used: nobody but the custodian has its keys, and it opens them for that file alone.
    """
    layout, secret = os.urandom(32), os.urandom(32)
    context = SealContext("demo", "measurement", "measurement", core.model_version, "default")
    keys = ItemKeys(lambda _locator: layout, lambda _locator, _face: secret)
    outcome = core.anonymise([ItemInput(data, keys, context)])[0]
    if not isinstance(outcome, Released):
        return None
    again = encode(decode(outcome.data).rgb, "jpeg", JPEG_QUALITY)
    wanted = {face.index: secret for face in outcome.faces}
    try:
        return len(core.recover(again, RecoveryKeys(layout, wanted), context)) == len(wanted)
    except CoreError:
        return False


def ssim(a: RGB, b: RGB) -> float:
    """Mean structural similarity of the luma of two 8-bit images, Gaussian window of 1.5 pixels (Wang et al. 2004)."""
    x, y = (cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float64) for image in (a, b))

    def blur(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(cv2.GaussianBlur(values, (11, 11), 1.5), np.float64)

    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mx, my = blur(x), blur(y)
    vx, vy, vxy = blur(x * x) - mx * mx, blur(y * y) - my * my, blur(x * y) - mx * my
    value = ((2 * mx * my + c1) * (2 * vxy + c2)) / ((mx * mx + my * my + c1) * (vx + vy + c2))
    return float(value.mean())


def _difference(a: RGB, b: RGB) -> RGB:
    """Four times the absolute difference."""
    difference: RGB = np.clip(np.abs(a.astype(np.int16) - b) * 4, 0, 255).astype(np.uint8)
    return difference


# --- what people see


def _faces_a_second(measured: list[Figures]) -> float | None:
    """Released faces by the seconds that their images spent in the core, all stages, without loading it."""
    spent = sum(one.core_ms for one in measured if one.state == "done") / 1000
    return round(sum(one.faces for one in measured if one.state == "done") / spent, 3) if spent else None


def _numbers(values: list[float], digits: int) -> str:
    return " ".join(f"{value:.{digits}f}" for value in values[:4]) + (" ..." if len(values) > 4 else "") or "-"


def _table(measured: list[Figures], run: Run) -> Table:
    table = Table(title="Measured from the saved files", title_justify="left")
    for column, right in (
        ("photograph", False),
        ("faces", True),
        *((f"cos {name}", True) for name in JUDGES),
        ("sealed B", True),
        ("stego PSNR", True),
        ("JPEG 75", False),
        ("recovery PSNR", True),
        ("SSIM", True),
        ("LPIPS", True),
    ):
        table.add_column(column, justify="right" if right else "left", overflow="fold")
    for one in measured:
        if one.state != "done":
            table.add_row(one.name, str(one.faces), f"[yellow]{one.state}: {one.reason}[/]", *[""] * 7)
            continue
        decoded = {True: "decodes", False: "[red]lost[/]", None: "-"}[one.decodes_after_jpeg75]
        table.add_row(
            one.name,
            str(one.faces),
            *(_numbers(one.similarity.get(name, []), 2) for name in JUDGES),
            str(one.payload_bytes),
            f"{one.stego_psnr_db:.1f}" if one.stego_psnr_db is not None else "-",
            decoded,
            _numbers(one.psnr_db, 1),
            _numbers(one.ssim, 3),
            _numbers(one.lpips, 3),
        )
    rate = _faces_a_second(measured)
    files = number_of(run.export_files, "file")
    events = f"{number_of(run.verification.events, 'audit event')} {'verified' if run.verification.ok else '[red]NOT verified[/]'}"
    table.caption = f"{rate if rate is not None else '-'} faces a second in the core; {events}; {files} exported"
    table.caption_justify = "left"
    return table


def _explain(measured: list[Figures], run: Run, console: Console) -> None:
    back: dict[str, Any] = {}
    for name in JUDGES:
        values = [value for one in measured for value in one.similarity_recovered.get(name, [])]
        if values:
            back[name] = f"{name} {sum(values) / len(values):.2f}"
    lines = [
        "cos: original against released face, lower is better. SFace takes .31 and more for one person;",
        "dlib's cosines lie close together for everyone.",
        f"Recovered against original face, higher is better: {', '.join(back.values()) or 'none recovered'}.",
        "JPEG 75: a second release made with keys of our own, saved again at quality 75, every face recovered from that.",
    ]
    if not any(one.lpips for one in measured):
        lines.append("LPIPS: not measured; name a TorchScript network in REFACEX_LPIPS to have it.")
    for line in lines:
        console.print(f"[dim]{line}[/]", soft_wrap=True, highlight=False)


def _sheet(rows: list[list[RGB]]) -> RGB:
    """The rows under each other on white, every picture fitted into a square cell, a heading over each column."""
    gap, heading = 6, 30
    step = _CELL + gap
    sheet = np.full((heading + len(rows) * step + gap, len(COLUMNS) * step + gap, 3), 255, np.uint8)
    for x, title in enumerate(COLUMNS):
        at = (gap + x * step + 4, heading - 8)
        cv2.putText(sheet, title, at, cv2.FONT_HERSHEY_SIMPLEX, 0.6, (0, 0, 0), 1, cv2.LINE_AA)
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            scale = _CELL / max(picture.shape[:2])
            size = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
            small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
            top = heading + gap + y * step + (_CELL - size[1]) // 2
            left = gap + x * step + (_CELL - size[0]) // 2
            sheet[top : top + size[1], left : left + size[0]] = small
    return sheet
