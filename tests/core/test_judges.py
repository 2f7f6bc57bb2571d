"""Recognisers that only judge, and what stands about each model version."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from refacex_core.errors import RecogniserUnknown
from refacex_core.gates import GATE, STRANGERS
from refacex_core.pipeline import Core
from refacex_core.recognisers import REGISTRY, judges
from refacex_core.types import Released
from refacex_core.versions import CURRENT, MODELS, version_name, weights_of
from tests.core.conftest import Vault


def test_a_judge_sees_what_the_gate_sees_and_decides_nothing(
    core: Core, vault: Vault, photographs: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(core, "_judges", judges([GATE, "dlib"]))
    (outcome,) = core.anonymise([vault.item(photographs["astronaut"])])
    assert isinstance(outcome, Released)
    (face,) = outcome.faces
    assert face.judged.keys() == {GATE, "dlib"}
    assert face.audit_similarity is not None  # the greatest of several places, the original's among them
    assert face.audit_similarity - 0.2 < face.judged[GATE] <= face.audit_similarity + 1e-3
    assert 0.5 < face.judged["dlib"] < 1.0 and outcome.timings_ms["judge"] > 0


def test_the_gate_is_no_judge_by_default_and_what_is_not_installed_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {judge.name for judge in judges()} == REGISTRY.keys() - {GATE}
    assert judges([]) == []
    with pytest.raises(RecogniserUnknown, match="nobody"):
        judges(["nobody"])
    monkeypatch.setitem(sys.modules, "dlib", None)  # as where the `evaluation` extra is not installed
    assert judges() == []
    with pytest.raises(ImportError):
        judges(["dlib"])


@pytest.mark.parametrize("model_id", MODELS)
def test_every_version_knows_its_weights(model_id: int) -> None:
    weights = {one["name"]: one for one in weights_of(version_name(model_id))}
    assert {MODELS[model_id].channel, MODELS[model_id].recovery, "anonymiser", "donors"} <= weights.keys()
    assert all(len(one["sha256"]) == 64 and one["card"]["rights"] for one in weights.values())
    assert len({one["sha256"] for one in weights.values()}) == len(weights)


def test_what_strangers_get_is_what_was_measured() -> None:
    measured = json.loads((Path(__file__).parents[2] / "training" / "results" / "robust.json").read_text())
    identity = measured["lfw"]["identity"]
    assert {name: round(identity[name]["impostor_cosine"], 3) for name in STRANGERS} == STRANGERS


def test_an_unknown_version_has_none() -> None:
    assert weights_of(version_name(CURRENT + 1)) == weights_of("stand-in-1") == ()
