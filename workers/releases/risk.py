"""The risk report of a release: what it protects, how well by each recogniser, what was held and why, and who ran it.

Made from the release's rows alone, so that making it again gives the same bytes. It holds ids and positions, never what
a submitter called a file or a release, and never whom an image shows.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from statistics import fmean, median
from typing import Any

from refacex_core.gates import (
    GATE,
    GOOD_OVER_VIEWS,
    GOOD_SIMILARITY,
    MOST_SIMILARITY,
    SFACE_SAME_PERSON,
    SMALLEST_FACE,
    STRANGERS,
)
from refacex_core.versions import weights_of
from schemas.states import ItemState
from schemas.tables import Item, Release

VERSION = 1
WHAT = "refacex risk report"
STATUS = "pseudonymised: each face can be recovered under governance until its key is shredded"
_BINS, _LEAST_SPAN = 30, 0.1  # of a histogram: steps at most, and what it covers at least
_STEPS = (0.005, 0.01, 0.02, 0.05, 0.1)

MEANING = (
    "A similarity is the cosine between a face in the original photograph and the face that was released in its place, "
    "as one recogniser sees the two: 1 is the same picture, and strangers lie where that recogniser puts strangers.",
    f"SFace decides: a face above {MOST_SIMILARITY:.2f} is not released, nor one that was above it, before its payload was embedded, "
    f"on average over the face as it is, closer and coarser; donors are tried until one gives at most {GOOD_SIMILARITY}, and "
    f"{GOOD_OVER_VIEWS} on that average. SFace takes "
    f"{SFACE_SAME_PERSON} and more for one person (one false accept in a thousand pairs on LFW). Because SFace chooses, its own "
    "figures flatter the release.",
    "Every other recogniser only judges. Where no threshold is known for one, compare its figures with what it gives for "
    "strangers (the mean over pairs of different people of LFW), not with another recogniser's.",
    "The PSNR of the stego file is the noise that hiding the payload adds; it says nothing of how real a face looks.",
)
LIMITS = (
    "Not that nobody can be recognised: clothes, body, hair, place, company and captions stay in a photograph.",
    "Not that another recogniser does no better, least of all one that was trained on files like these.",
    "Not that every face was found. Two detectors look before and after; what neither sees is not counted here.",
    "Not that the release is anonymous. As long as its keys exist it is pseudonymised data.",
)


@dataclass(frozen=True)
class Row:
    """An item as the report needs it, with the model version of its published attempt."""

    item: Item
    model_version: str | None


def build(release: Release, rows: Sequence[Row]) -> dict[str, Any]:
    """The report of an ended release; `rows` are all of its items, in order."""
    images = [_image(row.item) for row in rows]
    released = [face for image in images if image["state"] == ItemState.DONE for face in image["faces"]]
    others = [face for image in images if image["state"] != ItemState.DONE for face in image["faces"]]
    return {
        "v": VERSION,
        "what": WHAT,
        "release": str(release.id),
        "tenant": release.tenant,
        "operator": release.submitted_by,
        "submitted_at": _time(release.created_at),
        "ended_at": _time(release.finished_at),
        "state": release.state.value,
        "status": STATUS,
        "policy": {
            "name": release.policy_name,
            "sha256": (release.policy or {}).get("sha256"),
            "images_without_face": release.on_no_face,
        },
        "made_as": {
            "profile": release.profile,
            "format": release.format,
            "quality": release.quality,
            "donors": release.donor_policy,
        },
        "thresholds": {
            "recogniser": GATE,
            "good_enough": GOOD_SIMILARITY,
            "good_enough_over_views": GOOD_OVER_VIEWS,
            "released_up_to": MOST_SIMILARITY,
            "same_person_from": SFACE_SAME_PERSON,
            "smallest_face_pixels": SMALLEST_FACE,
        },
        "images_by_state": _counts(image["state"] for image in images),
        "not_released": _counts(image["reason"] for image in images if image["state"] != ItemState.DONE),
        "faces_released": len(released),
        "faces_not_released": len(others),
        "faces_held_for": _counts(face["reason"] for face in others if face["reason"]),
        "similarity_to_source": _by_recogniser(released),
        "similarity_to_donor": _distribution(face["donor_similarity"] for face in released),
        "stego_psnr_db": _distribution(image["stego_psnr"] for image in images if image["state"] == ItemState.DONE),
        "payload_bytes_a_face": _distribution(face["payload_bytes"] for face in released),
        "models": _models(rows),
        "meaning": list(MEANING),
        "does_not_prove": list(LIMITS),
        "images": images,
    }


def encode(report: Mapping[str, Any]) -> bytes:
    """The bytes of `risk-report.json`."""
    return (json.dumps(report, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def _image(item: Item) -> dict[str, Any]:
    report = (
        item.report if isinstance(item.report, dict) else {}
    )  # whoever stole a worker's role may have written anything
    faces = report.get("faces")
    return {
        "item": str(item.id),
        "position": item.position,
        "state": item.state.value,
        "reason": item.reason,
        "attempts": item.attempts,
        "sha256": item.sha256,
        "size_bytes": item.size_bytes,
        "width": item.width,
        "height": item.height,
        "stego_psnr": item.stego_psnr if item.state is ItemState.DONE else None,
        "payload_bytes": _number(report.get("payload_bytes")) if item.state is ItemState.DONE else None,
        "faces": [_face(face, item) for face in (faces if isinstance(faces, list) else ()) if isinstance(face, dict)],
    }


def _face(face: Mapping[str, Any], item: Item) -> dict[str, Any]:
    judged = face.get("judged")
    similarity = {GATE: face.get("audit_similarity")} | (judged if isinstance(judged, dict) else {})
    reason = face.get("reason")
    return {
        "face": _number(face.get("index")),
        "released": item.state is ItemState.DONE,
        "reason": reason if isinstance(reason, str) else None,
        "similarity_to_source": {name: value for name, value in similarity.items() if _number(value) is not None},
        "donor_similarity": _number(face.get("donor_similarity")),
        "donors_tried": _number(face.get("donors_tried")) or 0,
        "payload_bytes": _number(face.get("payload_bytes")) or 0,
    }


def _number(value: object) -> float | None:
    """None for what is no number that a report can show."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e15 else None


