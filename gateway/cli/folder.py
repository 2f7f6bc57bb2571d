"""`refacex anonymise`, `recover`, `inspect` and `keys new`: the method on files alone, without any service.

This mode is ungoverned, and says so: no approvals, no audit trail; who has the key ring recovers every face.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from refacex_core.keyring import KeyRing
    from refacex_core.pipeline import Core
    from refacex_core.types import ItemOptions, Outcome

UNGOVERNED = (
    "Service-free mode is ungoverned: nobody approves a recovery and nothing is audited. "
    "Whoever has the key ring can recover every face released with it."
)
_CHUNK = 4  # images a call of the core: enough to batch faces, few enough for a bar that moves

keys_app = typer.Typer(no_args_is_help=True, help="Key rings of the service-free mode.")

Inputs = Annotated[list[Path], typer.Argument(help="Files, or folders to search.", exists=True, show_default=False)]
KeysOption = Annotated[Path, typer.Option("--keys", help="The key ring; make one with `refacex keys new FILE`.")]
OutOption = Annotated[Path, typer.Option("--out", help="The folder to write to; made if it is not there.")]
ReportOption = Annotated[Path | None, typer.Option("--report", help="Write one JSON line an image to this file.")]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")]


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
    app.add_typer(keys_app, name="keys")


@keys_app.command("new")
def keys_new(path: Annotated[Path, typer.Argument(metavar="FILE", help="The file to make.")]) -> None:
    """Make a key ring. Keep a copy of it: without it no face can ever be recovered."""
    from refacex_core.keyring import KeyRing

    with _problems():
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
        PolicyName, typer.Option(help="stable: the images of one sub-folder are one subject's and share its donor.")
    ] = PolicyName.RANDOM,
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

    options = ItemOptions(Profile(profile), file_format.value, quality, DonorPolicy(donor_policy))
    jobs = _jobs(inputs, out, EXTENSIONS[file_format.value])
    typer.echo(UNGOVERNED, err=True)
    with _problems(), _Run(jobs, out, report, keys) as run:
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
    report: ReportOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Recover the faces of released files, also renamed or re-encoded ones. Exit code 0 only if all were recovered.

    Writes each photograph with its faces laid back, and each face by itself, as PNG that only you may read.
    """
    jobs = _jobs(inputs, out, ".png")
    typer.echo(UNGOVERNED, err=True)
    with _problems(), _Run(jobs, out, report, keys) as run:
        from refacex_core.keyring import KeyRing

        ring = KeyRing.load(keys)
        core = _load(device)
        for job in jobs:
            run.each(job, lambda job=job: _recover_one(core, ring, job))  # type: ignore[misc]
    run.finish("recovered")


