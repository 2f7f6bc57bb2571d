"""Errors of exports and their schedules. The docstring is the message shown to people."""

from __future__ import annotations

from workers.errors import FolderUnusable, WorkerError


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
