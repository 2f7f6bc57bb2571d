"""What of a face's pose, expression and gaze is kept, by MediaPipe's face mesh: over the files that `training.evaluate` wrote.

    python -m training.geometry out/evaluation/lfw out/evaluation/celebahq

MediaPipe wants a NumPy of before 2, so it lives in an environment of its own, where this needs nothing else:
`pip install mediapipe==0.10.21`. Its mesh points taught our landmark network, and nothing of ours judges here.

Shape: mean distance of a part's mesh points after the whole mesh was laid over the original's by a similarity, over the distance of the
outer eye corners. Openings: height over width; their correlation over all faces. Gaze: the iris's place between its eye's corners, as an
angle for an eyeball of 12 mm radius behind an opening of 30 mm. Pose: the rotation between both meshes in three dimensions (Kabsch).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from training.about import about_run
from training.metrics import interval

Points = NDArray[np.float64]
EYES = ((33, 133, 159, 145, 468), (362, 263, 386, 374, 473))  # corners from left to right, upper and lower lid, iris
MOUTH = (61, 291, 13, 14)
BROWS = (46, 53, 52, 65, 55, 70, 63, 105, 66, 107, 276, 283, 282, 295, 285, 300, 293, 334, 296, 336)
LIDS = (33, 7, 163, 144, 145, 153, 154, 155, 133, 173, 157, 158, 159, 160, 161, 246)
LIDS += (263, 249, 390, 373, 374, 380, 381, 382, 362, 398, 384, 385, 386, 387, 388, 466)
LIPS = (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 185, 40, 39, 37, 0, 267, 269, 270, 409)
LIPS += (78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308, 191, 80, 81, 82, 13, 312, 311, 310, 415)
PARTS = {"mouth": LIPS, "eyes": LIDS, "brows": BROWS}
OPENINGS = {"eye": [each[:4] for each in EYES], "mouth": [MOUTH]}
EYEBALL = 12 / 30  # its radius over the width of the opening


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--results", type=Path, default=Path("training/results"))
    args = parser.parse_args()
    import mediapipe

    mesh = mediapipe.solutions.face_mesh.FaceMesh(static_image_mode=True, refine_landmarks=True, max_num_faces=5)

    def find(rgb: NDArray[np.uint8]) -> list[Points]:
        scale = np.array([rgb.shape[1], rgb.shape[0], rgb.shape[1]])
        found = mesh.process(rgb).multi_face_landmarks or []
        return [np.array([[p.x, p.y, p.z] for p in face.landmark]) * scale for face in found]

    result: dict[str, Any] = {**about_run(), "judge": f"mediapipe {mediapipe.__version__}"}
    for folder in args.folders:
        result[folder.name] = measure(folder, find)
        print(folder.name, json.dumps(result[folder.name], indent=1))
    args.results.mkdir(parents=True, exist_ok=True)
    (args.results / "geometry.json").write_text(json.dumps(result, indent=2) + "\n")


def measure(folder: Path, find: Any) -> dict[str, Any]:
    """The figures of one folder: `find` gives the meshes (478 x 3, pixels) of an image."""
    values: dict[str, list[float]] = {}
    openings: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in OPENINGS}
    for path in sorted(folder.glob("*.original")):
        before, after = (_read(each) for each in (path, path.with_suffix(".png")))
        a = _central(find(before), before)
        if a is None:
            continue
        b = _central(find(after), after)
        values.setdefault("found_again", []).append(float(b is not None))
        if b is None:
            continue
        for name, value in compare(a, b).items():
            values.setdefault(name, []).append(value)
        for name, eyes in OPENINGS.items():
            for points, kept in zip((a, b), openings[name], strict=True):
                kept.append(float(np.mean([opening(points, each) for each in eyes])))
    figures: dict[str, Any] = {name: interval(each) for name, each in sorted(values.items())}
    for name, (a_s, b_s) in openings.items():
        figures[f"{name}_opening_correlation"] = _correlation(np.array(a_s), np.array(b_s))
    return figures


def compare(a: Points, b: Points) -> dict[str, float]:
    """Shape errors (shares of the distance of the outer eye corners), gaze and pose (degrees) between two meshes (478 x 3)."""
    flat = _onto(b[:, :2], a[:, :2])
    between = float(np.linalg.norm(a[33, :2] - a[263, :2]))
    result = {
        f"{name}_shape": float(np.linalg.norm(flat[list(part)] - a[list(part), :2], axis=1).mean()) / between
        for name, part in PARTS.items()
    }
    result["gaze_degrees"] = angle(gaze(a), gaze(b))
    for name, value in zip(("pitch", "yaw", "roll"), turn(a, b), strict=True):
        result[f"{name}_degrees"] = abs(value)
    return result


def opening(points: Points, which: tuple[int, ...]) -> float:
    """Height over width of an eye or a mouth."""
    left, right, top, bottom = (points[i, :2] for i in which)
    return float(np.linalg.norm(top - bottom) / np.linalg.norm(left - right))


def gaze(points: Points) -> Points:
    """The direction (3) in which both eyes look, in the head's own axes."""
    seen = []
    for left, right, _, _, iris in EYES:
        along = points[right, :2] - points[left, :2]
        width = float(np.linalg.norm(along))
        off = points[iris, :2] - (points[left, :2] + points[right, :2]) / 2
        across = np.array([-along[1], along[0]])
        seen.append([off @ along / width**2, off @ across / width**2])
    x, y = np.clip(np.mean(seen, 0) / EYEBALL, -0.9, 0.9)
    return np.array([x, y, np.sqrt(max(1 - x * x - y * y, 1e-6))])


