"""Face recognisers behind one interface: aligned crops to unit vectors.

SFace gives donor codes and gates releases; dlib judges in evaluation; any ArcFace-style ONNX file can be added.
SFace: Zhong et al., *SFace: sigmoid-constrained hypersphere loss for robust face recognition* (2021).
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

# ONNX Runtime's wheels report who runs them, and how, to their maker: switched off before it is loaded.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import onnxruntime as ort
from numpy.typing import NDArray

from refacex_core.errors import ModelFileMissing, RecogniserUnknown
from refacex_core.faces.align import CROP_TO_ARCFACE
from refacex_core.gates import GATE, SFACE_SAME_PERSON
from refacex_core.models import DLIB_RESNET, SFACE, locate

Vectors = NDArray[np.float32]


class Recogniser(Protocol):
    """Crops (N x 256 x 256 x 3 uint8) to unit vectors (N x D); `threshold` is the cosine at FAR 1e-3 on LFW, if known."""

    name: str
    threshold: float | None

    def __call__(self, crops: NDArray[np.uint8]) -> Vectors: ...


REGISTRY: dict[str, Callable[[], Recogniser]] = {}


def register(name: str) -> Callable[[Callable[[], Recogniser]], Callable[[], Recogniser]]:
    """Make a recogniser known under `name`; one test runs over all of them."""

    def add(factory: Callable[[], Recogniser]) -> Callable[[], Recogniser]:
        REGISTRY[name] = factory
        return factory

    return add


def judges(names: Sequence[str] | None = None) -> list[Recogniser]:
    """Recognisers that only judge: those named, or all but the gate's own that can be loaded here.

    Raises RecogniserUnknown for a name that nobody registered, and what its loading raises for one that was named.
    """
    if names is not None:
        unknown = [name for name in names if name not in REGISTRY]
        if unknown:
            raise RecogniserUnknown(unknown[0])
        return [REGISTRY[name]() for name in names]
    found = []
    for name, factory in REGISTRY.items():
        if name == GATE:
            continue
        try:
            found.append(factory())
        except (ImportError, ModelFileMissing):  # dlib comes with the `evaluation` extra
            continue
    return found


def arcface_view(crops: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Crops at the ArcFace template (N x 112 x 112 x 3)."""
    views = [cv2.warpAffine(cv2.GaussianBlur(c, (0, 0), 0.7), CROP_TO_ARCFACE, (112, 112)) for c in crops]
    return np.stack(views).astype(np.uint8) if views else np.zeros((0, 112, 112, 3), np.uint8)


_CLOSER = np.array([[1.3, 0.0, -0.3 * 128], [0.0, 1.3, -0.3 * 128]])
_COARSE = 40  # pixels


def views(crops: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Crops (N x 256 x 256 x 3) as they are, closer by 1.3, and from afar (3 x N x 256 x 256 x 3).

    What one view of a face no longer tells a recogniser another may; and what is alike by all of them is so more often to recognisers that
    have never met it.
    """
    seen = np.empty((3, *crops.shape), np.uint8)
    for i, crop in enumerate(crops):
        small = cv2.resize(crop, (_COARSE, _COARSE), interpolation=cv2.INTER_AREA)
        seen[0, i] = crop
        seen[1, i] = cv2.warpAffine(crop, _CLOSER, (256, 256), borderMode=cv2.BORDER_REPLICATE)
        seen[2, i] = cv2.resize(small, (256, 256))
    return seen


def unit(vectors: NDArray[np.floating]) -> Vectors:
    """Rows scaled to length one."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.maximum(length, 1e-12), np.float32)


@functools.cache
def _threads() -> ThreadPoolExecutor:
    """For networks that take one face at a time; as many as this process may use."""
    said = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]  # OpenMP takes a list, for each level
    allowed = int(said) if said.isdecimal() and int(said) else 16
    return ThreadPoolExecutor(min(allowed, len(os.sched_getaffinity(0))))


os.register_at_fork(after_in_child=_threads.cache_clear)  # a child has none of its parent's threads


class OnnxRecogniser:
    """An ArcFace-style ONNX file: N x 3 x 112 x 112 RGB, `(pixel - mean) / scale`, to N x D."""

    def __init__(
        self, path: Path, name: str, mean: float = 127.5, scale: float = 127.5, threshold: float | None = None
    ) -> None:
        if not path.is_file():
            raise ModelFileMissing(path.name)
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = 1
        self._net = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._input = self._net.get_inputs()[0]
        self._mean, self._scale = mean, scale
        self.name, self.threshold = name, threshold

    def __call__(self, crops: NDArray[np.uint8]) -> Vectors:
        x = (arcface_view(crops).astype(np.float32).transpose(0, 3, 1, 2) - self._mean) / self._scale
        if isinstance(self._input.shape[0], int):  # a fixed batch of one
            rows = list(
                _threads().map(lambda i: self._net.run(None, {self._input.name: x[i : i + 1]})[0], range(len(x)))
            )
            return unit(np.concatenate(rows)) if rows else np.zeros((0, 1), np.float32)
        return unit(self._net.run(None, {self._input.name: x})[0])


@register(GATE)
def sface() -> Recogniser:
    """OpenCV Zoo's SFace, 128-d, Apache-2.0; LFW 99.58 %."""
    return OnnxRecogniser(locate(SFACE), "sface", mean=0.0, scale=1.0, threshold=SFACE_SAME_PERSON)


class DlibRecogniser:
    """dlib's ResNet (CC0), for evaluation: 128-d, about a quarter of a second a face, raw cosines compressed."""

    name: str = "dlib"
    threshold: float | None = None

    def __init__(self) -> None:
        import dlib  # evaluation extra

        self._net = dlib.face_recognition_model_v1(str(locate(DLIB_RESNET)))

    def __call__(self, crops: NDArray[np.uint8]) -> Vectors:
        # dlib's chip is 150 x 150 with 25 % padding: the inner 200 pixels of our crop, moved up a little.
        chips = [cv2.resize(c[28:240, 22:234], (150, 150), interpolation=cv2.INTER_AREA) for c in crops]
        rows = [np.array(self._net.compute_face_descriptor(np.ascontiguousarray(c))) for c in chips]
        return unit(np.stack(rows)) if rows else np.zeros((0, 128), np.float32)


@register("dlib")
def dlib() -> Recogniser:
    """dlib's ResNet."""
    return DlibRecogniser()
