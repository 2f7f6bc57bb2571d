"""Faces that were fetched: on disk, sealed, before the one copy elsewhere is deleted, and opened after that."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

from gateway.cli.service import stop

if TYPE_CHECKING:
    from sqlalchemy.orm import Session, sessionmaker

    from workers.recoveries.service import SealedFace

SEALED = ".sealed"  # ends the name of a face that was fetched and is not opened yet


def make_private(folder: Path) -> None:
    """The folder, for its owner alone where it is new; stops where it cannot be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        probe = folder / f".refacex-{os.getpid()}"
        probe.touch(mode=0o600)
        probe.unlink()
    except OSError:
        raise stop(f"{folder} cannot be written to: choose another folder") from None


def take(sessions: sessionmaker[Session], recovery: UUID, who: str, signature: bytes, out: Path) -> list[Path]:
    """Fetches the faces into sealed files, which are on disk before the commit that takes the only other copy away.

    Gives those that are there already where an earlier fetch was cut short after its commit. Raises NothingToFetch,
    NotTheRequester.
    """
    from sqlalchemy import select

    from schemas.states import RecoveryState
    from schemas.tables import Recovery
    from workers.recoveries import service as requests

    with sessions.begin() as session:
        state = session.execute(select(Recovery.state).where(Recovery.id == recovery)).scalar_one()
        left = sorted(out.glob(f"{recovery}_*{SEALED}")) if state is RecoveryState.FETCHED else []
        if left:
            return left
        faces = requests.fetch(session, recovery, who, signature)
        try:
            return _keep_sealed(out, faces)
        except OSError as error:
            reason = f" ({error.strerror})" if error.strerror else ""
            raise stop(f"{out} cannot be written to{reason}: nothing was fetched, choose another folder") from None


def _keep_sealed(out: Path, faces: list[SealedFace]) -> list[Path]:
    """Writes each sealed face to a file that is named by what opens it; on disk when it returns, or none is left."""
    paths: list[Path] = []
    try:
        for face in faces:
            paths.append(out / f"{face.recovery}_{face.item}_{face.face}{SEALED}")
            _write_private(paths[-1], face.sealed)
        _sync_folder(out)
    except OSError:
        for path in paths:
            path.unlink(missing_ok=True)
        raise
    return paths


def open_all(out: Path, sealed: list[Path], names: dict[UUID, str], secret: bytes) -> None:
    """Opens sealed files and prints the faces' own; a sealed file goes once its face is on disk, and not before."""
    from workers.custody.errors import Unwrappable
    from workers.recoveries.service import SealedFace

    kept = []
    for path in sealed:
        try:
            recovery, item, number = path.name.removesuffix(SEALED).split("_")
            face = SealedFace(UUID(recovery), UUID(item), int(number), path.read_bytes())
            written = _write_face(out, names[face.item], face, secret)
            _sync_folder(out)
        except (OSError, ValueError, KeyError, Unwrappable):
            kept.append(path)
            continue
        print(written)
        path.unlink()
    if kept:
        files = ", ".join(str(path) for path in kept)
        raise stop(f"fetched, but not opened: kept as {files}; run the same command again to try once more")


def _write_private(path: Path, content: bytes) -> None:
    """Writes a file for its owner alone; on disk when it returns."""
    path.unlink(missing_ok=True)  # an older one may be readable by others
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Puts the names of the files in a folder on disk, without which their content is lost with the power."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_face(out: Path, name: str, face: SealedFace, secret: bytes) -> Path:
    """Opens a sealed face and writes it, readable by its owner alone. The item's name only lends its last part."""
    from schemas.requests import face_info
    from workers.custody.opening import open_sealed

    png = open_sealed(secret, face.sealed, face_info(face.recovery, face.item, face.face))
    stem = re.sub(r"[^\w.-]", "_", Path(name).stem)[:80]
    path = out / f"{stem}-{str(face.item)[:8]}-face{face.face}.png"
    _write_private(path, png)
    return path
