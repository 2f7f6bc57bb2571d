"""The content of a risk report, and its page."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refacex_core.gates import MOST_SIMILARITY
from refacex_core.types import HoldReason
from refacex_core.versions import CURRENT, MODELS, version_name
from schemas.states import ItemState, ReleaseState
from schemas.tables import Item, Release
from workers.releases import risk, risk_page

NAMES = ("anna.png", "Anna's party")


def release(**values: Any) -> Release:
    given = {
        "id": UUID(int=7),
        "tenant": "acme",
        "name": NAMES[1],
        "profile": "robust",
        "format": "jpeg",
        "quality": 90,
        "donor_policy": "random",
        "policy": {"name": "press", "sha256": "ab" * 32},
        "on_no_face": "hold",
        "state": ReleaseState.FINISHED,
        "submitted_by": "sam",
        "created_at": datetime(2026, 1, 2, 3, tzinfo=UTC),
        "finished_at": datetime(2026, 1, 2, 4, tzinfo=UTC),
    }
    return Release(**(given | values))


def face(number: int, similarity: float | None, **values: Any) -> dict[str, Any]:
    given = {"index": number, "box": [1, 2, 3, 4], "donor": "d5", "donor_similarity": 0.5, "payload_bytes": 700}
    judged = {"dlib": 0.9} if similarity is not None else {}
    return given | {"audit_similarity": similarity, "judged": judged, "donors_tried": 2, "reason": None} | values


def row(position: int, state: ItemState, faces: list[dict[str, Any]], reason: str | None = None) -> risk.Row:
    done = state is ItemState.DONE
    item = Item(
        id=UUID(int=position),
        position=position,
        relative_name=NAMES[0],
        source_uri=f"file:///photographs/{NAMES[0]}",
        subject_id=UUID(int=99),
        state=state,
        reason=reason,
        attempts=1,
        sha256="c" * 64 if done else None,
        size_bytes=1000,
        width=64,
        height=48,
        stego_psnr=40.0 + position,
        report={"faces": faces, "payload_bytes": 800, "timings_ms": {"detect": 1.0}},
    )
    return risk.Row(item, version_name(CURRENT) if done else None)


ROWS = [
    row(0, ItemState.DONE, [face(0, 0.1), face(1, -0.05)]),
    row(1, ItemState.DONE, [face(0, 0.2)]),
    row(2, ItemState.HELD, [face(0, 0.42, reason="identity_leak")], "identity_leak"),
    row(3, ItemState.FAILED, [], "bad_image"),
    row(4, ItemState.QUARANTINED, [], "attempts_used_up: worker_lost"),
]


def test_a_report_counts_released_and_held_faces_apart() -> None:
    report = risk.build(release(), ROWS)
    assert report["images_by_state"] == {"done": 2, "failed": 1, "held": 1, "quarantined": 1}
    assert report["not_released"] == {"attempts_used_up: worker_lost": 1, "bad_image": 1, "identity_leak": 1}
    assert (report["faces_released"], report["faces_not_released"]) == (3, 1)
    assert report["faces_held_for"] == {"identity_leak": 1}
    sface, dlib = report["similarity_to_source"]
    assert (sface["recogniser"], sface["role"], sface["count"]) == ("sface", "decides", 3)
    assert (sface["lowest"], sface["median"], sface["p95"], sface["highest"]) == (-0.05, 0.1, 0.2, 0.2)
    assert sface["share_taken_for_the_same_person"] == 0.0
    assert (dlib["role"], dlib["same_person_from"], dlib["share_taken_for_the_same_person"]) == ("judges", None, None)
    assert report["stego_psnr_db"]["count"] == 2 and report["payload_bytes_a_face"]["mean"] == 700
    assert report["policy"]["sha256"] == "ab" * 32 and report["operator"] == "sam"
    assert dlib["strangers_mean"] > sface["strangers_mean"] > 0
    held = report["images"][2]["faces"][0]
    assert (held["released"], held["reason"], held["similarity_to_source"]["sface"]) == (False, "identity_leak", 0.42)


def test_a_face_above_the_same_person_threshold_is_counted() -> None:
    """No gate lets one through; were it broken, the report would say so."""
    report = risk.build(release(), [row(0, ItemState.DONE, [face(0, 0.31), face(1, 0.1)])])
    assert report["similarity_to_source"][0]["share_taken_for_the_same_person"] == 0.5


@pytest.mark.parametrize(
    "report",
    [
        [1],
        "x",
        {"faces": 5},
        {"faces": [5], "payload_bytes": "x"},
        {
            "faces": [
                {"audit_similarity": "x", "index": [], "reason": {}, "donors_tried": None, "payload_bytes": 10**400}
            ]
        },
        {"faces": [{"judged": [1]}, {"judged": {"dlib": "x"}, "donor_similarity": True}]},
    ],
)
@pytest.mark.parametrize("state", [ItemState.DONE, ItemState.HELD])
def test_nothing_that_stands_in_an_images_report_stops_its_releases(report: Any, state: ItemState) -> None:
    """Whoever stole a release worker's role writes there what they like."""
    strange = row(9, state, [], "identity_leak")
    strange.item.report = report
    built = risk.build(release(), [*ROWS, strange])
    assert built["images"][-1]["item"] == str(UUID(int=9))
    assert len(risk_page.render(built)) > 1000 and risk.encode(built)


