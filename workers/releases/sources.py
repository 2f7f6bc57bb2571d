"""Sources: which images a submission names, and how a worker reads one.

Originals are read where they are. A worker reads only below its own source roots, whatever a row says; the one copy
that may be made is an upload to the input bucket, under a random name, and it is deleted when its item ends.
"""

from __future__ import annotations

import csv
import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import quote, unquote_to_bytes, urlsplit
from uuid import UUID, uuid4

from workers.errors import ObjectMissing
from workers.releases.errors import ManifestInvalid, NothingToSubmit, SourceMissing, SourceRefused, SourceTooLarge
from workers.storage import Storage
from workers.strangers import read_json

IMAGE_SUFFIXES = frozenset([".png", ".jpg", ".jpeg", ".jpe", ".webp", ".tif", ".tiff", ".heic", ".heif"])
MANIFEST_SUFFIXES = frozenset([".jsonl", ".csv"])
LONGEST_REFERENCE = 200  # letters of a submitter's word for a subject


class OutsideRoots(SourceRefused):
    """The service may not read there: start it with `refacex up --source FOLDER`, or submit with `--upload`."""


@dataclass(frozen=True)
class Source:
    """One image: where its bytes are (`file:` or `s3:` URI), what its submitter calls it, and their own word for whom it
    shows. None of them is ever logged.
    """

    uri: str = field(repr=False)
    relative_name: str = field(repr=False)
    subject: str | None = field(default=None, repr=False)

    @classmethod
    def of_file(cls, path: Path, relative_name: str, subject: str | None = None) -> Source:
        """The source for a file of this machine. A name that is not UTF-8 keeps its bytes in the URI alone."""
        shown = relative_name.encode("utf-8", errors="replace").decode()
        return cls("file://" + quote(os.fsencode(path.resolve())), shown, subject)


def collect(arguments: Sequence[str], roots: Sequence[Path] | None = None) -> list[Source]:
    """The images that files, folders, globs and manifests (.jsonl, .csv) name, in order and each once.

    A folder gives the images below it by their suffixes; a file that is named itself is taken whatever it is called.
    A file outside `roots`, which the workers would refuse, is refused here already; None, for files that are going to
    be uploaded, takes them from anywhere. Raises NothingToSubmit, ManifestInvalid, OutsideRoots.
    """
    found: dict[str, Source] = {}
    for argument in arguments:
        before = len(found)
        for source in _expand(argument):
            if roots is not None:
                _inside(path_of(source.uri), roots)
            known = found.setdefault(source.uri, source)
            if None not in (known.subject, source.subject) and known.subject != source.subject:
                raise ManifestInvalid("one image is said to show two subjects")
            if known.subject is None:
                found[source.uri] = replace(known, subject=source.subject)
        if len(found) == before and not any(True for _ in _expand(argument)):
            raise NothingToSubmit
    if not found:
        raise NothingToSubmit
    return list(found.values())


def _expand(argument: str) -> Iterator[Source]:
    path = Path(argument).expanduser()
    if path.is_dir():
        yield from _folder(path)
    elif path.is_file():
        if path.suffix.lower() in MANIFEST_SUFFIXES:
            yield from _manifest(path)
        else:
            yield Source.of_file(path, path.name)
    elif glob.has_magic(argument):
        for match in sorted(glob.glob(str(path), recursive=True)):  # noqa: PTH207  # Path.glob takes no absolute pattern
            if Path(match).is_dir():
                yield from _folder(Path(match))
            elif Path(match).suffix.lower() in IMAGE_SUFFIXES:
                yield Source.of_file(Path(match), Path(match).name)


def _folder(folder: Path) -> Iterator[Source]:
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in relative.parts)
        if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file() and not hidden:
            yield Source.of_file(path, relative.as_posix())


def _manifest(manifest: Path) -> Iterator[Source]:
    try:
        text = manifest.read_text(encoding="utf-8-sig")
        rows: Iterable[object]
        if manifest.suffix.lower() == ".csv":
            rows = csv.DictReader(text.splitlines())
        else:
            rows = (read_json(line) for line in text.splitlines() if line.strip())
        for number, row in enumerate(rows, 1):
            if not isinstance(row, dict) or not isinstance(row.get("path"), str) or not row["path"]:
                raise ManifestInvalid(f"line {number}")
            path = manifest.parent / row["path"]  # an absolute path stays absolute
            yield Source.of_file(path, str(row.get("name") or row["path"]), _subject(row.get("subject"), number))
    except (ValueError, csv.Error):  # not UTF-8, not JSON, or a path that no file can have
        raise ManifestInvalid from None


def _subject(value: object, line: int) -> str | None:
    """A manifest's word for whom an image shows; None where it says nothing. Raises ManifestInvalid."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise ManifestInvalid(f"line {line}: a subject is a text")
    reference = value.strip()
    if len(reference) > LONGEST_REFERENCE or not reference.isprintable():
        raise ManifestInvalid(f"line {line}: a subject is one line of at most {LONGEST_REFERENCE} letters")
    return reference or None


def upload(storage: Storage, bucket: str, release_id: UUID, sources: Sequence[Source]) -> list[Source]:
    """Copy the files to the input bucket under random names, for workers that do not see this machine's folders.

    The release id in front of the name lets the reconciler tell what became of a copy's item.
    """
    uploaded = []
    for source in sources:
        key = f"{release_id}/{uuid4().hex}"
        try:
            storage.put(bucket, key, path_of(source.uri).read_bytes())
        except OSError:
            raise SourceMissing from None
        uploaded.append(replace(source, uri=f"s3://{bucket}/{key}"))
    return uploaded


def input_key(uri: str, bucket: str) -> str | None:
    """The key of an uploaded copy in the input bucket; None for a file that is read where it is."""
    parts = urlsplit(uri)
    return parts.path.lstrip("/") if parts.scheme == "s3" and parts.netloc == bucket else None


def read(uri: str, roots: Sequence[Path], storage: Storage, bucket: str, limit: int) -> bytes:
    """The source's bytes, at most `limit`.

    Raises SourceRefused outside the roots and the input bucket, SourceMissing, SourceTooLarge, StorageAway.
    """
    key = input_key(uri, bucket)
    if key is not None:
        try:
            size = storage.size(bucket, key)
            if size is not None and size > limit:
                raise SourceTooLarge
            return storage.get(bucket, key)
        except ObjectMissing:
            raise SourceMissing from None
    path = _inside(path_of(uri), roots)
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size > limit:
                raise SourceTooLarge
            return file.read(limit + 1)
    except OSError:
        raise SourceMissing from None


def path_of(uri: str) -> Path:
    """The file of a `file:` URI. Raises SourceRefused for any other."""
    parts = urlsplit(uri)
    if parts.scheme != "file" or parts.netloc:
        raise SourceRefused
    return Path(os.fsdecode(unquote_to_bytes(parts.path)))


def _inside(path: Path, roots: Sequence[Path]) -> Path:
    try:
        resolved = path.resolve()  # follows links, so that none of them leads out
    except (OSError, RuntimeError, ValueError):
        raise SourceMissing from None
    if not any(resolved.is_relative_to(root.resolve()) for root in roots):
        raise OutsideRoots
    return resolved
