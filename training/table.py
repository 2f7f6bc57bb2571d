"""Draw the README's table from `training/results/*.json`.

python -m training.table
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

README = Path("README.md")
START, END = "<!-- results -->\n", "<!-- /results -->"
KINDS = ("released", "donor_paste", "donor_paste_gated")
SETS = (("lfw", "LFW"), ("celebahq", "CelebA-HQ"))


def main() -> None:
    """Replace what stands between the marks."""
    text = README.read_text()
    before, rest = text.split(START)
    _, after = rest.split(END)
    results = Path("training/results")
    found = [json.loads(path.read_text()) for path in sorted(results.glob("*.json"))]
    measured = [result for result in found if "profile" in result]
    parts = [table(result) for result in sorted(measured, key=lambda result: result["profile"] != "robust")]
    for name, draw in (("geometry", geometry), ("attacks", attacks), ("channels", channels), ("codecs", codecs)):
        if (results / f"{name}.json").exists():
            parts.append(draw(json.loads((results / f"{name}.json").read_text())))
    README.write_text(before + START + "\n" + "\n\n".join(parts) + "\n\n" + END + after)


def table(result: dict[str, Any]) -> str:
    """One profile."""
    rows = [
        f"`{result['profile']}`, model `{result['model_version']}`, 95 % intervals:\n",
        "| | " + " | ".join(label for _, label in SETS) + " |",
        "|---|" + "---|" * len(SETS),
    ]
    sets = [result[key] for key, _ in SETS]
    rows.append(row("images: released / held / failed", [outcomes(s["outcomes"]) for s in sets]))
    rows += [identity_row(sets, name, kind) for name in ("sface", "dlib") for kind in KINDS]
    rows += [tar_row(sets, name) for name in ("sface", "dlib")]
    rows += [line for name in ("sface", "dlib") if (line := leak_row(sets, name)) is not None]
    rows.append(row("Frechet distance: " + " / ".join(KINDS).replace("_", " "), [frechet(s["frechet"]) for s in sets]))
    missed = ("yunet", "centerface", "both")
    rows += [row(f"face missed by {n}", [percent(s[f"face_missed_by_{n}"]) for s in sets]) for n in missed]
    rows.append(row("face found again in the release", [percent(s["face_found_again"]) for s in sets]))
    rows.append(row("stego PSNR / SSIM", [f"{cell(s['stego_psnr'], 2)} dB / {cell(s['stego_ssim'], 3)}" for s in sets]))
    rows.append(row("payload, bytes a face", [f"{s['payload_bytes']['mean']:.0f}" for s in sets]))
    keys = list(sets[0])
    rows += [row(f"payload decoded, {k[8:]}", [percent(s[k]) for s in sets]) for k in keys if k.startswith("decoded_")]
    rows += [recovery_row(sets, k) for k in ("png", "jpeg85", "jpeg75") if f"recovery_{k}_psnr" in sets[0]]
    refused = [k for k in keys if k.startswith("refused_")]
    rows += [row(f"refused: {k[8:].replace('_', ' ')}", [percent(s[k]) for s in sets]) for k in refused]
    return "\n".join(rows)


def geometry(result: dict[str, Any]) -> str:
    """What of pose, expression and gaze is kept."""
    found = [result[key] for key, _ in SETS]
    rows = [
        f"Between original and release, by {result['judge']} (shapes: shares of the distance of the outer eye corners):\n",
        "| | " + " | ".join(label for _, label in SETS) + " |",
        "|---|" + "---|" * len(SETS),
    ]
    for key in found[0]:
        show = percent if key == "found_again" else lambda value: f"{cell(value, 3)} (n = {value['n']})"
        rows.append(row(key.replace("_", " "), [show(each[key]) for each in found]))
    return "\n".join(rows)


def attacks(result: dict[str, Any]) -> str:
    """What somebody without a key learns from releases."""
    gallery, learnt = result["gallery"], result["pairs"]["lfw-train"]
    inverter, retrained, linkage = result["inverter"], result["retrained_recogniser"], result["residual_linkage"]
    both = ("sface", "dlib")
    found = {
        **{f"{name} as it is, rank-1": _range(result["untouched"][name]["rank1"]) for name in both},
        **{
            f"{who}, rank-1 {when}{by.replace('_', ' ')}": _range(found[f"{when}{by}"]["rank1"])
            for who, found in (
                ("a recogniser retrained on the pairs", retrained),
                ("the same where the face is cut out", result["retrained_without_the_face"]),
            )
            for by in ("", "_by_another_photograph")
            for when in ("before", "after")
        },
        **{f"a network that paints the original, rank-1 by {name}": _range(inverter[name]["rank1"]) for name in both},
        **{
            f"the same by another photograph, by {name}": _range(inverter["by_another_photograph"][name]["rank1"])
            for name in both
        },
        "PSNR of what it paints (of the release)": f"{cell(inverter['psnr'], 1)} dB ({cell(inverter['psnr_of_the_release'], 1)})",
        "the source's template, guessed from its donor, rank-1": _range(result["donor"]["rank1"]),
        "a donor recognised in the release by sface": percent(
            result["donor_choice"]["the_original"]["donor_recognised"]
        ),
        **{
            f"{what}, from {known.replace('_', ' ')}": show(result["donor_choice"][known][key])
            for known in ("the_original", "another_photograph")
            for what, key, show in (
                ("a known donor is further from the source than from strangers, AUC", "apart", _area),
                ("a known donor looks more like the source than like strangers, AUC", "looks", _area),
                ("the same, rank-1", "looks_rank1", _range),
            )
        },
        "two releases of one person by their residuals, AUC": _area(linkage["released_file"]),
        "the same of the faces' crops, AUC": _area(linkage["released_face"]),
        "two originals by the same, AUC": _area(linkage["original_face"]),
        **{f"in the training data or not, by {name}, AUC": _area(result["membership"][name]) for name in both},
        **{
            f"raw bits that are right at the places of {name.replace('_', ' ')}": percent(value)
            for name, value in result["extractor"].items()
        },
    }
    if common := result["donor_choice"].get("in_common"):
        found["two releases of one person by donors in common, AUC"] = _area(common)
    what = f"Attacks without a key, learnt on {learnt} pairs of original and release, tried on {gallery} people"
    head = [f"{what} (chance: {100 / gallery:.1f} %):\n", "| attack | result |", "|---|---|"]
    return "\n".join(head + [row(label, [each]) for label, each in found.items()])


def tar_row(sets: list[dict[str, Any]], name: str) -> str:
    """How many releases a recogniser takes for their original at FAR 1e-3."""
    cells = [_range(s["identity"][name]["released"]["tar"]) for s in sets]
    return row(f"{name}, released: TAR at FAR 1e-3", cells)


def frechet(values: dict[str, float]) -> str:
    """In the order of the kinds."""
    return " / ".join(f"{values[kind]:.1f}" for kind in KINDS)


def _range(value: dict[str, float]) -> str:
    return f"{100 * value['mean']:.1f} % ({100 * value['low']:.1f} – {100 * value['high']:.1f}, n = {value['n']})"


def _area(value: dict[str, float]) -> str:
    return f"{value['auc']:.3f} ({value['low']:.3f} – {value['high']:.3f}, n = {value['n']})"


def channels(result: dict[str, Any]) -> str:
    """The learned channel beside parity QIM."""
    coders = (("learned", "learned"), ("parity_qim", "parity QIM, RS (255, 231)"))
    sets = ("lfw-val", "celebahq256-val")
    columns = [(s, c) for s in sets for c, _ in coders]
    rows = [
        f"Channel `{result['weights']}` and the baseline at {result['net_bytes']} net bytes in 256 x 256 pixels, decoded after:\n",
        "| | " + " | ".join(f"{label}, {name}" for name in ("LFW", "CelebA-HQ") for _, label in coders) + " |",
        "|---|" + "---|" * len(columns),
    ]
    for key in result[sets[0]]["learned"]:
        cells = [result[s][c][key] for s, c in columns]
        if key.endswith(("psnr", "ssim")):
            digits = 2 if key.endswith("psnr") else 3
            rows.append(row(key.replace("_", " "), [cell(c, digits) for c in cells]))
        else:
            rows.append(row(key, [percent(c) for c in cells]))
    return "\n".join(rows)


def codecs(result: dict[str, Any]) -> str:
    """The payload codec beside others at equal bytes."""
    sets, budgets = ("lfw-val", "celebahq256-val"), ("800", "1200")
    columns = [(s, budget) for s in sets for budget in budgets]
    rows = [
        "The payload codec alone at equal bytes: PSNR in the mask / SSIM / LPIPS / cosine (SFace):\n",
        "| | " + " | ".join(f"{name}, {budget} bytes" for name in ("LFW", "CelebA-HQ") for budget in budgets) + " |",
        "|---|" + "---|" * len(columns),
    ]
    names = result[sets[0]][budgets[0]]
    return "\n".join([*rows, *(row(name, [_coded(result[s][b][name]) for s, b in columns]) for name in names)])


def _coded(value: dict[str, Any]) -> str:
    if "psnr_in_mask" not in value:
        return "none fits"
    ssim, lpips, cosine = (value[key]["mean"] for key in ("ssim", "lpips", "cosine_sface"))
    fits = "" if value["fits"]["mean"] == 1 else f", {100 * value['fits']['mean']:.0f} % fit"
    return f"{cell(value['psnr_in_mask'], 1)} dB / {ssim:.3f} / {lpips:.3f} / {cosine:.3f} (n = {value['fits']['n']}{fits})"


def identity_row(sets: list[dict[str, Any]], name: str, kind: str) -> str:
    """How near releases, or the baseline's, are to their originals by one recogniser."""
    by = [s["identity"][name] for s in sets]
    cells = [f"{cell(c[kind]['cosine'], 3)} ({c['impostor_cosine']:.3f}), {percent(c[kind]['rank1'])}" for c in by]
    return row(f"{name}, {kind.replace('_', ' ')}: cosine to the original (impostors), rank-1", cells)