def _by_recogniser(faces: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The gate's recogniser first. `same_person_from`, `strangers_mean` None: that is not known of it."""
    names = sorted({name for face in faces for name in face["similarity_to_source"]}, key=lambda n: (n != GATE, n))
    result = []
    for name in names:
        values = [face["similarity_to_source"][name] for face in faces if name in face["similarity_to_source"]]
        threshold = SFACE_SAME_PERSON if name == GATE else None
        above = None if threshold is None else round(sum(v >= threshold for v in values) / len(values), 4)
        result.append(
            {
                "recogniser": name,
                "role": "decides" if name == GATE else "judges",
                "strangers_mean": STRANGERS.get(name),
                "same_person_from": threshold,
                "share_taken_for_the_same_person": above,
                **(_distribution(values) or {}),
                "histogram": _histogram(values, [0.0, MOST_SIMILARITY] if name == GATE else []),
            }
        )
    return result


def _distribution(values: Iterable[float | None]) -> dict[str, Any] | None:
    """Count, lowest, median, mean, 95th percentile (nearest rank) and highest; None of nothing."""
    known = sorted(float(value) for value in values if value is not None)
    if not known:
        return None
    rank = math.ceil(0.95 * len(known)) - 1
    figures = {
        "lowest": known[0],
        "median": median(known),
        "mean": fmean(known),
        "p95": known[rank],
        "highest": known[-1],
    }
    return {"count": len(known)} | {name: round(value, 4) for name, value in figures.items()}


def _histogram(values: Sequence[float], marks: Sequence[float]) -> dict[str, Any]:
    """`counts[i]` values lie in [start + i * step, start + (i + 1) * step); the last step holds its end too."""
    low, high = min(*values, *marks, 2.0), max(*values, *marks, -2.0)
    low, high = min(low, high - _LEAST_SPAN / 2), max(high, low + _LEAST_SPAN / 2)
    step = next((step for step in _STEPS if (high - low) / step <= _BINS - 2), _STEPS[-1])
    start = math.floor(low / step + 1e-9)
    counts = [0] * max(math.ceil(high / step - 1e-9) - start, 1)
    for value in values:
        counts[min(math.floor(value / step + 1e-9) - start, len(counts) - 1)] += 1
    return {"start": round(start * step, 4), "step": step, "counts": counts}


def _models(rows: Sequence[Row]) -> list[dict[str, Any]]:
    versions = Counter(row.model_version for row in rows if row.model_version)
    return [
        {"model_version": version, "images": count, "weights": list(weights_of(version))}
        for version, count in sorted(versions.items())
    ]


def _counts(words: Iterable[str | None]) -> dict[str, int]:
    return dict(sorted(Counter(word or "unknown" for word in words).items()))


def _time(moment: datetime | None) -> str | None:
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z") if moment else None
