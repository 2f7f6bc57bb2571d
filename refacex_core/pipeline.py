"""The whole core: images in, images out. What design section 2 says of one image, in the order in which it says it."""

from __future__ import annotations

import secrets
import time
from collections.abc import Collection, Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from refacex_core import images, weights
from refacex_core.anonymiser import GENTLE, MOVED, STRONG, Anonymiser, Drawing, Sketch
from refacex_core.audit import Audit, Unfit
from refacex_core.donors import Donor, DonorBank
from refacex_core.errors import (
    AlreadyReleased,
    DeviceUnavailable,
    FaceUnknown,
    ImageTooSmall,
    PayloadMismatch,
    PayloadUnreadable,
)
from refacex_core.faces import align
from refacex_core.faces.detect import CenterFace, Detection, YuNet
from refacex_core.faces.landmarks import Landmarks, oval_mask
from refacex_core.fingerprint import face_fingerprint, image_fingerprint, matches
from refacex_core.gates import MOST_SIMILARITY
from refacex_core.item import Candidate, Clock, Face, Job, good, order, outcome, released
from refacex_core.looks import Looks
from refacex_core.payload import codec
from refacex_core.payload.budget import share_out
from refacex_core.reader import Opened, Reader
from refacex_core.recognisers import Recogniser, sface, views
from refacex_core.release import ReadBackFailed, Stego, Survival, write_release
from refacex_core.sealing import open_face, open_layout, sealed_size
from refacex_core.stego import mark
from refacex_core.stego.framing import FaceGeometry, Header, Layout
from refacex_core.types import (
    RGB,
    DonorPolicy,
    HoldReason,
    ItemInput,
    Outcome,
    Profile,
    RecoveredFace,
    RecoveryKeys,
    Released,
    SealContext,
)
from refacex_core.versions import CURRENT, version_name

DONORS_TRIED = 12  # of whom no more than the shape is drawn
DRAWN_AGAIN = 4  # of these, who left a face least like itself: drawn gently where none was good, then strongly
SPARE_DONORS = 4  # drawn strongly, for a face that none of those made unlike itself
_MOST = 0.8  # of a photograph: where so much is there, it can be told from another one
_AROUND = 24  # pixels of the image around a crop that the unembedder sees as well
_NOISE, _RIM = 7.0, 16  # levels; pixels of the crop's border that stay as released
_GREY = 8  # where no pixel's colours are further apart, the photograph is black and white
_BATCH = 16  # faces through the network at once
#: A file that does not read back is written again with so much less of its payload, and at last it has to live through less.
_WRITES = ((1.0, Survival.OFTEN), (0.8, Survival.OFTEN), (0.8, Survival.LEAST), (0.5, Survival.LEAST))


