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


class WebhookAway(Away):
    """The alerts' webhook does not answer with 2xx: the alerts wait and are sent again; see REFACEX_ALERT_WEBHOOK."""

    code = "webhook_away"


class FolderUnusable(WorkerError):
    """The folder cannot be written to: choose another one, or make room there."""

    code = "folder_unusable"


class PolicyUnknown(WorkerError):
    """There is no policy of that name in this tenant: see `refacex policy list`, or set one with `refacex policy set`."""

    code = "policy_unknown"


class MessageInvalid(WorkerError):
    """A message holds something else than ids: no part of the system sends such; find out who can write to the broker."""

    code = "message_invalid"
