"""The whole core: images in, images out. What design section 2 says of one image, in the order in which it says it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from refacex_core import images, weights
from refacex_core.anonymiser import Anonymiser
from refacex_core.audit import Audit, Unfit, check_faces
from refacex_core.donors import Donor, DonorBank
from refacex_core.errors import CoreError, FaceUnknown, PayloadMismatch, PayloadUnreadable
from refacex_core.faces import align
from refacex_core.faces.detect import CenterFace, Detection, YuNet
from refacex_core.faces.landmarks import Landmarks, oval_mask
from refacex_core.fingerprint import face_fingerprint, image_fingerprint, matches
from refacex_core.payload import codec
from refacex_core.payload.budget import share_out
from refacex_core.recognisers import sface
from refacex_core.recovery import Recovery
from refacex_core.release import ReadBackFailed, Stego, write_release
from refacex_core.sealing import open_face, open_layout
from refacex_core.stego.channel import Channel, capacity
from refacex_core.stego.framing import FaceGeometry, Header, Layout
from refacex_core.types import (
    RGB,
    FaceReport,
    Failed,
    Held,
    HoldReason,
    ItemInput,
    Outcome,
    Profile,
    RecoveredFace,
    RecoveryKeys,
    Released,
    SealContext,
)

MODEL_ID = 1
DONORS_TRIED = 5
#: Cosine on SFace between original and released face: good enough to stop trying donors, and the most that is released.
GOOD_SIMILARITY, MOST_SIMILARITY = 0.12, 0.30
_BATCH = 16  # faces through the network at once
_SHARES = (1.0, 0.7, 0.5)  # of an image's capacity, where a file does not read back at full load


class _Hold(Exception):
    """Internal: the image is held."""

    def __init__(self, reason: HoldReason) -> None:
        self.reason = reason


@dataclass
class _Face:
    """A face on its way: where it is, its original, its donors, and the best result so far."""

    detection: Detection
    geometry: FaceGeometry
    crop: RGB
    points: NDArray[np.float32]
    code: NDArray[np.float32]
    mask: NDArray[np.float32]
    donors: list[Donor] = field(default_factory=list)
    tried: int = 0
    result: RGB = field(default_factory=lambda: np.zeros((256, 256, 3), np.uint8))
    donor: Donor | None = None
    similarity: float = 1.0
    donor_similarity: float = 0.0
    payload: bytes = b""


@dataclass
class _Job:
    """An item on its way."""

    item: ItemInput
    rgb: RGB
    faces: list[_Face]
    clock: Clock


class Clock:
    """Milliseconds a stage."""

    def __init__(self) -> None:
        self.ms: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str, share: int = 1) -> Iterator[None]:
        """Adds the time spent inside, divided by `share` items that were worked on together."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.ms[name] = self.ms.get(name, 0.0) + (time.perf_counter() - start) * 1000 / share


