"""`refacex anonymise`, `recover`, `inspect` and `keys new`: the method on files alone, without any service.

This mode is ungoverned, and says so: no approvals, no audit trail; who has the key ring recovers every face.
"""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli.batch import Job, Run, find_jobs, problems, write
from workers.words import number_of

if TYPE_CHECKING:
    from refacex_core.keyring import KeyRing
    from refacex_core.pipeline import Core
    from refacex_core.types import ItemOptions, Outcome

UNGOVERNED = (
    "Service-free mode is ungoverned: nobody approves a recovery and nothing is audited. "
    "Whoever has the key ring can recover every face released with it."
)
_CHUNK = 4  # images a call of the core: enough to batch faces, few enough for a bar that moves


Inputs = Annotated[list[Path], typer.Argument(help="Files, or folders to search.", exists=True, show_default=False)]
KeysOption = Annotated[Path, typer.Option("--keys", help="The key ring; make one with `refacex keys new FILE`.")]
OutOption = Annotated[Path, typer.Option("--out", help="The folder to write to; made if it is not there.")]
ReportOption = Annotated[Path | None, typer.Option("--report", help="Write one JSON line an image to this file.")]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")]
ReplaceOption = Annotated[
    bool, typer.Option("--replace", help="Write over outputs and a report that are there already.")
]


class ProfileName(StrEnum):
    """As refacex_core.types.Profile, which the command line does not import before it is needed."""

    ROBUST = "robust"
    ARCHIVE = "archive"


class FormatName(StrEnum):
    """What can be written."""

    PNG = "png"
    JPEG = "jpeg"
    WEBP = "webp"


class PolicyName(StrEnum):
    """As refacex_core.types.DonorPolicy."""

    RANDOM = "random"
    STABLE = "stable"
    MATCHED = "matched"


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command()(anonymise)
    app.command()(recover)
    app.command()(inspect)


def keys_new(path: Annotated[Path, typer.Argument(metavar="FILE", help="The file to make.")]) -> None:
    """Make a key ring. Keep a copy of it: without it no face can ever be recovered."""
    from refacex_core.keyring import KeyRing

    with problems():
        KeyRing.create(path)
    typer.echo(f"{path}: a new key ring. Keep a copy of it in a safe place; who has it recovers faces.")


