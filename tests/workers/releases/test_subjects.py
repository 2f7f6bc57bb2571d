"""Subjects: a pseudonym a tenant and reference, kept from release to release; and one donor for each under `stable`."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
import typer
from click.testing import Result
from sqlalchemy import func, select
from typer.testing import CliRunner

from gateway.cli import releases as commands
from refacex_core.types import DonorPolicy, ItemInput, Outcome
from schemas.policies import Policy
from schemas.tables import Item, Release
from tests.workers.releases.harness import Service
from tests.workers.releases.standin import StandIn
from workers.custody.shredding import Because, Reason, erase_subject
from workers.errors import PolicyUnknown
from workers.recoveries.policies import set_policy
from workers.releases import service as releases
from workers.releases import sources, subjects
from workers.releases.errors import OptionsInvalid, SubjectUnknown
from workers.releases.runner import Runner
from workers.releases.service import ReleaseOptions
from workers.releases.sources import Source

STABLE = ReleaseOptions(donor_policy=DonorPolicy.STABLE)


def submit(service: Service, tenant: str, *references: str | None, options: ReleaseOptions | None = None) -> UUID:
    found = []
    for reference in references:
        path = service.photographs / f"{uuid4().hex}.png"
        path.write_bytes(b"photograph")
        found.append(Source.of_file(path, path.name, reference))
    with service.gateway.begin() as session:
        return releases.submit(session, tenant=tenant, actor="tester", name="r", sources=found, options=options)


def shown(service: Service, release_id: UUID) -> list[UUID | None]:
    with service.sessions() as session:
        query = select(Item.subject_id).where(Item.release_id == release_id).order_by(Item.position)
        return list(session.scalars(query))


def run(service: Service, runner: Runner, release_id: UUID) -> list[ItemInput]:
    """What the core was given."""
    seen: list[ItemInput] = []

    class Watching(StandIn):
        def anonymise(self, items: Any) -> list[Outcome]:
            seen.extend(items)
            return super().anonymise(items)

    runner._core = Watching()
    with service.sessions() as session:
        query = select(Item.id).where(Item.release_id == release_id).order_by(Item.position)
        runner.run(list(session.scalars(query)))
    return seen


def test_a_reference_keeps_its_pseudonym_within_a_tenant(service: Service) -> None:
    one, two, none, again = shown(service, submit(service, "t", "anna", "berta", None, "anna"))
    assert one == again and one != two and none is None
    assert shown(service, submit(service, "t", "berta", "anna")) == [two, one]
    assert one not in shown(service, submit(service, "u", "anna"))
    with service.gateway() as session:
        found, items = subjects.find(session, "t", "anna")
        assert found == one and len(items) == 3
        known = {subject.reference: subject.items for subject in subjects.subjects(session, "t", 10)}
        assert known == {"anna": 3, "berta": 2}
        for tenant, reference in (("u", "berta"), ("t", "Anna"), ("t", "nobody")):
            with pytest.raises(SubjectUnknown):
                subjects.find(session, tenant, reference)


def test_an_erased_reference_gets_another_pseudonym(service: Service) -> None:
    (before,) = shown(service, submit(service, "erased", "anna"))
    with service.custodian.begin() as session:
        assert before is not None
        erase_subject(session, before, Because(Reason.ORDER))
    (after,) = shown(service, submit(service, "erased", "anna"))
    assert before != after
    with service.gateway() as session:
        assert {each.reference for each in subjects.subjects(session, "erased", 10)} == {None, "anna"}


def test_two_submissions_at_once_agree(service: Service) -> None:
    made: list[UUID] = []
    names = [f"subject {n}" for n in range(20)]
    orders = (names, names[::-1])
    threads = [threading.Thread(target=lambda o=order: made.append(submit(service, "race", *o))) for order in orders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    first, second = (shown(service, release_id) for release_id in made)
    assert len(made) == 2 and set(first) == set(second) and len(set(first)) == len(names)


def test_the_trail_knows_the_pseudonym_alone(service: Service, runner: Runner) -> None:
    release_id = submit(service, "t", "anna-in-the-trail", None)
    pseudonym, _ = shown(service, release_id)
    run(service, runner, release_id)
    with service.sessions() as session:
        events = [
            (name, fields) for name, fields in service._events(session) if fields.get("release") == str(release_id)
        ]
    assert "anna-in-the-trail" not in json.dumps(events)
    assert [fields.get("subject") for name, fields in events if name == "item:claimed"] == [str(pseudonym), None]
    assert next(fields["detail"]["subjects"] for name, fields in events if name == "release:submitted") == 1


def test_stable_gives_a_subject_one_seed_in_its_tenant_and_no_other(service: Service, runner: Runner) -> None:
    def seeds(tenant: str, *references: str) -> list[bytes | None]:
        given = run(service, runner, submit(service, tenant, *references, options=STABLE))
        return [item.options.donor_seed for item in given]

    anna, berta, again = seeds("t", "anna", "berta", "anna")
    assert anna == again and anna != berta and anna is not None and len(anna) == 32
    assert seeds("t", "anna") == [anna]
    assert seeds("u", "anna") != [anna]
    pseudonym = uuid4()
    assert subjects.donor_seed("t", pseudonym) != subjects.donor_seed("u", pseudonym)
    for item in run(service, runner, submit(service, "t", "anna")):
        assert item.options.donor_seed is None, "the other policies draw a donor each time"


def test_stable_needs_a_subject_for_every_image(service: Service) -> None:
    with service.sessions() as session:
        before = session.scalars(select(func.count()).select_from(Release)).one()
    with pytest.raises(OptionsInvalid, match="subject for each image"):
        submit(service, "t", "anna", None, options=STABLE)
    with service.sessions() as session:
        assert session.scalars(select(func.count()).select_from(Release)).one() == before


def test_a_release_goes_by_a_policy_that_its_tenant_has(service: Service) -> None:
    press = Policy("t", "press", quorum=3)
    with service.gateway.begin() as session:
        set_policy(session, press, "tester")
    release_id = submit(service, "t", None, options=ReleaseOptions(policy_name="press"))
    with service.sessions() as session:
        assert session.get_one(Release, release_id).policy == {"name": "press", "sha256": press.sha256().hex()}
    for tenant, name in (("u", "press"), ("t", "presse")):
        with pytest.raises(PolicyUnknown):
            submit(service, tenant, None, options=ReleaseOptions(policy_name=name))


@pytest.fixture
def refacex(service: Service, monkeypatch: pytest.MonkeyPatch) -> Any:
    for name, value in service.environment("gateway").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("COLUMNS", "200")
    app = typer.Typer()
    commands.register(app)

    def invoke(*arguments: str) -> Result:
        return CliRunner().invoke(app, list(arguments))

    return invoke


def test_the_commands(service: Service, refacex: Any) -> None:
    manifest = service.photographs / "m.csv"
    for name in ("x.png", "y.png"):
        (service.photographs / name).write_bytes(b"photograph")
    manifest.write_text("path,subject\nx.png,carla\ny.png,\n")
    options = ["--tenant", "cli", "--donor-policy", "stable"]
    for upload in ([], ["--upload"]):
        refused = refacex("release", "submit", str(manifest), *options, *upload)
        assert refused.exit_code == 1 and "subject for each image" in refused.output
    assert not list(service.storage.list(service.release_settings.bucket_input)), "refused before anything was copied"
    unknown = refacex("release", "submit", str(manifest), "--tenant", "cli", "--policy", "nowhere")
    assert unknown.exit_code == 1 and "refacex policy list" in unknown.output
    manifest.write_text("path,subject\nx.png,carla\ny.png,dora\n")
    submitted = refacex("release", "submit", str(manifest), *options, "--upload")
    assert submitted.exit_code == 0, submitted.output
    release_id = UUID(submitted.stdout.split()[0])
    listed = [json.loads(line) for line in refacex("subject", "list", "--tenant", "cli", "--json").stdout.splitlines()]
    assert {(each["reference"], each["items"]) for each in listed} == {("carla", 1), ("dora", 1)}
    found = json.loads(refacex("subject", "find", "carla", "--tenant", "cli", "--json").stdout)
    assert found["subject"] == str(shown(service, release_id)[0])
    assert [(each["release"], each["position"]) for each in found["items"]] == [(str(release_id), 0)]
    table = refacex("subject", "find", "carla", "--tenant", "cli")
    assert found["subject"] in table.stdout and "carla" not in table.stdout
    nobody = refacex("subject", "find", "emil", "--tenant", "cli")
    assert nobody.exit_code == 1 and "emil" not in nobody.output


def test_an_uploaded_copy_keeps_its_subject(service: Service, tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"x")
    source = replace(Source.of_file(tmp_path / "x.png", "x.png"), subject="anna")
    (uploaded,) = sources.upload(service.storage, service.release_settings.bucket_input, uuid4(), [source])
    assert uploaded.subject == "anna" and uploaded.uri.startswith("s3://")
