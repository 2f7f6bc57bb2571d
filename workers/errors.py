"""Errors of the workers. One base class; the docstring is the message shown to people, and says what to do next."""

from __future__ import annotations


class WorkerError(Exception):
    """The service could not do this."""

    code = "worker_error"

    def __init__(self, detail: str = "") -> None:
        doc = " ".join((type(self).__doc__ or "").split())
        self.detail = detail
        super().__init__(f"{doc} ({detail})" if detail else doc)


class SettingsInvalid(WorkerError):
    """Settings are missing or wrong: run `refacex up` once, or set the variables named here."""

    code = "settings_invalid"


class HomeMissing(SettingsInvalid):
    """No service was set up in this home folder: go to where `refacex up` runs, or name its home with --home or REFACEX_HOME."""

    code = "home_missing"


class Away(WorkerError):
    """An engine cannot be reached just now: the work goes on by itself when it is back."""

    code = "away"


class DatabaseAway(Away):
    """The database cannot be reached just now: the work goes on by itself when it is back."""

    code = "database_away"


class StorageAway(Away):
    """The object store cannot be reached just now: the work goes on by itself when it is back."""

    code = "storage_away"


class BrokerAway(Away):
    """The broker cannot be reached just now: the work goes on by itself when it is back."""

    code = "broker_away"


class StorageError(WorkerError):
    """The object store refused: check the rights of this process's identity, and that the bucket exists."""

    code = "storage_refused"


class ObjectMissing(StorageError):
    """There is no such object in the store: it was deleted, or never written."""

    code = "object_missing"


class ObjectExists(StorageError):
    """An object of that name is in the store already, and objects are never overwritten."""

    code = "object_exists"


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


class WebhookAway(Away):
    """The alerts' webhook does not answer with 2xx: the alerts wait and are sent again; see REFACEX_ALERT_WEBHOOK."""

    code = "webhook_away"


class ExportUnknown(WorkerError):
    """There is no export of that id: see `refacex export list`."""

    code = "export_unknown"


class ExportFailed(WorkerError):
    """The export failed: see the exports worker's log, then run it again."""

    code = "export_failed"


class ExportCorrupt(ExportFailed):
    """A released file does not have the SHA-256 of its row: do not use this release, and look into the store."""

    code = "export_corrupt"


class ExportUnfinished(WorkerError):
    """The export is not finished yet: see that the exports worker runs, and run it again."""

    code = "export_unfinished"


class FolderUnusable(WorkerError):
    """The folder cannot be written to: choose another one, or make room there."""

    code = "folder_unusable"


class FolderTaken(FolderUnusable):
    """The folder holds another export, and nothing in it was touched: choose an empty one."""

    code = "folder_taken"


class FolderMixed(FolderTaken):
    """The folder holds other files, which would mix with the export, and nothing in it was touched: choose an empty one or a new one."""

    code = "folder_mixed"


class ScheduleInvalid(WorkerError):
    """The schedule needs a cron line of five fields and a time zone such as Europe/Berlin."""

    code = "schedule_invalid"


class ScheduleUnknown(WorkerError):
    """The tenant has no running schedule of that name: make one with `refacex export schedule`."""

    code = "schedule_unknown"


class PolicyUnknown(WorkerError):
    """There is no policy of that name in this tenant: see `refacex policy list`, or set one with `refacex policy set`."""

    code = "policy_unknown"


class MessageInvalid(WorkerError):
    """A message holds something else than ids: no part of the system sends such; find out who can write to the broker."""

    code = "message_invalid"