def inspect(
    inputs: Annotated[list[Path], typer.Argument(metavar="FILE...", exists=True, show_default=False)],
    report: ReportOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Say whether files carry a payload of ours, of which model, profile and locator. Needs no key."""
    jobs = _jobs(inputs, None, "")
    with _problems(), _Run(jobs, None, report) as run:
        core = _load(device)
        for job in jobs:
            fields = run.each(job, lambda job=job: _inspect_one(core, job))  # type: ignore[misc]
            if fields:
                typer.echo(
                    f"{job.name}: format {fields['format_version']}, model {fields['model_id']}, "
                    f"profile {fields['profile']}, locator {fields['locator']}, faces {fields['faces']}, "
                    f"payload {fields['payload_bytes']} bytes"
                )
    run.finish("with a payload")


@dataclass(frozen=True)
class Job:
    """One input file, its name relative to what was given, and the output file."""

    source: Path
    name: str
    output: Path


def _jobs(inputs: list[Path], out: Path | None, extension: str) -> list[Job]:
    """All images of `inputs` and where their results go. Exits with code 1 or 2 when that is not possible."""
    found = [pair for given in inputs for pair in _found(given, out)]
    if not found:
        raise _stop("there is no image in what was given: name PNG, JPEG, WebP, TIFF or HEIC files, or their folder.")
    folder = out or Path()
    plain = Counter(str(Path(name).with_suffix("")).casefold() for _, name in found)
    jobs = []
    for source, name in found:
        # a.jpg and a.png must not become one file: they keep their own extension before the new one.
        alone = plain[str(Path(name).with_suffix("")).casefold()] == 1
        stem = Path(name).with_suffix("") if alone else Path(name)
        jobs.append(Job(source, name, folder / f"{stem}{extension}"))
    if out is None:
        return jobs
    twice = [path for path, count in Counter(str(job.output).casefold() for job in jobs).items() if count > 1]
    if twice:
        raise _stop(f"{len(twice)} outputs would be written twice: give the folders one at a time.", 2)
    originals = {job.source.resolve() for job in jobs}
    if any(job.output.resolve() in originals for job in jobs):
        raise _stop("an output would overwrite its input: choose another --out.", 2)
    return jobs


def _found(given: Path, out: Path | None) -> Iterator[tuple[Path, str]]:
    """The images of one argument with their relative names; a folder's hidden files and the output folder are left out."""
    from refacex_core.images import INPUT_SUFFIXES

    if not given.is_dir():
        yield given, given.name
        return
    leave_out = out.resolve() if out and out.resolve() != given.resolve() else None
    for folder, folders, files in os.walk(given):
        here = Path(folder)
        folders[:] = sorted(d for d in folders if not d.startswith(".") and (here / d).resolve() != leave_out)
        for file in sorted(files):
            if not file.startswith(".") and Path(file).suffix.lower() in INPUT_SUFFIXES:
                yield here / file, str((here / file).relative_to(given))


@dataclass
class _Run:
    """What one command does with its images: bar, report, the list of what did not go well."""

    jobs: list[Job]
    out: Path | None
    report: Path | None
    ring: Path | None = None
    done: int = 0
    problems: list[str] = field(default_factory=list)
    _stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def __enter__(self) -> _Run:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

        if self.out is not None:
            _check_writable(self.out)
        if self.report is not None:
            precious = [job.source for job in self.jobs] + ([self.ring] if self.ring else [])
            if self.report.resolve() in {path.resolve() for path in precious}:
                raise _stop("the report would replace a photograph or the key ring: choose another --report.")
        try:
            self._file = self._stack.enter_context(self.report.open("w")) if self.report else None
        except OSError as error:
            raise _stop(f"the report cannot be written ({error.strerror}): choose another --report.") from None
        columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        bar = Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty())
        self._bar = self._stack.enter_context(bar)
        self._task = self._bar.add_task("images", total=len(self.jobs))
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def note(self, job: Job, fields: dict[str, Any], problem: str | None = None) -> None:
        """One image has ended: a line in the report, a step of the bar."""
        if problem is None:
            self.done += 1
        else:
            self.problems.append(f"{job.name}: {problem}")
        if self._file:
            self._file.write(json.dumps({"source": job.name, **fields}) + "\n")
            self._file.flush()
        self._bar.advance(self._task)

    def each(self, job: Job, work: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
        """Does the work on one image; an expected error is noted, and the others are still done."""
        from refacex_core.errors import CoreError

        try:
            fields = work()
        except CoreError as error:
            self.note(job, {"outcome": "failed", "code": error.code}, f"failed, {error}")
            return None
        except OSError as error:
            self.note(job, {"outcome": "failed", "code": "file_error"}, f"failed, {error.strerror}: check the file.")
            return None
        except Exception as error:  # a defect of ours on one image must not stop the others
            problem = f"failed, internal error ({type(error).__name__}): please report it."
            self.note(job, {"outcome": "failed", "code": "internal_error"}, problem)
            return None
        self.note(job, fields)
        return fields

    def finish(self, word: str) -> None:
        """The summary; exit code 1 unless all went well."""
        for problem in self.problems:
            typer.echo(problem, err=True)
        typer.echo(f"{self.done} of {len(self.jobs)} images {word}.", err=self.out is None)
        if self.problems:
            raise typer.Exit(1)


def _anonymise_chunk(core: Core, ring: KeyRing, options: ItemOptions, jobs: list[Job], run: _Run) -> None:
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


def _note_outcome(run: _Run, job: Job, outcome: Outcome) -> None:
    from refacex_core.types import Failed, Held

    if isinstance(outcome, Failed):
        failed = {"outcome": "failed", "code": outcome.code, "milliseconds": dict(outcome.timings_ms)}
        run.note(job, failed, f"failed, {outcome.error}")
        return
    faces = [asdict(face) for face in outcome.faces]
    fields: dict[str, Any] = {"faces": faces, "milliseconds": dict(outcome.timings_ms)}
    if isinstance(outcome, Held):
        run.note(job, {"outcome": "held", "reason": outcome.reason.value, **fields}, f"held, {_held(outcome.reason)}")
        return
    try:
        _write(job.output, outcome.data)
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


def _recover_one(core: Core, ring: KeyRing, job: Job) -> dict[str, Any]:
    from refacex_core.images import encode
    from refacex_core.keyring import CONTEXT

    data = job.source.read_bytes()
    header = core.inspect(data)
    faces = core.recover(data, ring.keys(header.locator, header.faces), CONTEXT)
    _write(job.output, encode(core.restore(data, faces), "png"), mode=0o600)
    for face in faces:
        _write(job.output.with_name(f"{job.output.stem}.face-{face.index}.png"), encode(face.crop, "png"), mode=0o600)
    return {"outcome": "recovered", "locator": header.locator.hex(), "faces": [face.index for face in faces]}


def _inspect_one(core: Core, job: Job) -> dict[str, Any]:
    header = core.inspect(job.source.read_bytes())
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


def _check_writable(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise _stop(f"the folder {out} cannot be written ({error.strerror}): choose another --out.") from None


def _write(path: Path, data: bytes, mode: int | None = None) -> None:
    """Writes a file as a whole or not at all. `mode` None: as the umask says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666 if mode is None else mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


@contextlib.contextmanager
def _problems() -> Iterator[None]:
    """Turns an expected error of the core into one line and exit code 1."""
    from refacex_core.errors import CoreError

    try:
        yield
    except CoreError as error:
        raise _stop(str(error)) from None


def _stop(message: str, code: int = 1) -> typer.Exit:
    typer.echo(f"refacex: {message}", err=True)
    return typer.Exit(code)