def angle(a: Points, b: Points) -> float:
    """Degrees between two directions."""
    return float(np.degrees(np.arccos(np.clip(a @ b / np.linalg.norm(a) / np.linalg.norm(b), -1, 1))))


def turn(a: Points, b: Points) -> tuple[float, float, float]:
    """Pitch, yaw and roll (degrees) that turn mesh `a` into `b`."""
    x, y = a[:468] - a[:468].mean(0), b[:468] - b[:468].mean(0)
    u, _, v = np.linalg.svd(y.T @ x)
    rotation = u @ np.diag([1, 1, np.sign(np.linalg.det(u @ v))]) @ v
    pitch = np.arctan2(rotation[2, 1], rotation[2, 2])
    yaw = np.arcsin(np.clip(-rotation[2, 0], -1, 1))
    roll = np.arctan2(rotation[1, 0], rotation[0, 0])
    return float(np.degrees(pitch)), float(np.degrees(yaw)), float(np.degrees(roll))


def _onto(b: Points, a: Points) -> Points:
    """`b` (N x 2) laid over `a` by the similarity that brings them nearest."""
    x, y = b - b.mean(0), a - a.mean(0)
    u, s, v = np.linalg.svd(y.T @ x)
    sign = np.diag([1, np.sign(np.linalg.det(u @ v))])
    scale = float((s * np.diag(sign)).sum() / (x**2).sum())
    return np.asarray(scale * x @ (u @ sign @ v).T + a.mean(0))


def _read(path: Path) -> NDArray[np.uint8]:
    image = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)


def _central(found: list[Points], image: NDArray[np.uint8]) -> Points | None:
    middle = np.array(image.shape[1::-1]) / 2
    return min(found, key=lambda p: float(np.linalg.norm(p[:, :2].mean(0) - middle)), default=None)


def _correlation(a: Points, b: Points, draws: int = 1000) -> dict[str, float]:
    """Pearson's, with its 95 % bootstrap interval."""
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, len(a), (draws, len(a)))
    with np.errstate(invalid="ignore", divide="ignore"):  # a draw of one and the same face has none
        low, high = np.nanquantile([np.corrcoef(a[i], b[i])[0, 1] for i in drawn], [0.025, 0.975])
    mean = np.corrcoef(a, b)[0, 1]
    return {"mean": round(float(mean), 4), "low": round(float(low), 4), "high": round(float(high), 4), "n": len(a)}


if __name__ == "__main__":
    main()