class Core:
    """Everything loaded once. `model_version` names the weights; `model_id` is its number in a released header."""

    model_id = MODEL_ID

    def __init__(self, device: torch.device, max_pixels: int = images.MAX_PIXELS) -> None:
        self.device, self._max_pixels = device, max_pixels
        self.model_version = f"refacex-{weights.card('anonymiser').get('version', MODEL_ID)}"
        self._yunet, self._centerface = YuNet(), CenterFace()
        self._landmarks = Landmarks(device)
        self._anonymiser = Anonymiser()
        weights.load_into(self._anonymiser.unet, "anonymiser")
        self._anonymiser.to(device).eval()
        self._bank = DonorBank(self._anonymiser.appearance)
        self._sface = sface()
        self._channel = Channel(device)
        self._recovery = Recovery(device)
        self.audit = Audit(self._yunet, self._centerface, self._sface)

    @classmethod
    def load(cls, device: str = "auto", *, max_pixels: int = images.MAX_PIXELS) -> Core:
        """Load all networks. `device`: auto, cpu or cuda. Images of more than `max_pixels` are refused undecoded.

        Raises ModelFileMissing and ModelFileCorrupt.
        """
        chosen = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        return cls(torch.device(chosen), max_pixels)

    def _pixels_of(self, data: bytes) -> RGB:
        return images.decode(data, max_pixels=self._max_pixels).rgb

    # -- release ------------------------------------------------------------------------------------------------------

    def anonymise(self, items: Sequence[ItemInput], *, keep_anonymised: bool = False) -> list[Outcome]:
        """Each item released, held or failed, in order. One bad item never stops the others."""
        outcomes: dict[int, Outcome] = {}
        jobs: dict[int, _Job] = {}
        for i, item in enumerate(items):
            clock = Clock()
            try:
                jobs[i] = self._prepare(item, clock)
            except Exception as error:  # one item's failure is that item's outcome
                outcomes[i] = _outcome(error, clock)
        self._replace([(job, face) for job in jobs.values() for face in job.faces])
        for i, job in jobs.items():
            try:
                outcomes[i] = self._finish(job, keep_anonymised)
            except Exception as error:
                outcomes[i] = _outcome(error, job.clock, job)
        return [outcomes[i] for i in range(len(items))]

    def _prepare(self, item: ItemInput, clock: Clock) -> _Job:
        with clock.stage("decode"):
            rgb = self._pixels_of(item.data)
        with clock.stage("detect"):
            found = self._yunet(rgb)
            check_faces(found, rgb.shape[:2])
        if not found and not item.options.release_without_face:
            raise _Hold(HoldReason.NO_FACE)
        room = capacity(rgb.shape[0], rgb.shape[1], item.options.profile)
        share_out(room, [1.0] * max(len(found), 1), item.options.profile)  # refuses a crowd before the work begins
        with clock.stage("align"):
            faces = self._align(rgb, sorted(found, key=lambda d: (d.box[0], d.box[1])))
        for face in faces:
            skin = _skin(face)
            face.donors = self._bank.choose(
                item.options.donor_policy, face.code, face.points, skin, DONORS_TRIED, item.options.donor_seed
            )
        return _Job(item, rgb, faces, clock)

    def _align(self, rgb: RGB, found: Sequence[Detection]) -> list[_Face]:
        if not found:
            return []
        geometries = [FaceGeometry.from_matrix(align.similarity(d.points)) for d in found]
        crops = np.stack([align.crop(rgb, g.matrix()) for g in geometries])
        points = self._landmarks(_tensor(crops)).cpu().numpy()
        codes = self._sface(crops)
        return [
            _Face(d, g, c, p, e, oval_mask(p))
            for d, g, c, p, e in zip(found, geometries, crops, points, codes, strict=True)
        ]

    def _replace(self, work: list[tuple[_Job, _Face]]) -> None:
        """Anonymise all faces of all jobs, and again with their next donors while they look like themselves."""
        for attempt in range(DONORS_TRIED):
            open_ = [(j, f) for j, f in work if attempt < len(f.donors) and f.similarity > GOOD_SIMILARITY]
            for start in range(0, len(open_), _BATCH):
                part = open_[start : start + _BATCH]
                with part[0][0].clock.stage("anonymise"):
                    self._replace_batch([f for _, f in part], attempt)

    @torch.inference_mode()
    def _replace_batch(self, faces: list[_Face], attempt: int) -> None:
        source = _tensor(np.stack([f.crop for f in faces])).to(self.device)
        points = torch.from_numpy(np.stack([f.points for f in faces])).to(self.device)
        donors = [f.donors[attempt] for f in faces]
        out = self._anonymiser(source, points, torch.from_numpy(np.stack([d.code for d in donors])).to(self.device))
        crops = _pixels(out.crop)
        for face, donor, crop, seen in zip(faces, donors, crops, self._sface(crops), strict=True):
            face.tried = attempt + 1
            similarity = float(seen @ face.code)
            if face.donor is None or similarity < face.similarity:
                face.result, face.donor, face.similarity = crop, donor, similarity
                face.donor_similarity = float(seen @ donor.code)

    def _finish(self, job: _Job, keep_anonymised: bool) -> Released:
        if any(face.donor is None or face.similarity > MOST_SIMILARITY for face in job.faces):
            raise _Hold(HoldReason.IDENTITY_LEAK)
        with job.clock.stage("paste"):
            anonymised = job.rgb
            for face in job.faces:
                anonymised = align.paste(anonymised, face.result, face.mask, face.geometry.matrix())
        stego = self._write(job, anonymised)
        with job.clock.stage("audit"):
            similar = self.audit(
                stego.seen, [(f.geometry, f.detection.box, f.code) for f in job.faces], MOST_SIMILARITY
            )
            if isinstance(similar, HoldReason):
                raise _Hold(similar)
        for face, value in zip(job.faces, similar, strict=True):
            face.similarity = value
        return _released(job, stego, anonymised if keep_anonymised else None)

    def _write(self, job: _Job, anonymised: RGB) -> Stego:
        """The finished file; one that does not read back is written again with less payload, then held."""
        options = job.item.options
        sizes = [f.detection.box[2] * f.detection.box[3] for f in job.faces]
        for share in _SHARES:
            with job.clock.stage("payload"):
                room = int(capacity(job.rgb.shape[0], job.rgb.shape[1], options.profile) * share)
                for face, budget in zip(job.faces, share_out(room, sizes, options.profile), strict=True):
                    face.payload = codec.encode(face.crop, face.mask, budget)
            try:
                with job.clock.stage("embed"):
                    return write_release(
                        self._channel, anonymised, [(f.geometry, f.payload) for f in job.faces], job.item, MODEL_ID
                    )
            except ReadBackFailed:
                continue
        raise _Hold(HoldReason.READ_BACK_FAILED)

    # -- recovery -----------------------------------------------------------------------------------------------------

    def inspect(self, data: bytes) -> Header:
        """The public header of a released file. PayloadMissing, BadImage."""
        return self._channel.read_header(self._channel.listen(self._pixels_of(data)))

    def recover(self, data: bytes, keys: RecoveryKeys, context: SealContext) -> list[RecoveredFace]:
        """The original faces for which there are keys, from a released file alone.

        Raises WrongKey, PayloadMismatch (another photograph's payload), PayloadMissing, PayloadUnreadable, FaceUnknown.
        """
        rgb = self._pixels_of(data)
        llr = self._channel.listen(rgb)
        header = self._channel.read_header(llr)
        sealed = self._channel.read_sealed(rgb, llr, header, keys.layout_key)
        try:
            layout = open_layout(header, sealed, keys.layout_key, context)
        except PayloadMismatch:
            if header.profile is Profile.ROBUST:  # its error correction answered: these are the bytes, of another item
                raise
            raise PayloadUnreadable("an archive release is readable from its PNG alone, as released") from None
        crops = _compare(rgb, layout)
        recovered = []
        for index, key in sorted(keys.face_keys.items()):
            if not 0 <= index < len(layout.faces):
                raise FaceUnknown(f"face {index} of {len(layout.faces)}")
            view = codec.decode(open_face(header, sealed, layout, index, key, context))
            crop = self._recovery(crops[index], view)
            recovered.append(RecoveredFace(index, crop, layout.faces[index].geometry.matrix()))
        return recovered

    def restore(self, data: bytes, faces: Sequence[RecoveredFace]) -> RGB:
        """The released image with recovered faces laid back."""
        whole = self._pixels_of(data)
        for face in faces:
            points = self._landmarks(_tensor(face.crop[None])).cpu().numpy()[0]
            whole = align.paste(whole, face.crop, oval_mask(points, feather=3.0, shrink=1.04), face.matrix)
        return whole