def anonymise(
    inputs: Inputs,
    out: OutOption,
    keys: KeysOption,
    profile: Annotated[ProfileName, typer.Option(help="robust survives JPEG and WebP; archive is PNG only.")] = (
        ProfileName.ROBUST
    ),
    file_format: Annotated[FormatName, typer.Option("--format", help="What to write.")] = FormatName.PNG,
    quality: Annotated[int | None, typer.Option(min=1, max=100, help="JPEG 95, WebP 90 if not given.")] = None,
    donor_policy: Annotated[
        PolicyName,
        typer.Option(
            help="stable: the images of one sub-folder are one subject's and keep its donor if the audit lets them."
        ),
    ] = PolicyName.RANDOM,
    again: Annotated[
        bool,
        typer.Option("--again", help="Also release what carries a payload already, as a recovered photograph does."),
    ] = False,
    replace: ReplaceOption = False,
    report: ReportOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Anonymise photographs reversibly. Exit code 0 only if every image was released."""
    if quality is not None and file_format is FormatName.PNG:
        raise typer.BadParameter("PNG has no quality", param_hint="--quality")
    if profile is ProfileName.ARCHIVE and file_format is not FormatName.PNG:
        raise typer.BadParameter("the archive profile is PNG only", param_hint="--format")
    from refacex_core.images import EXTENSIONS
    from refacex_core.types import DonorPolicy, ItemOptions, Profile

    options = ItemOptions(Profile(profile), file_format.value, quality, DonorPolicy(donor_policy), release_again=again)
    jobs = find_jobs(inputs, out, EXTENSIONS[file_format.value], replace=replace)
    typer.echo(UNGOVERNED, err=True)
    alone = sum(Path(job.name).parent == Path() for job in jobs)
    if donor_policy is PolicyName.STABLE and alone:
        said = "outside a sub-folder, each taken for a subject of its own: give each subject a folder in what you name."
        typer.echo(f"refacex: {number_of(alone, 'image')} {said}", err=True)
    with problems(), Run(jobs, out, report, keys, replace) as run:
        from refacex_core.keyring import KeyRing

        ring = KeyRing.load(keys)
        core = _load(device)
        for start in range(0, len(jobs), _CHUNK):
            _anonymise_chunk(core, ring, options, jobs[start : start + _CHUNK], run)
    run.finish("released")


def recover(
    inputs: Inputs,
    keys: KeysOption,
    out: OutOption,
    replace: ReplaceOption = False,
    report: ReportOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Recover the faces of released files, also renamed or re-encoded ones. Exit code 0 only if all were recovered.

    Writes each photograph with its faces laid back, and each face by itself, as PNG that only you may read.
    """
    jobs = find_jobs(inputs, out, ".png", replace=replace)
    taken = {str(path).casefold() for job in jobs for path in (job.output, job.source)}
    typer.echo(UNGOVERNED, err=True)
    with problems(), Run(jobs, out, report, keys, replace) as run:
        from refacex_core.keyring import KeyRing

        ring = KeyRing.load(keys)
        core = _load(device)
        for job in jobs:
            run.each(job, lambda job=job: _recover_one(core, ring, job, taken, replace=replace))  # type: ignore[misc]
    run.finish("recovered")


def inspect(
    inputs: Annotated[list[Path], typer.Argument(metavar="FILE...", exists=True, show_default=False)],
    replace: ReplaceOption = False,
    report: ReportOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Say whether files carry a payload of ours, of which model, profile and locator; of a recovered face, which ticket it
    was recovered under. Needs no key.
    """
    jobs = find_jobs(inputs, None, "")
    with problems(), Run(jobs, None, report, replace=replace) as run:
        core = _load(device)
        for job in jobs:
            fields = run.each(job, lambda job=job: _inspect_one(core, job))  # type: ignore[misc]
            if fields and "ticket" in fields:
                typer.echo(f"{job.name}: a recovered face, of ticket {fields['ticket']}")
            elif fields:
                typer.echo(
                    f"{job.name}: format {fields['format_version']}, model {fields['model_id']}, "
                    f"profile {fields['profile']}, locator {fields['locator']}, faces {fields['faces']}, "
                    f"payload {fields['payload_bytes']} bytes"
                )
    run.finish("with a payload")


def _anonymise_chunk(core: Core, ring: KeyRing, options: ItemOptions, jobs: list[Job], run: Run) -> None:
    from dataclasses import replace

    from refacex_core.keyring import CONTEXT
    from refacex_core.types import DonorPolicy, ItemInput

    items, ready = [], []
    for job in jobs:
        try:
            data = job.source.read_bytes()
        except OSError as error:
            run.note(job, {"outcome": "failed", "code": "file_error"}, f"failed, {error.strerror}: check the file.")
            continue
        stable = options.donor_policy is DonorPolicy.STABLE
        chosen = replace(options, donor_seed=ring.donor_seed(_subject(job))) if stable else options
        items.append(ItemInput(data, ring.item_keys(), CONTEXT, chosen))
        ready.append(job)
    for job, outcome in zip(ready, core.anonymise(items), strict=True):
        _note_outcome(run, job, outcome)


def _subject(job: Job) -> str:
    """Whose photograph it is taken to be: the sub-folder's, or its own where there is none."""
    parent = Path(job.name).parent
    return str(parent) if parent != Path() else Path(job.name).stem


def _note_outcome(run: Run, job: Job, outcome: Outcome) -> None:
    from refacex_core.types import Failed, Held

    if isinstance(outcome, Failed):
        failed = {"outcome": "failed", "code": outcome.code, "milliseconds": dict(outcome.timings_ms)}
        again = " Of a recovered photograph there is none: give --again." if outcome.code == "already_released" else ""
        run.note(job, failed, f"failed, {outcome.error}{again}")
        return
    faces = [asdict(face) for face in outcome.faces]
    fields: dict[str, Any] = {"faces": faces, "milliseconds": dict(outcome.timings_ms)}
    if isinstance(outcome, Held):
        run.note(job, {"outcome": "held", "reason": outcome.reason.value, **fields}, f"held, {_held(outcome.reason)}")
        return
    try:
        write(job.output, outcome.data)
    except OSError as error:
        problem = f"failed, it cannot be written ({error.strerror}): check the space and rights of the output folder."
        run.note(job, {"outcome": "failed", "code": "output_error"}, problem)
        return
    about = ("format", "sha256", "width", "height", "payload_bytes", "stego_psnr")
    released = {name: getattr(outcome, name) for name in about}
    run.note(job, {"outcome": "released", **released, "locator": outcome.locator.hex(), **fields})


def _held(reason: str) -> str:
    """What a hold means and what can be done."""
    return {
        "no_face": "no face was found: check it by eye before you use it.",
        "face_too_small": "a face is too small to be replaced: send the image at a larger size.",
        "face_at_edge": "a face is cut by the edge: crop it away or send a wider photograph.",
        "face_missed": "one detector still sees a face that was not replaced.",
        "identity_leak": "a face stayed too like its source with every donor that was tried.",
        "face_lost": "no face can be found any more where one was replaced.",
        "read_back_failed": "the payload could not be read back from the finished file: try another format or quality.",
    }.get(reason, reason)


def _recover_one(core: Core, ring: KeyRing, job: Job, taken: set[str], *, replace: bool) -> dict[str, Any]:
    """`taken`: inputs and outputs of all jobs, lower case; a face's own file is never one of them."""
    from refacex_core.images import encode
    from refacex_core.keyring import CONTEXT

    data = job.source.read_bytes()
    header = core.inspect(data)
    faces = core.recover(data, ring.keys(header.locator, header.faces), CONTEXT)
    write(job.output, encode(core.restore(data, faces), "png"), mode=0o600)
    for face in faces:
        path = job.output.with_name(f"{job.output.stem}.face-{face.index}.png")
        while str(path).casefold() in taken or (path.exists() and not replace):
            path = path.with_name(f"{path.stem}-crop.png")
        taken.add(str(path).casefold())
        write(path, encode(face.crop, "png"), mode=0o600)
    return {"outcome": "recovered", "locator": header.locator.hex(), "faces": [face.index for face in faces]}


def _inspect_one(core: Core, job: Job) -> dict[str, Any]:
    from uuid import UUID

    from refacex_core.errors import PayloadMissing

    data = job.source.read_bytes()
    try:
        header = core.inspect(data)
    except PayloadMissing:
        ticket = core.read_mark(data)
        if ticket is None:
            raise
        return {"outcome": "recovered face", "ticket": str(UUID(bytes=ticket))}
    return {
        "outcome": "payload",
        "format_version": header.format_version,
        "model_id": header.model_id,
        "profile": header.profile.value,
        "locator": header.locator.hex(),
        "faces": header.faces,
        "payload_bytes": header.sealed_bytes,
    }


def _load(device: str) -> Core:
    from refacex_core.pipeline import Core

    return Core.load(device=device)