class Core:
    """Everything loaded once. `model_version` names the networks that read its files; `model_id` is their number in a header."""

    model_id = CURRENT

    def __init__(
        self, device: torch.device, max_pixels: int = images.MAX_PIXELS, judges: Sequence[Recogniser] = ()
    ) -> None:
        self.device, self._max_pixels, self._judges = device, max_pixels, judges
        self.model_version = version_name(self.model_id)
        self._landmarks = Landmarks(device)
        self._anonymiser = Anonymiser()
        weights.load_into(self._anonymiser.unet, "anonymiser")
        self._anonymiser.to(device).eval()
        self._bank = DonorBank(self._anonymiser.appearance)
        self._sface = sface()
        self.reader = Reader(device)
        self._model = self.reader.model(self.model_id)
        self.audit = Audit(YuNet(), CenterFace(), self._sface)

    @classmethod
    def load(
        cls, device: str = "auto", *, max_pixels: int = images.MAX_PIXELS, judges: Sequence[Recogniser] = ()
    ) -> Core:
        """Load all networks. `device`: auto, cpu or cuda. Images of more than `max_pixels` are refused undecoded.
        `judges` say of each released face how like its original it is to them; they decide nothing.

        Raises DeviceUnavailable, ModelFileMissing and ModelFileCorrupt.
        """
        if device not in ("auto", "cpu", "cuda") or (device == "cuda" and not torch.cuda.is_available()):
            raise DeviceUnavailable(device)
        chosen = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        return cls(torch.device(chosen), max_pixels, judges)

    def _pixels_of(self, data: bytes) -> RGB:
        return images.decode(data, max_pixels=self._max_pixels).rgb

    # -- release ------------------------------------------------------------------------------------------------------

    def anonymise(self, items: Sequence[ItemInput], *, keep_anonymised: bool = False) -> list[Outcome]:
        """Each item released, held or failed, in order. One bad item never stops the others."""
        outcomes: dict[int, Outcome] = {}
        jobs: dict[int, Job] = {}
        for i, item in enumerate(items):
            clock = Clock()
            try:
                jobs[i] = self._prepare(item, clock)
            except Exception as error:  # one item's failure is that item's outcome
                outcomes[i] = outcome(error, clock)
        self._replace([(job, face) for job in jobs.values() for face in job.faces])
        for i, job in jobs.items():
            try:
                outcomes[i] = self._finish(job, keep_anonymised)
            except Exception as error:
                outcomes[i] = outcome(error, job.clock, job)
        return [outcomes[i] for i in range(len(items))]

    def _prepare(self, item: ItemInput, clock: Clock) -> Job:
        with clock.stage("decode"):
            rgb = self._pixels_of(item.data)
            if not item.options.release_again and self.reader.bears(rgb):
                raise AlreadyReleased
        with clock.stage("detect"):
            found = self.audit.find(rgb)
        if not found and not item.options.release_without_face:
            raise Unfit(HoldReason.NO_FACE)
        room = self._model.capacity(rgb.shape[0], rgb.shape[1], item.options.profile)
        areas = [d.box[2] * d.box[3] for d in found] or [1.0]
        share_out(room, areas, item.options.profile)  # refuses a crowd before the work begins
        with clock.stage("align"):
            faces = self._align(rgb, sorted(found, key=lambda d: (d.box[0], d.box[1])))
        policy = item.options.donor_policy
        with clock.stage("donors"):
            looks: Sequence[Looks | None] = [None] * len(faces)
            if policy is not DonorPolicy.STABLE:
                looks = self._looks(faces)
        for i, face in enumerate(faces):
            seed = item.options.donor_seed
            if seed is not None and i:
                seed += bytes([i])  # a subject's seed names one donor; others beside it get donors of their own
            face.donors = self._bank.choose(policy, face.code, looks[i], DONORS_TRIED, seed, SPARE_DONORS)
        return Job(item, rgb, faces, clock)

    def _align(self, rgb: RGB, found: Sequence[Detection]) -> list[Face]:
        if not found:
            return []
        geometries = [FaceGeometry.from_matrix(align.similarity(d.points)) for d in found]
        crops = np.stack([align.crop(rgb, g.matrix()) for g in geometries])
        points = self._landmarks(_tensor(crops)).cpu().numpy()
        codes = self._codes(crops, self._sface(crops))
        grey = bool(np.ptp(rgb, axis=2).max() <= _GREY)
        masks = [oval_mask(p) for p in points]
        grains = [align.grain(rgb, m, g.matrix(), secrets.randbits(64)) for m, g in zip(masks, geometries, strict=True)]
        return [
            Face(d, g, c, p, e, m, n, grey)
            for d, g, c, p, e, m, n in zip(found, geometries, crops, points, codes, masks, grains, strict=True)
        ]

    def _codes(self, crops: NDArray[np.uint8], plain: NDArray[np.float32]) -> NDArray[np.float32]:
        """Of crops' views (N x 3 x 128), where the crops' own codes are `plain` (N x 128)."""
        others = views(crops)[1:]
        codes = self._sface(others.reshape(-1, *crops.shape[1:])).reshape(len(others), len(crops), -1)
        return np.concatenate([plain[None], codes]).transpose(1, 0, 2)

    def _looks(self, faces: Sequence[Face]) -> Sequence[Looks]:
        if not faces:
            return []
        crops = _tensor(np.stack([f.crop for f in faces]))
        points = torch.from_numpy(np.stack([f.points for f in faces]))
        return self._bank.looks(crops.to(self.device), points.to(self.device))

    def _replace(self, work: list[tuple[Job, Face]]) -> None:
        """Anonymise all faces of all jobs, and again with their next donors while they look like themselves."""
        for attempt in range(DONORS_TRIED + 2 * DRAWN_AGAIN + SPARE_DONORS):
            turns = [(j, f, turn) for j, f in work if j.error is None and (turn := _turn(j, f, attempt)) is not None]
            for drawing in (MOVED, GENTLE, STRONG):
                some = [(j, f, donor) for j, f, (donor, how) in turns if how is drawing]
                for start in range(0, len(some), _BATCH):
                    self._replace_some(some[start : start + _BATCH], drawing)
            waiting = {id(face) for _, face, _ in turns}
            for _, face in work:
                if id(face) not in waiting:  # done with
                    face.sketches.clear()
        for _, face in work:
            face.sketches.clear()

    def _replace_some(self, part: list[tuple[Job, Face, Donor]], drawing: Drawing) -> None:
        """One batch; when it fails, face by face, so that only the item at fault fails."""
        start = time.perf_counter()
        try:
            self._try([(face, donor) for _, face, donor in part], drawing)
        except Exception as error:
            if len(part) == 1:
                part[0][0].error = error
                return
            for one in part:
                self._replace_some([one], drawing)
            return
        for job, _, _ in part:
            job.clock.add("anonymise", (time.perf_counter() - start) / len(part))

    @torch.inference_mode()
    def _try(self, pairs: list[tuple[Face, Donor]], drawing: Drawing) -> None:
        """One more candidate for each face, or for none."""
        source = _tensor(np.stack([f.crop for f, _ in pairs])).to(self.device)
        mask = torch.from_numpy(np.stack([f.mask for f, _ in pairs]))[:, None].to(self.device)
        sketch = self._sketches(pairs, source, mask, keep=drawing is MOVED)
        made = self._anonymiser.draw(source, mask, sketch, drawing)
        crops, drawn = _pixels(made.crop), _pixels(made.face)
        pictures = [_grey(each) if face.grey else each for (face, _), each in zip(pairs, drawn, strict=True)]
        codes = self._sface(crops)
        similar = np.array([code @ face.code for (face, _), code in zip(pairs, codes, strict=True)])
        over_views = similar.copy()
        near = np.flatnonzero(similar <= MOST_SIMILARITY)  # the others are not released, whatever other views show
        if len(near):
            of = np.stack([pairs[i][0].codes for i in near])
            over_views[near] = (self._codes(crops[near], codes[near]) * of).sum(2).mean(1)
        for i, ((face, donor), picture) in enumerate(zip(pairs, pictures, strict=True)):
            seen = float(similar[i]), float(over_views[i]), float(codes[i] @ donor.code)
            face.candidates.append(Candidate(donor, picture, *seen))
            if face.next_donor is donor:  # and not drawn again
                face.tried += 1

    def _sketches(self, pairs: list[tuple[Face, Donor]], source: Tensor, mask: Tensor, *, keep: bool) -> Sketch:
        """What each pair's donor is drawn from; `keep` new ones with their face, in half precision, to draw the donor again."""
        new = [i for i, (face, donor) in enumerate(pairs) if donor.name not in face.sketches]
        rows = {i: face.sketches[donor.name] for i, (face, donor) in enumerate(pairs) if i not in new}
        if new:
            points = torch.from_numpy(np.stack([pairs[i][0].points for i in new])).to(self.device)
            codes = torch.from_numpy(np.stack([pairs[i][1].code for i in new])).to(self.device)
            parts = self._anonymiser.sketch(source[new], points, codes, mask[new])
            for place, i in enumerate(new):
                rows[i] = Sketch(*(part[place : place + 1] for part in parts))
                if keep:
                    face, donor = pairs[i]
                    face.sketches[donor.name] = Sketch(*(part.half() for part in rows[i]))
        ordered = zip(*(rows[i] for i in range(len(pairs))), strict=True)
        return Sketch(*(torch.cat([row.float() for row in part]) for part in ordered))

    def _finish(self, job: Job, keep_anonymised: bool) -> Released:
        """Paste, embed, write, audit; what the audit turns down is done again with the next donor, then held."""
        if job.error is not None:
            raise job.error
        for face in job.faces:
            order(job, face)
        while True:
            anonymised = self._paste(job)
            stego = self._write(job, anonymised)
            with job.clock.stage("audit"):
                verdict = self.audit(stego.seen, [(f.geometry, f.box, f.code) for f in job.faces], MOST_SIMILARITY)
            for i, (face, value) in enumerate(zip(job.faces, verdict.similar, strict=True)):
                face.audited, face.reason = value, verdict.reason if i in verdict.faces else None
            if verdict.reason is None:
                self._judge(job, stego.seen)
                return released(job, stego, anonymised if keep_anonymised else None)
            if not verdict.faces or not all(self._next_candidate(job, job.faces[i]) for i in verdict.faces):
                raise Unfit(verdict.reason, verdict.boxes)

    def _judge(self, job: Job, seen: RGB) -> None:
        if not (self._judges and job.faces):
            return
        with job.clock.stage("judge"):
            before = np.stack([face.crop for face in job.faces])
            after = np.stack([align.crop(seen, face.geometry.matrix()) for face in job.faces])
            for judge in self._judges:
                for face, cosine in zip(job.faces, (judge(before) * judge(after)).sum(1), strict=True):
                    face.judged[judge.name] = float(cosine)

    def _paste(self, job: Job) -> RGB:
        for face in job.faces:
            while face.candidates[0].likeness > MOST_SIMILARITY:
                face.audited = face.candidates[0].likeness
                if not self._next_candidate(job, face):
                    face.reason = HoldReason.IDENTITY_LEAK
                    raise Unfit(HoldReason.IDENTITY_LEAK)
        with job.clock.stage("paste"):
            anonymised = job.rgb
            for face in job.faces:
                anonymised = _pasted(anonymised, face)
        return anonymised

    def _next_candidate(self, job: Job, face: Face) -> bool:
        """Drop the donor in use for the next best, trying those that were not yet; False when there is none."""
        if len(face.candidates) == 1 and face.next_donor is not None:
            with job.clock.stage("anonymise"):
                self._try([(face, face.next_donor)], _drawing(job, face))
                face.sketches.clear()
        if len(face.candidates) == 1:
            return False
        face.candidates.pop(0)
        return True

    def _write(self, job: Job, anonymised: RGB) -> Stego:
        """The finished file; one that does not read back is written again with less payload, then held."""
        options = job.item.options
        areas = [f.box[2] * f.box[3] for f in job.faces]
        room = self._model.capacity(job.rgb.shape[0], job.rgb.shape[1], options.profile)
        written = False
        for share, survival in _WRITES:
            with job.clock.stage("payload"):
                try:
                    budgets = share_out(int(room * share), areas, options.profile)
                    for face, budget in zip(job.faces, budgets, strict=True):
                        if options.profile is Profile.ARCHIVE:
                            face.payload = codec.encode(_without_neighbours(job, face), None, budget)
                        else:
                            face.payload = codec.encode(face.crop, face.mask, budget)
                except (ImageTooSmall, PayloadUnreadable):  # not so few bytes
                    break
            faces = [(f.geometry, f.payload) for f in job.faces]
            try:
                with job.clock.stage("embed"):
                    return write_release(self._model, anonymised, faces, job.item, self._max_pixels, survival)
            except ReadBackFailed:
                if not written:  # the shares are of what was tried first
                    room, written = min(room, sealed_size([len(f.payload) for f in job.faces])), True
        raise Unfit(HoldReason.READ_BACK_FAILED)

    # -- recovery -----------------------------------------------------------------------------------------------------

    def inspect(self, data: bytes) -> Header:
        """The public header of a released file. PayloadMissing, ModelUnknown, BadImage."""
        return self.reader.listen(self._pixels_of(data)).header

    def recover(self, data: bytes, keys: RecoveryKeys, context: SealContext) -> list[RecoveredFace]:
        """The original faces for which there are keys, from a released file alone.

        Raises ModelUnknown, WrongKey, PayloadMismatch (another photograph's payload), PayloadMissing, PayloadUnreadable, FaceUnknown.
        """
        rgb = self._pixels_of(data)
        heard = self.reader.listen(rgb)
        header = heard.header
        opened = heard.open(keys.layout_key, self._max_pixels)
        try:
            layout = open_layout(header, opened.sealed, keys.layout_key, context)
        except PayloadMismatch:
            if header.profile is Profile.ROBUST:  # its error correction answered: these are the bytes, of another item
                raise
            raise PayloadUnreadable("an archive release is readable from its PNG alone, as released") from None
        for index in keys.face_keys:
            if not 0 <= index < len(layout.faces):
                raise FaceUnknown(f"face {index} of {len(layout.faces)}")
        there = _compare(opened, layout, keys.face_keys)
        geometries = {index: layout.faces[index].geometry.matrix() for index in sorted(there)}
        windows = [align.reach(matrix, _AROUND) for matrix in geometries.values()]
        before = heard.model.unembed(opened, header, keys.layout_key, windows)
        recovered = []
        for index, matrix in geometries.items():
            payload = open_face(header, opened.sealed, layout, index, keys.face_keys[index], context)
            crop = heard.model.face(header.profile, align.crop(before, matrix), payload)
            top, left = (opened.shown or (0, 0))[:2]
            recovered.append(RecoveredFace(index, crop, align.moved(matrix, left, top)))
        return recovered

    def mark(self, crop: RGB, ticket: bytes) -> RGB:
        """A recovered face (256 x 256 x 3) with its ticket's 16 bytes embedded, for whoever finds it later."""
        return mark.write(self._model.channel, crop, ticket)

    def read_mark(self, data: bytes) -> bytes | None:
        """The ticket that a recovered face was marked with; None where there is no mark. Raises BadImage."""
        rgb = self._pixels_of(data)
        found = (mark.read(channel, rgb) for channel in self.reader.channels())
        return next((ticket for ticket in found if ticket is not None), None)

    def restore(self, data: bytes, faces: Sequence[RecoveredFace]) -> RGB:
        """The released image with recovered faces laid back: the face's oval, and whatever else had been changed."""
        released = whole = self._pixels_of(data)
        for face in faces:
            points = self._landmarks(_tensor(face.crop[None])).cpu().numpy()[0]
            changed = _changed(align.crop(released, face.matrix), face.crop)
            mask: NDArray[np.float32] = np.maximum(oval_mask(points, feather=3.0, forehead=1.06, jaw=1.04), changed)
            whole = align.paste(whole, face.crop, mask, face.matrix)
        return whole


