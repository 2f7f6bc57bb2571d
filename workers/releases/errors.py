"""Errors of submissions and releases. The docstring is the message shown to people."""

from __future__ import annotations

from workers.errors import WorkerError


class Superseded(WorkerError):
    """Another worker has taken this item over: nothing of this attempt counts."""

    code = "superseded"


class SourceRefused(WorkerError):
    """The source lies outside the folders that may be read: add its folder to REFACEX_SOURCE_ROOTS, or upload it."""

    code = "source_refused"


class SourceMissing(WorkerError):
    """The source cannot be read any more: put the file back and submit it again."""

    code = "source_missing"


class SourceTooLarge(WorkerError):
    """The source file is larger than the limit: make it smaller, or raise REFACEX_MAX_SOURCE_BYTES."""

    code = "source_too_large"


class NothingToSubmit(WorkerError):
    """No image was found there: name a file, a folder, a glob in quotes, or a manifest (.jsonl, .csv)."""

    code = "nothing_to_submit"


class ManifestInvalid(WorkerError):
    """The manifest cannot be read: JSON lines with a "path", or CSV with a column "path"; "name" and "subject" may be there."""

    code = "manifest_invalid"


class OptionsInvalid(WorkerError):
    """These options do not go together."""

    code = "options_invalid"


class SubmissionUnsigned(WorkerError):
    """This policy takes signed submissions alone: submit with --as ID --key FILE, as somebody who is a submitter in this tenant."""

    code = "submission_unsigned"


class SubmissionInvalid(WorkerError):
    """The submission's signature is not its submitter's over just this release: sign with the key file that was added for them."""

    code = "submission_invalid"


class ReleaseUnknown(WorkerError):
    """There is no release of that id: see `refacex release list`."""

    code = "release_unknown"


class ReleaseUnfinished(WorkerError):
    """The release is not finished: wait for it with `refacex release wait`."""

    code = "release_unfinished"


class ReleaseEnded(WorkerError):
    """The release has ended, and nothing of it is left to cancel: see `refacex release show`."""

    code = "release_ended"


class ReleaseCancelled(ReleaseUnfinished):
    """The release was cancelled, and is not exported: submit what you need of it again."""

    code = "release_cancelled"


class ReportMissing(WorkerError):
    """The release has no risk report yet: it comes when nothing is left to do; see that a release worker runs."""

    code = "report_missing"


class ReportCorrupt(WorkerError):
    """The risk report in the store is not the one that was written: do not rely on it, and look into the store."""

    code = "report_corrupt"


class SubjectUnknown(WorkerError):
    """The tenant has no subject of that reference: see `refacex subject list`."""

    code = "subject_unknown"


class SubjectAmbiguous(WorkerError):
    """More than one subject could be meant: give the whole pseudonym, which `refacex subject find REFERENCE --tenant TENANT` prints."""

    code = "subject_ambiguous"


class SubjectsChanged(WorkerError):
    """The subjects of this tenant, or the images that show them, are not those that were submitted: somebody changed the database. Order
    nothing, and see `refacex audit verify`.
    """

    code = "subjects_changed"
