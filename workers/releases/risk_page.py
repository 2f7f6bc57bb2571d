"""The risk report as a page for people: one HTML file without a script or anything from elsewhere, fit to be printed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

MOST_ROWS = 200  # of the table of what was not released; the JSON beside the page has them all
WORDS = {
    "no_face": "no face was found in it",
    "face_too_small": "a face is too small to be replaced",
    "face_at_edge": "a face is cut by the edge of the image",
    "face_missed": "a detector saw a face that was not replaced",
    "identity_leak": "a face stayed too like its original with every donor",
    "face_lost": "a replaced face could not be found again",
    "read_back_failed": "the payload did not come back out of the finished file",
    "cancelled": "the release was cancelled first",
    "bad_image": "the file is not an image that can be decoded",
    "image_too_small": "too small to carry what its faces need",
    "already_released": "it is a release already, and its original was wanted",
    "source_missing": "the original could not be read any more",
    "source_refused": "the original lies where the service may not read",
    "source_too_large": "the original is larger than the limit",
}
FIGURES = {"lowest": "lowest", "median": "median", "mean": "mean", "p95": "95th percentile", "highest": "highest"}
_STYLE = """
:root { --ink: #1d2329; --soft: #5c6670; --line: #d9dee3; --fill: #f4f6f8; --blue: #2f6f9f; --red: #b3361e; }
* { box-sizing: border-box; }
html { background: #fff; }
body { margin: 0 auto; max-width: 62rem; padding: 2.5rem 1.5rem 4rem; color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", "Helvetica Neue", "DejaVu Sans", Arial, sans-serif; }
h1 { margin: 0; font-size: 1.9rem; line-height: 1.2; }
h2 { margin: 2.6rem 0 .8rem; padding-bottom: .3rem; border-bottom: 1px solid var(--line); font-size: 1.2rem; }
h3 { margin: 0 0 .3rem; font-size: 1rem; }
p { margin: .5rem 0; max-width: 46rem; }
.soft { color: var(--soft); }
code { font: .85em/1.4 ui-monospace, "DejaVu Sans Mono", Menlo, monospace; overflow-wrap: anywhere; }
.status { margin: 1.2rem 0; padding: .7rem 1rem; border-left: 4px solid var(--blue); background: var(--fill); max-width: none; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.2rem, 1fr)); gap: .8rem; margin: 1.2rem 0; }
.card { padding: .8rem 1rem; border: 1px solid var(--line); border-radius: 6px; }
.card b { display: block; font-size: 1.6rem; line-height: 1.25; font-variant-numeric: tabular-nums; }
.card span { color: var(--soft); font-size: .85rem; line-height: 1.3; display: block; }
.card.warn b { color: var(--red); }
table { width: 100%; border-collapse: collapse; font-size: .9rem; margin: .6rem 0; }
th, td { padding: .4rem .7rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
th:first-child, td:first-child { padding-left: 0; }
th:last-child, td:last-child { padding-right: 0; }
th { color: var(--soft); font-weight: 600; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.k { width: 12rem; color: var(--soft); }
.recogniser { margin: 1.4rem 0 2rem; break-inside: avoid; }
.recogniser .row { display: flex; gap: 1.6rem; flex-wrap: wrap; align-items: flex-start; }
.recogniser .row > div:first-child { flex: 1 1 26rem; min-width: 0; }
.recogniser .row > div:last-child { flex: 1 1 15rem; }
svg { display: block; width: 100%; height: auto; }
li { margin: .35rem 0; max-width: 46rem; }
ul { padding-left: 1.2rem; }
@page { size: A4; margin: 16mm 14mm; }
@media print {
  html { font-size: 11.5px; }
  body { max-width: none; padding: 0; font-size: 1rem; }
  h2 { margin-top: 1.8rem; break-after: avoid; }
  .cards { grid-template-columns: repeat(6, 1fr); gap: .5rem; }
  .card { padding: .5rem .7rem; }
  .recogniser { margin: 1rem 0; }
  .recogniser .row { flex-wrap: nowrap; }
  .recogniser .row > div:first-child { flex: 1 1 0; }
  .recogniser .row > div:last-child { flex: 0 0 15rem; }
  th, td { padding-top: .25rem; padding-bottom: .25rem; }
  tr, .card, li { break-inside: avoid; }
  thead { display: table-header-group; }
}
"""


def render(report: Mapping[str, Any]) -> bytes:
    """The page of a report of `risk.build`. Everything that comes from outside is escaped."""
    body = "".join(
        (
            _head(report),
            _similarity(report),
            _not_released(report),
            _making(report),
            _models(report["models"]),
            _section("What these figures mean", _list(report["meaning"])),
            _section("What they do not prove", _list(report["does_not_prove"])),
            _check(report),
        )
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="robots" content="noindex">'
        f"<title>Risk report {escape(report['release'][:8])}</title><style>{_STYLE}</style></head>"
        f"<body>{body}</body></html>\n"
    ).encode()


def _head(report: Mapping[str, Any]) -> str:
    states = report["images_by_state"]
    held = sum(count for state, count in states.items() if state != "done")
    gate = next(iter(report["similarity_to_source"]), None)
    cards = [
        (str(sum(states.values())), "images submitted", False),
        (str(states.get("done", 0)), "released", False),
        (str(held), "not released", held > 0),
        (str(report["faces_released"]), "faces replaced in them", False),
        (_number(gate["highest"]) if gate else "–", "highest similarity of a face to its original (SFace)", False),
        (_number((report["stego_psnr_db"] or {}).get("median"), 1), "dB, median PSNR of the stego files", False),
    ]
    shown = "".join(
        f'<div class="card{" warn" if warn else ""}"><b>{escape(value)}</b><span>{escape(label)}</span></div>'
        for value, label, warn in cards
    )
    ended = "finished" if report["state"] == "finished" else "cancelled"
    return (
        f"<h1>Risk report</h1><p class=soft>Release <code>{escape(report['release'])}</code> of "
        f"<b>{escape(report['tenant'])}</b>, {ended} {_moment(report['ended_at'])}</p>"
        f"<p class=status>The released images are <b>{escape(report['status'])}</b>.</p>"
        f"<div class=cards>{shown}</div>"
    )


def _similarity(report: Mapping[str, Any]) -> str:
    recognisers = report["similarity_to_source"]
    if not recognisers:
        return _section("How alike released faces and their originals are", "<p>No face was released.</p>")
    limit = report["thresholds"]["released_up_to"]
    parts = []
    for one in recognisers:
        decides = one["role"] == "decides"
        told = (
            f"The gate’s own recogniser: faces above {limit:.2f} are never released."
            if decides
            else "Had no part in making or choosing these faces."
        )
        rows = [(words, _number(one[name])) for name, words in FIGURES.items()]
        if one["strangers_mean"] is not None:
            rows.append(("strangers, mean", _number(one["strangers_mean"])))
        threshold, above = one["same_person_from"], one["share_taken_for_the_same_person"]
        rows.append(("same person from", "not known" if threshold is None else _number(threshold)))
        if above is not None:
            rows.append(("taken for the same", f"{100 * above:.1f} %"))
        figures = "".join(f"<tr><td>{escape(name)}</td><td class=n>{value}</td></tr>" for name, value in rows)
        parts.append(
            f"<div class=recogniser><h3>{escape(_called(one['recogniser']))}</h3>"
            f"<p class=soft>{told} {one['count']} {'face' if one['count'] == 1 else 'faces'}.</p>"
            f"<div class=row><div>{_histogram(one['histogram'], limit if decides else None)}</div>"
            f"<div><table><tbody>{figures}</tbody></table></div></div></div>"
        )
    return _section("How alike released faces and their originals are", "".join(parts))


def _histogram(histogram: Mapping[str, Any], limit: float | None) -> str:
    """Bars of the counts over the similarity (cosine), with a line where a face is no longer released."""
    width, height, left, right, top, bottom = 640, 240, 44, 24, 26, 44
    start, step = float(histogram["start"]), float(histogram["step"])
    counts: list[int] = histogram["counts"]
    end, most = start + step * len(counts), max(counts)
    across, up = width - left - right, height - top - bottom

    def x(value: float) -> float:
        return left + (value - start) / (end - start) * across

    bars = []
    for i, count in enumerate(counts):
        if count:
            tall = up * count / most
            place = f'x="{x(start + i * step) + 1:.1f}" y="{top + up - tall:.1f}"'
            wide = max(across / len(counts) - 2, 1)
            told = f"{count} from {start + i * step:.3g} to {start + (i + 1) * step:.3g}"
            bars.append(
                f'<rect {place} width="{wide:.1f}" height="{tall:.1f}" fill="#2f6f9f"><title>{told}</title></rect>'
            )
    base = top + up
    parts = [*bars, f'<line x1="{left}" y1="{base}" x2="{width - right}" y2="{base}" stroke="#5c6670"/>']
    for value in _ticks(start, end):
        parts.append(f'<line x1="{x(value):.1f}" y1="{base}" x2="{x(value):.1f}" y2="{base + 5}" stroke="#5c6670"/>')
        parts.append(_text(x(value), base + 19, _number(value, 2)))
    parts.append(_text(left + across / 2, height - 6, "similarity to the original (cosine)"))
    parts.append(_text(left - 8, top + 4, str(most), "end") + _text(left - 8, base + 4, "0", "end"))
    if limit is not None:
        at = x(limit)
        parts.append(
            f'<line x1="{at:.1f}" y1="{top - 8}" x2="{at:.1f}" y2="{base}" stroke="#b3361e" stroke-width="1.5" '
            f'stroke-dasharray="5 4"/>' + _text(at, top - 13, f"not released above {limit:.2f}", "end", "#b3361e")
        )
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="Histogram of similarities" '
        f'font-size="13" font-family="inherit">{"".join(parts)}</svg>'
    )


def _ticks(start: float, end: float) -> list[float]:
    """Round values from start to end that get a number: at most eight."""
    apart = next(apart for apart in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5) if (end - start) / apart <= 8)
    first, last = math.ceil(start / apart - 1e-9), math.floor(end / apart + 1e-9)
    return [i * apart for i in range(first, last + 1)]


def _text(x: float, y: float, words: str, anchor: str = "middle", fill: str = "#5c6670") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{fill}">{escape(words)}</text>'


def _not_released(report: Mapping[str, Any]) -> str:
    title = "What was not released, and why"
    left = [image for image in report["images"] if image["state"] != "done"]
    if not left:
        return _section(title, "<p>Nothing: every image was released.</p>")
    reasons = "".join(
        f"<tr><td><code>{escape(reason)}</code></td><td>{escape(_explained(reason))}</td><td class=n>{count}</td></tr>"
        for reason, count in sorted(report["not_released"].items(), key=lambda one: -one[1])
    )
    rows = []
    for image in left[:MOST_ROWS]:
        gate = [face["similarity_to_source"].get("sface") for face in image["faces"]]
        worst = max((value for value in gate if value is not None), default=None)
        rows.append(
            f"<tr><td class=n>{image['position']}</td><td><code>{escape(image['item'])}</code></td>"
            f"<td>{escape(image['state'])}</td><td><code>{escape(image['reason'] or 'unknown')}</code></td>"
            f"<td class=n>{len(image['faces']) or '–'}</td><td class=n>{_number(worst)}</td></tr>"
        )
    more = f"<p class=soft>And {len(left) - MOST_ROWS} more, in the JSON beside this page.</p>"
    return _section(
        title,
        "<table><thead><tr><th>reason</th><th>in words</th><th class=n>images</th></tr></thead>"
        f"<tbody>{reasons}</tbody></table>"
        "<table><thead><tr><th class=n>position</th><th>item</th><th>state</th><th>reason</th><th class=n>faces</th>"
        f"<th class=n>SFace</th></tr></thead><tbody>{''.join(rows)}</tbody></table>"
        + (more if len(left) > MOST_ROWS else ""),
    )


def _explained(reason: str) -> str:
    """A reason in plain words; a quarantined item's ends in the code of its last try."""
    first, _, code = reason.partition(": ")
    if first == "attempts_used_up":
        return f"tried three times and set aside ({WORDS.get(code, code)})"
    return WORDS.get(reason, "see the code")


def _making(report: Mapping[str, Any]) -> str:
    made, policy, gates = report["made_as"], report["policy"], report["thresholds"]
    form = made["format"] + (f" at quality {made['quality']}" if made["quality"] else "")
    rules = f"<br><code>{escape(policy['sha256'])}</code>" if policy["sha256"] else ""
    rows = [
        ("operator", escape(report["operator"])),
        ("submitted", _moment(report["submitted_at"])),
        ("ended", _moment(report["ended_at"])),
        ("policy", f"{escape(policy['name'])}{rules}"),
        ("images without a face", "held" if policy["images_without_face"] == "hold" else "released as they are"),
        ("profile and format", f"{escape(made['profile'])}, {escape(form)}"),
        ("donors", escape(made["donors"])),
        (
            "thresholds",
            f"SFace: good enough at {gates['good_enough']:.2f} and {gates['good_enough_over_views']:.2f} over three views, released up to "
            f"{gates['released_up_to']:.2f}, same person from {gates['same_person_from']}; faces from "
            f"{gates['smallest_face_pixels']:.0f} pixels",
        ),
        ("likeness to the donor", _spread(report["similarity_to_donor"], 3)),
        ("stego PSNR", _spread(report["stego_psnr_db"], 1, " dB")),
        ("payload a face", _spread(report["payload_bytes_a_face"], 0, " bytes")),
    ]
    cells = "".join(f"<tr><td class=k>{name}</td><td>{value}</td></tr>" for name, value in rows)
    return _section("How it was made", f"<table><tbody>{cells}</tbody></table>")


def _models(models: Sequence[Mapping[str, Any]]) -> str:
    parts = []
    for model in models:
        rows = "".join(_weights(one) for one in model["weights"])
        images = f"{model['images']} {'image' if model['images'] == 1 else 'images'}"
        table = (
            "<table><thead><tr><th>weights</th><th>trained on</th><th class=n>images</th><th class=n>minutes</th>"
            f"<th>SHA-256</th></tr></thead><tbody>{rows}</tbody></table>"
            if rows
            else "<p class=soft>This program knows no card of it.</p>"
        )
        rights = sorted({one["card"].get("rights", "") for one in model["weights"]} - {""})
        parts.append(
            f"<h3>{escape(model['model_version'])}, {images}</h3>{table}"
            + "".join(f"<p class=soft>{escape(line)}</p>" for line in rights)
        )
    return _section("The model’s card", "".join(parts)) if parts else ""


def _weights(one: Mapping[str, Any]) -> str:
    card = one["card"]
    trained = card.get("trained", {})
    runs = trained if isinstance(trained, list) else [trained]  # of averaged weights there are several
    images, minutes = (" + ".join(str(run.get(name, "–")) for run in runs) for name in ("images", "minutes"))
    return (
        f"<tr><td>{escape(one['name'])}</td><td>{escape(', '.join(card.get('data', ())))}</td>"
        f"<td class=n>{escape(images)}</td><td class=n>{escape(minutes)}</td>"
        f"<td><code>{escape(one['sha256'][:16])}…</code></td></tr>"
    )


def _check(report: Mapping[str, Any]) -> str:
    return _section(
        "How to check this page",
        "<p>Its SHA-256 stands as <code>page_sha256</code> in the JSON file beside it, which "
        "holds every face’s figures. That file’s own SHA-256 stands in the audit trail, in the event "
        f"<code>release:reported</code> of release <code>{escape(report['release'])}</code>; <code>refacex release "
        "risk</code> fetches both and checks them. Images are named by item and position: the submitter’s own names, "
        "and whom the images show, are in neither.</p>",
    )


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>"


def _list(lines: Iterable[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def _called(recogniser: str) -> str:
    return {"sface": "SFace", "dlib": "dlib ResNet"}.get(recogniser, recogniser)


def _number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}".replace("-", "−")


def _spread(figures: Mapping[str, Any] | None, digits: int, unit: str = "") -> str:
    if figures is None:
        return "–"
    low, middle, high = (_number(figures[name], digits) for name in ("lowest", "median", "highest"))
    return f"median {middle}{unit} ({low} to {high})"


def _moment(text: str | None) -> str:
    return escape(text.replace("T", " ").replace("Z", " UTC")) if text else "not yet"