def leak_row(sets: list[dict[str, Any]], name: str) -> str | None:
    """What is left of a person between strangers (0) and another photograph (1), and rank-1 by that photograph alone."""
    cells = [
        f"{cell(released['leak'], 3)}, {percent(released['rank1_another_photograph'])}" if "leak" in released else ""
        for released in (s["identity"][name]["released"] for s in sets)
    ]
    return row(f"{name}, released: leak, rank-1 by another photograph", cells) if any(cells) else None


def recovery_row(sets: list[dict[str, Any]], key: str) -> str:
    """How good the recovered crop is from one kind of file."""
    cells = []
    for s in sets:
        ssim, lpips, cosine = (s[f"recovery_{key}_{m}"]["mean"] for m in ("ssim", "lpips", "cosine_sface"))
        psnr = s[f"recovery_{key}_psnr"]
        cells.append(f"{cell(psnr, 2)} dB ({psnr['min']:.1f}) / {ssim:.3f} / {lpips:.3f} / {cosine:.3f}")
    return row(f"recovery from {key}: PSNR (lowest) / SSIM / LPIPS / cosine (SFace)", cells)


def row(label: str, cells: list[str]) -> str:
    """A line of the table."""
    return f"| {label} | " + " | ".join(cells) + " |"


def outcomes(counts: dict[str, int]) -> str:
    """Released / held / failed."""
    held = sum(v for k, v in counts.items() if k.startswith("held"))
    failed = sum(v for k, v in counts.items() if k.startswith("failed"))
    return f"{counts.get('released', 0)} / {held} / {failed}"


def cell(value: dict[str, float], digits: int) -> str:
    """A mean with half the width of its interval."""
    return f"{value['mean']:.{digits}f} ± {(value['high'] - value['low']) / 2:.{digits}f}"


def percent(value: dict[str, float]) -> str:
    """A share in percent, with n."""
    return f"{100 * value['mean']:.1f} % (n = {value['n']})"


if __name__ == "__main__":
    main()
