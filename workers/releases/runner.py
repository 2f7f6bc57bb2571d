"""A chunk of items, from the claim to the finished release: reading, inference and upload overlap.

The order is the promise: the claim is counted before the networks see an image; the sealed keys and the file's hash
are durable before the file exists anywhere; the file exists before the item is done. A kill between any two of these
leaves something that the next claim finishes or the reconciler sweeps.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import asdict
from typing import Any, TypeVar
from uuid import UUID, uuid4

from sqlalchemy.orm import Session, sessionmaker
from structlog.contextvars import bind_contextvars

from refacex_core.errors import CoreError
from refacex_core.types import FaceReport, Failed, Held, ItemInput, Outcome, Released
from workers.app import away
from workers.core import Core
from workers.custody.errors import CustodyKeyRetired, KmsRefused
from workers.errors import Away, ObjectExists, ObjectMissing, StorageError, WorkerError
from workers.logs import get_logger
from workers.releases import lifecycle, sources
from workers.releases.errors import SourceMissing, SourceRefused, SourceTooLarge, Superseded
from workers.releases.faults import Faults
from workers.releases.heartbeat import Heartbeat
from workers.releases.keys import DrawnKeys, Sealer, retired_told
from workers.releases.lifecycle import Claim, Made, Resumable
from workers.settings import ReleaseSettings
from workers.storage import REFUSED, Storage

log = get_logger(__name__)
T = TypeVar("T")

CONTENT_TYPES = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}
UPLOADS = 3
SOURCE_ERRORS = (SourceMissing, SourceRefused, SourceTooLarge)


class ReadRefused(StorageError):
    """The object store lets this worker read no file: give its identity its rights back, and the work goes on by itself."""


class Runner:
    """Works on chunks with one core, one database role and one storage identity."""

    def __init__(
        self,
        settings: ReleaseSettings,
        sessions: sessionmaker[Session],
        storage: Storage,
        core: Core,
        sealer: Sealer,
    ) -> None:
        self._settings = settings
        self._sessions = sessions
        self._storage = storage
        self._core = core
        self._sealer = sealer
        self._faults = Faults(settings)

    def run(self, item_ids: Sequence[UUID]) -> None:
        """Do what is left to do of these items; items that others hold are left alone.

        Raises Away (or the driver's error) where an engine stayed away: the message has to come back.
        """
        trouble: list[BaseException] = []
        with Heartbeat(self._sessions, self._settings.claim_seconds) as held:
            fresh = self._claim(item_ids, fresh=True)
            held.add(fresh)
            self._batches(fresh, held, trouble)
            # An item that was tried before may be what killed its worker: each goes alone, and is claimed only when
            # its turn comes.
            for item_id in item_ids:
                again = self._claim([item_id], fresh=False)
                held.add(again)
                self._batches(again, held, trouble)
        finished = self._patiently(
            lambda session: lifecycle.finish_releases(session, lifecycle.releases_of(session, item_ids))
        )
        if finished:
            log.info("releases_finished", releases=[str(release) for release in finished])
            self._faults.reach("after-release-finished")
        if trouble:
            raise trouble[0]

    def _claim(self, item_ids: Sequence[UUID], *, fresh: bool) -> list[Claim]:
        seconds = self._settings.claim_seconds
        claims = self._patiently(lambda session: lifecycle.claim(session, item_ids, seconds=seconds, fresh=fresh))
        if claims:
            self._faults.reach("after-claim")
        return claims

    def _batches(self, claims: Sequence[Claim], held: Heartbeat, trouble: list[BaseException]) -> None:
        size = self._settings.chunk
        batches = [claims[start : start + size] for start in range(0, len(claims), size)]
        with ThreadPoolExecutor(1, "read") as reader, ThreadPoolExecutor(UPLOADS, "publish") as publisher:
            publishing: list[tuple[Claim, Future[None]]] = []
            ahead: Future[list[bytes | WorkerError | None]] | None = None
            for number, batch in enumerate(batches):
                read = (ahead or reader.submit(self._read, batch)).result()
                ahead = reader.submit(self._read, batches[number + 1]) if number + 1 < len(batches) else None
                for claim, conclude in self._make(batch, read):
                    logged = copy_context()  # so that the threads' lines name the task as well
                    publishing.append((claim, publisher.submit(logged.run, self._guarded, claim, conclude)))
            for claim, future in publishing:
                error = future.exception()
                held.drop(claim)
                if error is not None:
                    trouble.append(error)

    def _read(self, batch: Sequence[Claim]) -> list[bytes | WorkerError | None]:
        """Each source's bytes, what speaks against it, or None for an item whose file may be there already."""
        read: list[bytes | WorkerError | None] = []
        for claim in batch:
            try:
                if claim.resumable is not None and self._whole(claim.resumable):
                    read.append(None)
                else:
                    read.append(self._source(claim))
            except StorageError as error:
                read.append(ReadRefused(error.detail))
            except WorkerError as error:
                read.append(error)
        self._faults.reach("after-read")
        return read

    def _source(self, claim: Claim) -> bytes:
        settings = self._settings

        def read() -> bytes:
            return sources.read(
                claim.source_uri, settings.source_roots, self._storage, settings.bucket_input, settings.max_source_bytes
            )

        return patiently(read, settings.patience_seconds)

    def _whole(self, attempt: Resumable) -> bool:
        try:
            data = patiently(
                lambda: self._storage.get(self._settings.bucket_releases, attempt.object_key),
                self._settings.patience_seconds,
            )
        except ObjectMissing:
            return False
        return hashlib.sha256(data).hexdigest() == attempt.sha256

    def _make(
        self, batch: Sequence[Claim], read: Sequence[bytes | WorkerError | None]
    ) -> list[tuple[Claim, Callable[[], None]]]:
        """Run the networks over the batch; gives what is left to do for each item."""
        steps: list[tuple[Claim, Callable[[], None]]] = []
        work: list[tuple[Claim, DrawnKeys, ItemInput]] = []
        for claim, data in zip(batch, read, strict=True):
            if data is None and claim.resumable is not None:
                steps.append((claim, _bind(self._resume, claim, claim.resumable)))
            elif isinstance(data, WorkerError):
                steps.append((claim, _bind(self._refuse, claim, data)))
            elif claim.last:
                steps.append((claim, _bind(self._give_up, claim)))
            elif data is not None:
                keys = DrawnKeys()
                context = claim.context(self._core.model_version)
                work.append((claim, keys, ItemInput(data, keys.for_core(), context, claim.options)))
        outcomes = self._anonymise([item for _, _, item in work])
        self._faults.reach("after-anonymise")
        for (claim, keys, _), outcome in zip(work, outcomes, strict=True):
            steps.append((claim, _bind(self._conclude, claim, keys, outcome)))
        return steps

    def _anonymise(self, work: Sequence[ItemInput]) -> Sequence[Outcome]:
        try:
            return self._core.anonymise(work) if work else []
        except Exception as error:  # the core answers for each item; when it breaks, each goes alone the next time
            return [Failed(error, "internal_error", {})] * len(work)

    def _guarded(self, claim: Claim, conclude: Callable[[], None]) -> None:
        """One item's conclusion; whatever happens to it, the others go on."""
        bind_contextvars(tenant=claim.tenant, release=str(claim.release_id), item=str(claim.item_id))
        try:
            conclude()
        except Superseded:
            log.info("item_superseded", fence=claim.fence)
        except Exception as error:
            log.warning("item_given_back", exc_info=error)
            self._hand_back(claim, getattr(error, "code", "internal_error"), counts=_costs_an_attempt(error))
            raise

    def _hand_back(self, claim: Claim, code: str, *, counts: bool) -> None:
        try:
            with self._sessions.begin() as session:
                lifecycle.give_back(session, claim, code, counts=counts)
        except Superseded:
            pass  # committed, or taken over: the claim runs out, and the next one decides
        except Exception as error:
            if not away(error):
                raise
            log.warning("claim_left_to_expire")

    def _refuse(self, claim: Claim, error: WorkerError) -> None:
        if not isinstance(error, SOURCE_ERRORS):  # it says nothing of the image, nor of an attempt that may be good
            raise error
        self._abandon(claim)
        self._end(claim, lambda session: lifecycle.fail(session, claim, error.code))

    def _give_up(self, claim: Claim) -> None:
        self._end(claim, lambda session: lifecycle.quarantine(session, claim, "worker_lost"))

    def _conclude(self, claim: Claim, keys: DrawnKeys, outcome: Outcome) -> None:
        self._abandon(claim)
        if isinstance(outcome, Released):
            self._publish(claim, keys, outcome)
        elif isinstance(outcome, Held):
            self._end(claim, lambda session: lifecycle.hold(session, claim, outcome.reason.value, report_of(outcome)))
        elif isinstance(outcome.error, CoreError):
            self._end(claim, lambda session: lifecycle.fail(session, claim, outcome.code))
        else:  # not the image's fault as far as we know: another try may do
            log.error("core_broke", exc_info=outcome.error)
            code = outcome.code or "internal_error"
            self._patiently(lambda session: lifecycle.give_back(session, claim, code, counts=True))
            raise Away("the core broke on an item")

    def _abandon(self, claim: Claim) -> None:
        if claim.resumable is not None:
            self._patiently(lambda session: lifecycle.abandon(session, claim))

    def _publish(self, claim: Claim, keys: DrawnKeys, outcome: Released) -> None:
        attempt_id = uuid4()
        made = _made(claim, attempt_id, outcome, self._core.model_version)
        sealed = patiently(
            lambda: self._sealer.seal(claim, attempt_id, self._core.model_version, keys, outcome.locator),
            self._settings.patience_seconds,
        )
        with retired_told():
            self._patiently(lambda session: lifecycle.commit_attempt(session, claim, made, sealed))
        self._faults.reach("after-commit")
        self._upload(made, outcome)
        self._faults.reach("after-upload")
        self._finish(claim, attempt_id)

    def _upload(self, made: Made, outcome: Released) -> None:
        bucket = self._settings.bucket_releases
        content_type = CONTENT_TYPES[outcome.format]
        if self._faults.armed("during-upload"):
            self._faults.half_upload(self._storage.presigned_put(bucket, made.object_key), outcome.data)

        def put() -> None:
            try:
                self._storage.put(bucket, made.object_key, outcome.data, content_type=content_type)
            except ObjectExists:  # the answer to an earlier try of ours was lost on its way
                if hashlib.sha256(self._storage.get(bucket, made.object_key)).hexdigest() != made.sha256:
                    raise

        patiently(put, self._settings.patience_seconds)

    def _resume(self, claim: Claim, attempt: Resumable) -> None:
        log.info("attempt_resumed", fence=claim.fence)
        self._finish(claim, attempt.attempt_id)

    def _finish(self, claim: Claim, attempt_id: UUID) -> None:
        self._end(claim, lambda session: lifecycle.finish(session, claim, attempt_id))
        self._faults.reach("after-finish")

    def _end(self, claim: Claim, step: Callable[[Session], None]) -> None:
        """The item's last step, after which its uploaded copy has no reason to be."""
        self._patiently(step)
        key = sources.input_key(claim.source_uri, self._settings.bucket_input)
        if key is not None:
            try:
                self._storage.delete(self._settings.bucket_input, key)
            except WorkerError as error:  # the reconciler deletes it later
                log.warning("input_copy_left", exc_info=error)

    def _patiently(self, step: Callable[[Session], T]) -> T:
        def transaction() -> T:
            with self._sessions.begin() as session:
                return step(session)

        return patiently(transaction, self._settings.patience_seconds)


def patiently(step: Callable[[], T], seconds: float) -> T:
    """Run a step that may be run again, for as long as its engine is away but at most `seconds`."""
    deadline = time.monotonic() + seconds
    pause = 0.1
    while True:
        try:
            return step()
        except Exception as error:
            if not away(error) or time.monotonic() + pause > deadline:
                raise
            log.warning("engine_away", pause=pause, exc_info=error)
        time.sleep(pause)
        pause = min(pause * 2, 5.0)


def report_of(outcome: Released | Held) -> dict[str, Any]:
    """What the item's row says about an outcome: faces with their boxes and similarities, and milliseconds a stage."""
    return {
        "faces": [_face(face) for face in outcome.faces],
        "timings_ms": {stage: round(float(spent), 1) for stage, spent in outcome.timings_ms.items()},
        "payload_bytes": outcome.payload_bytes if isinstance(outcome, Released) else 0,
    }


def _face(face: FaceReport) -> dict[str, Any]:
    return {name: _plain(value) for name, value in asdict(face).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(each) for each in value]
    if isinstance(value, (str, bool)) or value is None:
        return str(value) if isinstance(value, str) else value
    return round(float(value), 4) if not isinstance(value, int) else value


def _made(claim: Claim, attempt_id: UUID, outcome: Released, model_version: str) -> Made:
    return Made(
        attempt_id=attempt_id,
        object_key=f"{claim.release_id}/{claim.item_id}/{attempt_id}.{outcome.format}",
        sha256=outcome.sha256,
        size_bytes=len(outcome.data),
        locator=outcome.locator,
        model_version=model_version,
        width=outcome.width,
        height=outcome.height,
        faces=len(outcome.faces),
        stego_psnr=float(outcome.stego_psnr),
        report=report_of(outcome),
    )


def _costs_an_attempt(error: Exception) -> bool:
    """Only what may be the image's fault: engines that are away, or refuse this worker everything, say nothing of it."""
    refused = isinstance(error, ReadRefused | KmsRefused | CustodyKeyRetired) or (
        isinstance(error, StorageError) and error.detail in REFUSED
    )
    return not (away(error) or refused)


def _bind(step: Callable[..., None], *arguments: Any) -> Callable[[], None]:
    return lambda: step(*arguments)
