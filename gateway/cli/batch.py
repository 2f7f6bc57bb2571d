"""A command over many images: what it is given, where its results go, its bar, its report, and what went wrong."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Any

import typer

from workers.words import number_of


@dataclass(frozen=True)
class Job:
    """One input file, its name relative to what was given, and the output file."""

    source: Path
    name: str
    output: Path


def find_jobs(inputs: list[Path], out: Path | None, extension: str, *, replace: bool = False) -> list[Job]:
    """All images of `inputs` and where their results go. Exits with code 1 or 2 when that is not possible.

    Outputs that are there already are an error unless they may be `replace`d.
    """
    if out is not None and any(given.is_dir() and given.resolve() == out.resolve() for given in inputs):
        raise stop("the output folder is the input folder, and would mix the two: choose another --out.", 2)
    left_out: Counter[str] = Counter()
    every = [pair for given in inputs for pair in _found(given, out, left_out)]
    first: dict[Path, tuple[Path, str]] = {}
    for source, name in every:
        first.setdefault(source.resolve(), (source, name))
    found = list(first.values())
    if len(found) < len(every):
        again = number_of(len(every) - len(found), "image")
        typer.echo(f"refacex: {again} named more than once, and taken once", err=True)
    if left_out:
        kinds = ", ".join(sorted(left_out))
        typer.echo(f"refacex: {number_of(left_out.total(), 'file')} of other kinds left out: {kinds}", err=True)
    if not found:
        raise stop("there is no image in what was given: name PNG, JPEG, WebP, TIFF or HEIC files, or their folder.")
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
    places = Counter(str(job.output).casefold() for job in jobs)
    twice = next((str(job.output) for job in jobs if places[str(job.output).casefold()] > 1), None)
    if twice is not None:
        which = [str(job.source) for job in jobs if str(job.output).casefold() == twice.casefold()]
        raise stop(f"{' and '.join(which)} would become one file, {twice}: give each an --out of its own.", 2)
    originals = {job.source.resolve() for job in jobs}
    if any(job.output.resolve() in originals for job in jobs):
        raise stop("an output would overwrite its input: choose another --out.", 2)
    there = sum(job.output.is_file() for job in jobs)
    if there and not replace:
        raise stop(
            f"{there} of {number_of(len(jobs), 'output')} there already: choose another --out, or give --replace.", 2
        )
    _tell_of_others(out, jobs)
    return jobs


def _tell_of_others(out: Path, jobs: list[Job]) -> None:
    """Says that the output folder holds what is none of this run's: an original among released files may be published with them."""
    own = {job.output for job in jobs} | {job.source for job in jobs}
    if any(Path(here) / file not in own for here, _, files in os.walk(out) for file in files):
        said = "holds other files already, which stay as they are: look at them before you hand the folder on."
        typer.echo(f"refacex: {out} {said}", err=True)


def _found(given: Path, out: Path | None, left_out: Counter[str]) -> Iterator[tuple[Path, str]]:
    """The images of one argument with their relative names; a folder's hidden files and the output folder are passed over, its files of
    other kinds counted in `left_out`."""
    from refacex_core.images import INPUT_SUFFIXES

    if not given.is_dir():
        yield given, given.name
        return
    leave_out = out.resolve() if out and out.resolve() != given.resolve() else None
    for folder, folders, files in os.walk(given):
        here = Path(folder)
        folders[:] = sorted(d for d in folders if not d.startswith(".") and (here / d).resolve() != leave_out)
        for file in sorted(files):
            if file.startswith("."):
                continue
            suffix = Path(file).suffix.lower()
            if suffix in INPUT_SUFFIXES:
                yield here / file, str((here / file).relative_to(given))
            else:
                left_out[suffix or "without a suffix"] += 1


