"""`refacex audit acknowledge` as an auditor uses it: with their own key file, on a lie that somebody with a stolen role wrote."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway.cli import verifying
from schemas.audit import AuditEvent
from tests.gateway.test_trail import Refacex, refacex, world
from tests.governance import World
from workers.audit import append
from workers.custody import keys

__all__ = ["refacex", "world"]

REASON = ("--reason", "stolen-worker-role")


def lie(world: World, item: int = 0) -> None:
    with world.as_("release").begin() as session:
        about = {"release": world.release, "item": world.items[item]}
        append(session, AuditEvent.ITEM_HELD, actor="release-worker", **about)


@pytest.fixture
def auditor(refacex: Refacex, world: World, tmp_path: Path) -> Path:
    """The key file of ina's, an auditor of the service and on the roster."""
    file = tmp_path / "ina.json"
    public = refacex("person", "new-key", file).stdout.strip()
    added = ["--public", public, "--tenant", "acme", "--role", "auditor"]
    refacex("person", "add", "ina", *added, "--without-roster")
    refacex("roster", "add", "ina", *added, "--roster", world.roster)
    return file


def test_a_lie_is_acknowledged_on_the_command_line(refacex: Refacex, world: World, auditor: Path) -> None:
    lie(world)
    verify = ["audit", "verify", "--roster", world.roster]
    (before,) = [json.loads(line) for line in refacex(*verify, "--json", ok=False).stdout.splitlines()]
    ((finding),) = before["findings"]
    shown = refacex(*verify, ok=False).stdout
    assert f"{finding['id'][:12]}  {finding['where']}: item:held, and it is not so [row]" in shown
    assert "THE TRAIL DOES NOT HOLD: 1 finding\n" in shown
    acknowledge = ["audit", "acknowledge", finding["id"][:12], "--as", "ina", "--key", auditor, *REASON]
    asked = refacex(*acknowledge, ok=False)
    assert finding["where"] in asked.stderr
    assert refacex(*verify, ok=False).stdout == shown, "nobody said yes"
    told = refacex(*acknowledge, "--yes", "--roster", world.roster).stderr
    assert "acknowledged as event" in told
    shown = refacex(*verify).stdout
    assert (
        f"{finding['id'][:12]}  {finding['where']}: item:held, and it is not so [row] acknowledged by ina on " in shown
    )
    assert "UTC (stolen-worker-role)\n" in shown
    assert "the trail holds; acknowledged by auditors: 1 finding\n" in shown
    (after,) = [json.loads(line) for line in refacex(*verify, "--json").stdout.splitlines()]
    ((told),) = after["acknowledged"]
    assert (after["ok"], after["findings"], told | {"by": 0}) == (True, [], finding | {"by": 0})
    ((by),) = told["by"]
    assert (by["who"], by["tenant"], by["reason"]) == ("ina", "acme", "stolen-worker-role")
    assert "was acknowledged before" in refacex(*acknowledge, "--yes", ok=False).stderr
    lie(world, 1)
    assert (
        "THE TRAIL DOES NOT HOLD: 1 finding; acknowledged by auditors: 1 finding" in refacex(*verify, ok=False).stdout
    )


def test_how_many_findings_are_left_out_is_said(
    refacex: Refacex, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for item in (0, 1):
        lie(world, item)
    assert "more" not in refacex("audit", "verify", ok=False).stdout
    monkeypatch.setattr(verifying, "_SHOWN", 1)
    shown = refacex("audit", "verify", ok=False).stdout
    assert (
        shown.count("item:held") == 1 and "and 1 finding more: `refacex audit verify --json` gives all of them" in shown
    )
    assert len(json.loads(refacex("audit", "verify", "--json", ok=False).stdout)["findings"]) == 2


def test_what_is_wrong_is_said(refacex: Refacex, world: World, auditor: Path, tmp_path: Path) -> None:
    lie(world)
    (found,) = json.loads(refacex("audit", "verify", "--json", ok=False).stdout)["findings"]

    def refused(finding: str = found["id"], who: str = "ina", key: Path = auditor, reason: str = REASON[1]) -> str:
        command = ["audit", "acknowledge", finding, "--as", who, "--key", key, "--reason", reason, "--yes"]
        return refacex(*command, ok=False).stderr

    assert "Verification finds nothing of that id now" in refused(finding="abcd1234")
    assert "four letters of it or more" in refused(finding=found["id"][:2])
    assert "are acknowledged by auditors of the tenant" in refused(who="bob")
    assert "The reason is a code such as stolen-worker-role" in refused(reason="Anna's photograph")
    keys.create_person_key(tmp_path / "other.json")
    assert "The signature is not this auditor's" in refused(key=tmp_path / "other.json")
    world.owner("ALTER TABLE audit.nodes DISABLE TRIGGER append_only")
    findings = json.loads(refacex("audit", "verify", "--json", ok=False).stdout)["findings"]
    (guard,) = [each["id"] for each in findings if each["problem"] == "guard"]
    assert "Nobody can acknowledge this finding" in refused(finding=guard)