def _turn(job: Job, face: Face, attempt: int) -> tuple[Donor, Drawing] | None:
    """Who is tried next on a face and how it is drawn; None where nobody is, or what there is will do.

    Of each donor the shape alone; then gently, and then strongly, those that left it least like itself, in the order in which chance had
    drawn them (`DonorBank._draw` says why), and the spare ones. For policy `stable` each strongly: the first that will do is the subject's.
    """
    again, spare = attempt - DONORS_TRIED, attempt - DONORS_TRIED - 2 * DRAWN_AGAIN
    if good(job, face) or (spare >= 0 and face.best <= MOST_SIMILARITY):
        return None
    if again >= 0 > spare and not job.stable:
        moved = face.candidates[: face.tried]  # those that follow were drawn again
        least_alike = sorted(range(len(moved)), key=lambda i: moved[i].rank)[:DRAWN_AGAIN]
        which, drawing = again % DRAWN_AGAIN, GENTLE if again < DRAWN_AGAIN else STRONG
        return (moved[sorted(least_alike)[which]].donor, drawing) if which < len(least_alike) else None
    return None if face.next_donor is None else (face.next_donor, _drawing(job, face))


def _drawing(job: Job, face: Face) -> Drawing:
    """How the next donor is drawn."""
    return MOVED if face.tried < DONORS_TRIED and not job.stable else STRONG


