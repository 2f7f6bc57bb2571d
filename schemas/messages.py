"""The messages on the brokers: a task's name, its queue, and ids. Nothing else ever travels in a message.

A message never authorises anything: each task reads its row again and decides by what it finds there.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Any
from uuid import UUID


class Broker(StrEnum):
    """The two brokers. What can write to one cannot write to the other."""

    RELEASE = "release"
    PRIVILEGED = "privileged"


class Queue(StrEnum):
    """The queues, each served by one kind of worker."""

    RELEASE = "release"
    EXPORTS = "exports"
    CUSTODY = "custody"
    RECOVERY = "recovery"


class TaskName(StrEnum):
    """The Celery tasks by name, so that who publishes one need not import it."""

    ANONYMISE = "releases.anonymise"  # item_ids: list[str]
    EXPORT = "exports.run"  # export_id: str
    REPORT = "releases.report"  # release_id: str
    OPEN = "custody.open"  # request_id: str
    RECOVER = "recoveries.recover"  # recovery_id: str
    CARRY_OUT = "custody.carry_out"  # order_id: str
    RETAIN = "custody.retain"  # release_id: str, whose time of retention is over


QUEUE_OF: dict[TaskName, Queue] = {
    TaskName.ANONYMISE: Queue.RELEASE,
    TaskName.EXPORT: Queue.EXPORTS,
    TaskName.REPORT: Queue.EXPORTS,
    TaskName.OPEN: Queue.CUSTODY,
    TaskName.RECOVER: Queue.RECOVERY,
    TaskName.CARRY_OUT: Queue.CUSTODY,
    TaskName.RETAIN: Queue.CUSTODY,
}

BROKER_OF: dict[Queue, Broker] = {
    Queue.RELEASE: Broker.RELEASE,
    Queue.EXPORTS: Broker.RELEASE,
    Queue.CUSTODY: Broker.PRIVILEGED,
    Queue.RECOVERY: Broker.PRIVILEGED,
}


def task_args(task: TaskName, ids: Sequence[UUID]) -> list[str | list[str]]:
    """The JSON arguments of a task for these ids; only `releases.anonymise` takes several.

    Raises ValueError for no id, or for several where the task takes one.
    """
    if not ids or (len(ids) > 1 and task is not TaskName.ANONYMISE):
        raise ValueError(f"{task} takes {'at least one id' if not ids else 'one id'}")
    if task is TaskName.ANONYMISE:
        return [[str(each) for each in ids]]
    return [str(ids[0])]


def outbox_row(task: TaskName, ids: Sequence[UUID]) -> dict[str, Any]:
    """The values of the outbox row that asks for this task. Raises ValueError as `task_args` does."""
    queue = QUEUE_OF[task]
    return {"broker": BROKER_OF[queue].value, "queue": queue.value, "task": task.value, "args": task_args(task, ids)}
