"""The evaluation as a page with plots: one HTML file beside the contact sheets, drawn from `training/results/*.json`.

    python -m training.page --out out/evaluation

`training.evaluate` writes it as well.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from typing import Any

from training.identities import BINS
from training.table import cell, outcomes, percent

COLOURS = {
    "impostor": "#8a949e",
    "genuine": "#2e7d4f",
    "released": "#2f6f9f",
    "donor_paste": "#c98a1b",
    "donor_paste_gated": "#b3361e",
}
WORDS = {
    "impostor": "two people",
    "genuine": "two photographs of one person",
    "released": "original and release",
    "donor_paste": "original and donor paste",
    "donor_paste_gated": "original and gated donor paste",
}
WIDTH, HEIGHT = 640, 190
_STYLE = """
body { margin: 0 auto; max-width: 60rem; padding: 2rem 1.5rem 4rem; color: #1d2329; font: 16px/1.5 system-ui, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.8rem; margin: 0; } h2 { margin: 2.4rem 0 .6rem; border-bottom: 1px solid #d9dee3; } h3 { margin: 1.6rem 0 .3rem; }
table { border-collapse: collapse; font-size: .9rem; margin: .6rem 0; } th, td { padding: .3rem .8rem .3rem 0; text-align: left;
  border-bottom: 1px solid #d9dee3; vertical-align: top; } td + td { font-variant-numeric: tabular-nums; white-space: nowrap; }
svg { display: block; width: 100%; max-width: 640px; height: auto; } .soft { color: #5c6670; } img { width: 100%; margin: .4rem 0; }
.key { display: inline-block; width: .8rem; height: .8rem; margin: 0 .35rem 0 1rem; border-radius: 2px; vertical-align: -1px; }
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/evaluation"))
    parser.add_argument("--results", type=Path, default=Path("training/results"))
    args = parser.parse_args()
    print(write(args.out, args.results))


def write(out: Path, results: Path) -> Path:
    """Writes `out`/index.html from what lies in `results`, with the sheets in `out`; gives its path."""
    found = {path.stem: json.loads(path.read_text()) for path in sorted(results.glob("*.json"))}
    parts = [
        _profile(name, found[name], found.get("geometry", {}), out) for name in ("robust", "archive") if name in found
    ]
    page = out / "index.html"
    out.mkdir(parents=True, exist_ok=True)
    head = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>ReFaceX, evaluated</title><style>{_STYLE}</style>'
    )
    note = (
        "Measured from saved files of people and images that training never saw. SFace decides what is released, so it is no neutral "
        "judge; dlib takes part nowhere; y1 and casia trained the anonymiser."
    )
    page.write_text(f'{head}<h1>ReFaceX, evaluated</h1><p class="soft">{note}</p>' + "".join(parts) + "</html>\n")
    return page


def _profile(name: str, result: Mapping[str, Any], geometry: Mapping[str, Any], out: Path) -> str:
    sets = [key for key, value in result.items() if isinstance(value, dict) and "outcomes" in value]
    return "".join(_set(name, each, result[each], geometry.get(each), out, result["model_version"]) for each in sets)


def _set(
    profile: str, name: str, figures: Mapping[str, Any], geometry: Mapping[str, Any] | None, out: Path, model: str
) -> str:
    rows = [
        ("images: released / held / failed", outcomes(figures["outcomes"])),
        *((f"of them {_plain(why)}", str(count)) for why, count in sorted(figures["outcomes"].items()) if ":" in why),
        ("stego PSNR / SSIM", f"{cell(figures['stego_psnr'], 2)} dB / {cell(figures['stego_ssim'], 3)}"),
        ("payload, bytes a face", f"{figures['payload_bytes']['mean']:.0f}"),
        *((f"Frechet distance, {WORDS[kind]}", f"{value:.1f}") for kind, value in figures.get("frechet", {}).items()),
    ]
    rates = [(k, v) for k, v in figures.items() if k.split("_")[0] in ("face", "decoded", "recovered", "refused")]
    rows += [(_plain(key), percent(value)) for key, value in rates]
    recovered = [
        k[len("recovery_") : -len("_psnr")] for k in figures if k.startswith("recovery_") and k.endswith("_psnr")
    ]
    parts = [
        f"<h2>{escape(name)}, <code>{profile}</code></h2>",
        f'<p class="soft">Model {escape(model)}, commit {escape(figures["commit"])}: <code>{escape(figures["command"])}</code></p>',
        _table(("", ""), rows),
        "<h3>Recovery</h3>",
        _table(
            ("from", "PSNR, dB", "SSIM", "LPIPS", "cosine, SFace"),
            [
                (
                    key,
                    *(
                        cell(figures[f"recovery_{key}_{m}"], d)
                        for m, d in _MEASURES
                        if f"recovery_{key}_{m}" in figures
                    ),
                )
                for key in recovered
            ],
        ),
        "<h3>Who is recognised</h3>",
        *(_recogniser(judge, figures["identity"][judge]) for judge in figures["identity"]),
    ]
    if geometry is not None and profile == "robust":
        kept = [(_plain(key), cell(value, 3)) for key, value in geometry.items()]
        parts += ["<h3>Pose, expression and gaze</h3>", _table(("", ""), kept)]
    sheets = sorted((out / name).glob("sheet_*.png"))
    if sheets and profile == "robust":
        parts.append("<h3>Original, released, recovered, difference × 4: the first forty</h3>")
        parts += [f'<img src="{escape(name)}/{sheet.name}" alt="contact sheet">' for sheet in sheets]
    return "".join(parts)


_MEASURES = (("psnr", 2), ("ssim", 3), ("lpips", 3), ("cosine_sface", 3))


def _recogniser(judge: str, entry: Mapping[str, Any]) -> str:
    kinds = [kind for kind in WORDS if isinstance(entry.get(kind), dict)]
    rows = [
        (
            WORDS[kind],
            *(cell(entry[kind]["cosine"], 3) if m == "cosine" else _share(entry[kind].get(m)) for m in _RATES),
        )
        for kind in kinds
    ]
    words = ("", "cosine", "rank-1", "rank-5", "TAR at FAR 1e-3", "rank-1 by another photograph")
    histograms = entry.get("histograms", {})
    return f"<h4>{escape(judge)}, {entry['gallery']} people</h4>" + _plot(histograms) + _table(words, rows)


_RATES = ("cosine", "rank1", "rank5", "tar", "rank1_another_photograph")


def _plot(histograms: Mapping[str, list[float]]) -> str:
    """Shares of cosines as lines, each to its own greatest value's height together."""
    if not histograms:
        return ""
    top = max(max(shares) for shares in histograms.values())
    step = WIDTH / (len(BINS) - 1)
    lines, keys = [], []
    for kind in (each for each in WORDS if each in histograms):
        points = " ".join(
            f"{(i + 0.5) * step:.1f},{HEIGHT - 20 - (HEIGHT - 30) * share / top:.1f}"
            for i, share in enumerate(histograms[kind])
        )
        dashes = ' stroke-dasharray="4 3"' if kind.startswith("donor") else ""
        lines.append(f'<polyline fill="none" stroke="{COLOURS[kind]}" stroke-width="2"{dashes} points="{points}"/>')
        keys.append(f'<span class="key" style="background:{COLOURS[kind]}"></span>{WORDS[kind]}')
    marks = "".join(
        f'<text x="{(value - BINS[0]) / (BINS[-1] - BINS[0]) * WIDTH:.1f}" y="{HEIGHT - 4}" font-size="11" fill="#5c6670" '
        f'text-anchor="middle">{value:g}</text>'
        for value in (-0.25, 0, 0.25, 0.5, 0.75)
    )
    ground = f'<line x1="0" x2="{WIDTH}" y1="{HEIGHT - 20}" y2="{HEIGHT - 20}" stroke="#d9dee3"/>'
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="cosines">{ground}{"".join(lines)}{marks}</svg>'
        f'<p class="soft">{"".join(keys)}</p>'
    )


def _share(value: Mapping[str, float] | None) -> str:
    return (
        "" if value is None else f"{100 * value['mean']:.1f} % ({100 * value['low']:.1f} – {100 * value['high']:.1f})"
    )


def _plain(key: str) -> str:
    return escape(key.replace("_", " ").replace(":", ": "))


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = ["".join(f"<td>{each}</td>" for each in row) for row in rows]
    return (
        f"<table><tr>{''.join(f'<th>{each}</th>' for each in head)}</tr>"
        + "".join(f"<tr>{line}</tr>" for line in lines)
        + "</table>"
    )


if __name__ == "__main__":
    main()