def _changed(released: RGB, recovered: RGB) -> NDArray[np.float32]:
    """Where two crops differ by more than the payload's noise (256 x 256, 0..1), with a margin and a soft edge."""
    difference = np.abs(released.astype(np.float32) - recovered).mean(2)
    inside = (cv2.GaussianBlur(difference, (0, 0), 3.0) > _NOISE).astype(np.float32)
    inside[:_RIM], inside[-_RIM:], inside[:, :_RIM], inside[:, -_RIM:] = 0, 0, 0, 0
    wide = cv2.dilate(inside, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (9, 9)))
    return np.asarray(cv2.GaussianBlur(wide, (0, 0), 2.0), np.float32)


def _compare(opened: Opened, layout: Layout, wanted: Collection[int]) -> set[int]:
    """Which of the wanted faces are there. Raises PayloadMismatch unless this is the photograph that the payload was made for.

    A whole photograph and all of its faces are compared. Of a piece: every face that is wholly in it, a photograph of which most is
    there as well, and of the wanted faces at least one has to be there.
    """
    shown = opened.shown
    fingerprint = image_fingerprint(opened.rgb)
    enough = shown is None or _share(opened.rgb, shown) >= _MOST
    if enough and not matches(fingerprint, layout.fingerprint, piece=shown is not None):
        raise PayloadMismatch("" if shown is None else "or too much of it was cut away")
    there: set[int] = set()
    for index, face in enumerate(layout.faces):
        matrix = face.geometry.matrix()
        if matches(face_fingerprint(align.crop(opened.rgb, matrix)), face.fingerprint):
            there.add(index)
        elif shown is None or _within(align.reach(matrix), shown):
            raise PayloadMismatch
    there &= set(wanted)
    if wanted and not there:
        raise PayloadMismatch("or what is close around this face was cut away")
    return there