def _compare(rgb: RGB, layout: Layout) -> list[RGB]:
    """The released crops, after checking that this is the photograph the payload was made for."""
    if not matches(image_fingerprint(rgb), layout.fingerprint):
        raise PayloadMismatch
    crops = [align.crop(rgb, face.geometry.matrix()) for face in layout.faces]
    for crop, face in zip(crops, layout.faces, strict=True):
        if not matches(face_fingerprint(crop), face.fingerprint):
            raise PayloadMismatch
    return crops


def _released(job: _Job, stego: Stego, anonymised: RGB | None) -> Released:
    return Released(
        data=stego.data,
        format=job.item.options.format,
        sha256=stego.sha256,
        locator=stego.header.locator,
        width=job.rgb.shape[1],
        height=job.rgb.shape[0],
        faces=_reports(job, True),
        payload_bytes=stego.header.sealed_bytes,
        stego_psnr=stego.psnr,
        timings_ms=_rounded(job.clock.ms),
        anonymised=anonymised,
    )


def _reports(job: _Job, released: bool) -> tuple[FaceReport, ...]:
    return tuple(
        FaceReport(
            index=i,
            box=tuple(round(float(v), 1) for v in f.detection.box),  # type: ignore[arg-type]
            released=released,
            reason=HoldReason.IDENTITY_LEAK if not released and f.similarity > MOST_SIMILARITY else None,
            donor=f.donor.name if f.donor else None,
            donor_similarity=round(f.donor_similarity, 4) if f.donor else None,
            audit_similarity=round(f.similarity, 4) if f.donor else None,
            payload_bytes=len(f.payload),
            donors_tried=f.tried,
        )
        for i, f in enumerate(job.faces)
    )


def _outcome(error: Exception, clock: Clock, job: _Job | None = None) -> Outcome:
    if isinstance(error, _Hold | Unfit):
        return Held(error.reason, _reports(job, False) if job else (), _rounded(clock.ms))
    code = error.code if isinstance(error, CoreError) else "internal_error"
    return Failed(error, code, _rounded(clock.ms))


def _rounded(ms: Mapping[str, float]) -> dict[str, float]:
    return {k: round(v, 2) for k, v in ms.items()}


def _skin(face: _Face) -> NDArray[np.float64]:
    """Mean colour under the mask, 0..1."""
    weight = face.mask[..., None]
    colour: NDArray[np.float64] = (face.crop / 255.0 * weight).sum((0, 1)) / max(float(weight.sum()), 1e-6)
    return colour


def _tensor(crops: NDArray[np.uint8]) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(crops)).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def _pixels(tensor: torch.Tensor) -> NDArray[np.uint8]:
    out: NDArray[np.uint8] = tensor.clamp(-1, 1).add(1).mul(127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return out