def test_the_models_cards_come_with_it() -> None:
    (model,) = risk.build(release(), ROWS)["models"]
    assert (model["model_version"], model["images"]) == (version_name(CURRENT), 2)
    assert {"anonymiser", "donors", MODELS[CURRENT].recovery} < {one["name"] for one in model["weights"]}
    assert all(len(one["sha256"]) == 64 and one["card"]["data"] for one in model["weights"])
    assert risk.build(release(), [risk.Row(ROWS[0].item, "stand-in-1")])["models"][0]["weights"] == []


def test_weights_averaged_from_several_runs_show_each_of_them() -> None:
    report = risk.build(release(), ROWS)
    card = report["models"][0]["weights"][0]["card"]
    card["trained"] = [{"images": 31, "minutes": 1.5}, {"images": 41}]
    page = risk_page.render(report).decode()
    assert ">31 + 41<" in page and ">1.5 + –<" in page


def test_neither_part_names_a_file_a_release_or_a_subject() -> None:
    report = risk.build(release(), ROWS)
    for part in (risk.encode(report), risk_page.render(report)):
        assert b"anna" not in part.lower() and b"photographs/" not in part and str(UUID(int=99)).encode() not in part


def test_the_same_rows_give_the_same_bytes() -> None:
    first, second = (risk.build(release(), ROWS) for _ in range(2))
    assert risk.encode(first) == risk.encode(second) and risk_page.render(first) == risk_page.render(second)


def test_a_release_of_which_nothing_came_has_a_report_too() -> None:
    report = risk.build(release(state=ReleaseState.CANCELLED), [row(0, ItemState.FAILED, [], "cancelled")])
    assert report["similarity_to_source"] == [] and report["stego_psnr_db"] is None and report["models"] == []
    page = risk_page.render(report).decode()
    assert "No face was released." in page and "cancelled first" in page


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=80), st.lists(st.floats(-1, 1), max_size=2))
def test_a_histogram_holds_every_value_once(values: list[float], marks: list[float]) -> None:
    histogram = risk._histogram(values, marks)
    start, step, counts = histogram["start"], histogram["step"], histogram["counts"]
    assert sum(counts) == len(values) and 1 <= len(counts) <= 30 and min(counts) >= 0
    end = start + step * len(counts)
    assert all(start - 1e-6 <= value <= end + 1e-6 for value in [*values, *marks])


class Tags(HTMLParser):
    """Every tag with its attributes, and whether what was opened is closed in order."""

    VOID = frozenset({"meta", "br", "rect", "line"})

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_the_page_stands_alone_and_what_comes_from_outside_is_escaped() -> None:
    evil = "<script>alert(1)</script>"
    policy = {"name": f'"{evil}', "sha256": evil}
    rows = [*ROWS, row(5, ItemState.FAILED, [], evil)]
    page = risk_page.render(risk.build(release(tenant=evil, submitted_by=evil, policy=policy), rows)).decode()
    tags = Tags()
    tags.feed(page)
    assert tags.open == [] and page.count("&lt;script&gt;") == 6
    assert not {"script", "link", "img", "iframe", "a", "object"} & {tag for tag, _ in tags.seen}
    assert not any(name.startswith("on") or name in ("src", "href") for _, attrs in tags.seen for name in attrs)
    assert not re.search(r"url\(|@import|https?:", page)
    assert "default-src 'none'" in page


def test_the_page_shows_the_gates_line_and_a_bar_for_each_step_that_has_faces() -> None:
    report = risk.build(release(), ROWS)
    page = risk_page.render(report).decode()
    assert f"not released above {MOST_SIMILARITY:.2f}" in page
    bars = sum(count > 0 for one in report["similarity_to_source"] for count in one["histogram"]["counts"])
    assert page.count("<rect ") == bars
    assert all(report["images"][i]["item"] in page for i in (2, 3, 4)) and report["images"][0]["item"] not in page


def test_a_long_table_ends_and_says_so() -> None:
    rows = [row(n, ItemState.HELD, [], "no_face") for n in range(risk_page.MOST_ROWS + 3)]
    page = risk_page.render(risk.build(release(), rows)).decode()
    assert "And 3 more" in page and page.count("<td>held</td><td><code>") == risk_page.MOST_ROWS


@pytest.mark.parametrize("reason", [each.value for each in HoldReason])
def test_every_reason_to_hold_has_its_words(reason: str) -> None:
    assert reason in risk_page.WORDS


def test_the_report_is_json_without_surprises() -> None:
    assert json.loads(risk.encode(risk.build(release(), ROWS)))["v"] == risk.VERSION