def _share(whole: RGB, shown: tuple[int, int, int, int]) -> float:
    """How much of an image a piece shows (0..1)."""
    top, left, bottom, right = shown
    height, width = whole.shape[:2]
    return float((min(bottom, height) - max(top, 0)) * (min(right, width) - max(left, 0)) / (height * width))


def _within(inner: tuple[int, int, int, int], outer: tuple[int, int, int, int]) -> bool:
    return inner[0] >= outer[0] and inner[1] >= outer[1] and inner[2] <= outer[2] and inner[3] <= outer[3]


def _pasted(image: RGB, face: Face) -> RGB:
    """The image with a face replaced: wherever it is pasted, the same pixels."""
    return align.paste(image, face.candidates[0].face, face.mask, face.geometry.matrix(), face.grain)


def _grey(picture: RGB) -> RGB:
    return np.repeat(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[..., None], 3, 2)


def _without_neighbours(job: Job, face: Face) -> RGB:
    """The original crop of one face with every other face in it replaced: its payload must not give those away."""
    whole = job.rgb
    for other in job.faces:
        if other is not face:
            whole = _pasted(whole, other)
    return align.crop(whole, face.geometry.matrix())


def _tensor(crops: NDArray[np.uint8]) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(crops)).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def _pixels(tensor: torch.Tensor) -> NDArray[np.uint8]:
    out: NDArray[np.uint8] = tensor.clamp(-1, 1).add(1).mul(127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return out