@dataclass
class Run:
    """What one command does with its images: bar, report, the list of what did not go well."""

    jobs: list[Job]
    out: Path | None
    report: Path | None
    ring: Path | None = None
    replace: bool = False
    done: int = 0
    _begun: bool = False
    _file: FileIO | None = None
    problems: list[str] = field(default_factory=list)
    _stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def __enter__(self) -> Run:
        with contextlib.ExitStack() as stack:
            self._begin(stack)
            self._stack = stack.pop_all()
        return self

    def _begin(self, stack: contextlib.ExitStack) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

        stack.enter_context(_unwound_when_ended())
        if self.out is not None:
            for folder in (*reversed(self.out.parents), self.out):  # the innermost is tidied away first
                if not folder.exists():
                    stack.callback(_drop_empty, folder)
            _check_writable(self.out)
        if self.report is not None:
            if not self.report.exists():
                stack.callback(_drop_empty, self.report)
            self._file = stack.enter_context(self._opened(self.report))
        columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        bar = Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty())
        self._bar = stack.enter_context(bar)
        self._task = self._bar.add_task("images", total=len(self.jobs))

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def _opened(self, report: Path) -> FileIO:
        """The report's file, with what is in it: that goes when the first line is written, not if nothing comes of the command."""
        precious = [path for job in self.jobs for path in (job.source, job.output)] + ([self.ring] if self.ring else [])
        if report.is_file():
            if any(path.exists() and path.samefile(report) for path in precious):
                raise stop("the report would replace a photograph or the key ring: choose another --report.")
            if not self.replace and report.stat().st_size:
                raise stop("the report is there already: choose another --report, or give --replace.", 2)
            if not _is_report(report):
                raise stop("what is there is no report, and is not replaced: choose another --report.")
        elif report.resolve() in {job.output.resolve() for job in self.jobs if self.out is not None}:
            raise stop("the report would be where a photograph goes: choose another --report.")
        try:
            return report.open("ab", buffering=0)
        except OSError as error:
            raise stop(f"the report cannot be written ({error.strerror}): choose another --report.") from None

    def _write_down(self, fields: dict[str, Any]) -> None:
        """A line of the report; the images go on where none can be written any more."""
        if self._file is None:
            return
        try:
            if not self._begun and self._file.seekable():
                self._file.truncate(0)
            self._begun = True
            self._file.write((json.dumps(fields) + "\n").encode())
        except OSError as error:
            self.problems.append(f"{self.report}: the report ends here, it cannot be written ({error.strerror}).")
            self._file = None

    def note(self, job: Job, fields: dict[str, Any], problem: str | None = None) -> None:
        """One image has ended: a line in the report, a step of the bar."""
        if problem is None:
            self.done += 1
        else:
            self.problems.append(f"{job.name}: {problem}")
        self._write_down({"source": job.name, **fields})
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
            problem = "failed through a fault of ours: please report it, with its line of what --report FILE writes."
            self.note(job, {"outcome": "failed", "code": "internal_error", "error": type(error).__name__}, problem)
            return None
        self.note(job, fields)
        return fields

    def finish(self, word: str) -> None:
        """The summary; exit code 1 unless all went well."""
        for problem in self.problems:
            typer.echo(problem, err=True)
        typer.echo(f"{self.done} of {number_of(len(self.jobs), 'image')} {word}.", err=self.out is None)
        if self.problems:
            raise typer.Exit(1)


@contextlib.contextmanager
def _unwound_when_ended() -> Iterator[None]:
    """SIGTERM ends the command as Ctrl-C does: what it has open is closed, and what it made in vain goes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, _frame: object) -> None:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _is_report(path: Path) -> bool:
    """Whether a file is empty or begins as a report does."""
    with path.open("rb") as file:
        first = file.readline(1 << 20)
    try:
        return not first or "source" in dict(json.loads(first))
    except (ValueError, TypeError):
        return False


def _drop_empty(made: Path) -> None:
    """Removes a folder or a file that this command made, if nothing came to be in it."""
    with contextlib.suppress(OSError):
        if made.is_dir():
            made.rmdir()
        elif made.stat().st_size == 0:
            made.unlink()


def _check_writable(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise stop(f"the folder {out} cannot be written ({error.strerror}): choose another --out.") from None


def write(path: Path, data: bytes, mode: int | None = None) -> None:
    """Writes a file as a whole or not at all. `mode` None: as the umask says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    try:
        temporary.unlink(missing_ok=True)  # one that was left behind may be readable by others
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        descriptor = os.open(temporary, flags, 0o666 if mode is None else mode)
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
def problems() -> Iterator[None]:
    """Turns an expected error of the core into one line and exit code 1."""
    from refacex_core.errors import CoreError

    try:
        yield
    except CoreError as error:
        raise stop(str(error)) from None


def stop(message: str, code: int = 1) -> typer.Exit:
    typer.echo(f"refacex: {message}", err=True)
    return typer.Exit(code)
