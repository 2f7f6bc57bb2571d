"""Every error of the core. One base class; the docstring is the message shown to people."""

from __future__ import annotations


class CoreError(Exception):
    """The core refused this image."""

    code = "core_error"

    def __init__(self, detail: str = "") -> None:
        doc = " ".join((type(self).__doc__ or "").split())
        self.detail = detail
        super().__init__(f"{doc} ({detail})" if detail else doc)


class DeviceUnavailable(CoreError):
    """There is no such device here: use `auto` or `cpu`, or `cuda` with a GPU and the CUDA build of torch."""

    code = "device_unavailable"


class ModelFileMissing(CoreError):
    """A model file is not installed: run `make setup`, or point REFACEX_MODEL_DIR at a folder that holds it."""

    code = "model_file_missing"


class ModelFileCorrupt(CoreError):
    """A model file does not have the SHA-256 that this version was built with: reinstall it."""

    code = "model_file_corrupt"


class RecogniserUnknown(CoreError):
    """There is no recogniser of that name: see `refacex_core.recognisers`, and register one there."""

    code = "recogniser_unknown"


class BadImage(CoreError):
    """The file is not an image that can be decoded: send PNG, JPEG, WebP, TIFF or HEIC."""

    code = "bad_image"


class ImageEmpty(BadImage):
    """The file is empty: send it again."""

    code = "image_empty"


class ImageTruncated(BadImage):
    """The image ends before its last pixel: send it again."""

    code = "image_truncated"


class ImageTooLarge(BadImage):
    """The image has more pixels than the limit: scale it down."""

    code = "image_too_large"


class ImageAnimated(BadImage):
    """The file holds several frames: send single frames."""

    code = "image_animated"


class ImageTooSmall(CoreError):
    """The image has too few pixels to carry the recovery payload of its faces: send it at a larger size."""

    code = "image_too_small"


class AlreadyReleased(CoreError):
    """The photograph carries a ReFaceX payload already, which another one would destroy: release its original instead."""

    code = "already_released"


class PayloadMissing(CoreError):
    """The file carries no ReFaceX payload that can be read: use the released file, or a copy of it that was not scaled."""

    code = "payload_missing"


class PayloadUnreadable(CoreError):
    """The file carries a ReFaceX payload, but too damaged to be read: use a copy closer to the released file."""

    code = "payload_unreadable"


class ModelUnknown(PayloadUnreadable):
    """Another model version wrote this payload: use a ReFaceX that carries that model."""

    code = "model_unknown"


class PayloadMismatch(CoreError):
    """The payload belongs to another photograph: nothing was recovered."""

    code = "payload_mismatch"


class WrongKey(CoreError):
    """The key does not open this payload: check that the key ring or ticket belongs to this release."""

    code = "wrong_key"


class FaceUnknown(CoreError):
    """The payload holds no face of that number: see `refacex inspect`."""

    code = "face_unknown"


class KeyRingError(CoreError):
    """The key ring cannot be used."""

    code = "key_ring_error"


class KeyRingMissing(KeyRingError):
    """There is no key ring at that path: name the one that the files were released with, or, before a first release, make
    one with `refacex keys new FILE`.
    """

    code = "key_ring_missing"


class KeyRingCorrupt(KeyRingError):
    """The key ring does not match its own checksum: restore it from your copy."""

    code = "key_ring_corrupt"
