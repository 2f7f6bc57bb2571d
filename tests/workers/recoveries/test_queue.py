"""Custodian, recovery worker and relay as the processes that they are, on a real broker; killed, and lied to."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
import redis
from sqlalchemy import func, select

from schemas.messages import Broker, Queue, TaskName
from schemas.requests import face_info
from schemas.states import RecoveryState, RequestState
from schemas.tables import Alert, Recovery, RecoveryRequest, SealedKey, Ticket
from tests.conftest import Brokers, Buckets
from tests.governance import World
from workers.app import make_app
from workers.custody import keys
from workers.custody.opening import open_sealed
from workers.outbox.relay import Relay
from workers.recoveries import service
from workers.recoveries.worker import MAX_ATTEMPTS

ROOT = Path(__file__).parents[3]
CELERY = ["-m", "celery", "--quiet", "-A"]
WORKER = ["worker", "-c", "1", "--without-gossip", "--without-mingle", "--without-heartbeat"]


class Processes:
    """The privileged side of the service."""

    def __init__(self, world: World, buckets: Buckets, brokers: Brokers) -> None:
        self.world, self.buckets, self.brokers = world, buckets, brokers
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        ring = keys.load(world.folder / "recovery.json", keys.FileKind.KEYPAIR)
        keys.write_public(world.folder / "recovery.public.json", ring.public_json())
        signing = keys.load(world.folder / "ticket.json", keys.FileKind.SIGNING)
        keys.write_public(world.folder / "ticket.public.json", signing.public_json())

    def environment(self, role: str) -> dict[str, str]:
        folder = self.world.folder
        values = {
            "DATABASE_URL": self.world.database.url_for(role),
            "BROKER_URL": self.brokers.release if role == "relay" else self.brokers.privileged_for(role),
        }
        if role == "custodian":
            values |= {
                "CUSTODY_KEYRING": str(folder / "custody.json"),
                "TICKET_SIGNING_KEY": str(folder / "ticket.json"),
                "ROSTER": str(self.world.roster),
                "POLICIES": str(self.world.policies),
                "TOMBSTONES": str(folder / "tombstones.json"),
                "RECOVERY_PUBLIC_KEY": str(folder / "recovery.public.json"),
            }
        if role == "recovery":
            values |= {
                "RECOVERY_PRIVATE_KEY": str(folder / "recovery.json"),
                "TICKET_PUBLIC_KEY": str(folder / "ticket.public.json"),
                "ALLOW_FAULTS": "1",
                "CORE_FACTORY": "tests.workers.recoveries.standin:load",
            }
        if role == "relay":
            values |= {
                "PRIVILEGED_BROKER_URL": self.brokers.privileged_for("relay"),
                "RELAY_POLL_SECONDS": "0.1",
                "RECONCILE_SECONDS": "0.5",
                "STALLED_SECONDS": "2",
            }
        own = {f"REFACEX_{name}": value for name, value in values.items()}
        return own | (self.buckets.environment(role) if role != "custodian" else {})

    def start(self, role: str) -> None:
        command = {
            "custodian": [*CELERY, "workers.custody.app:app", *WORKER, "-Q", "custody"],
            "recovery": [*CELERY, "workers.recoveries.app:app", *WORKER, "-Q", "recovery"],
            "relay": ["-m", "workers.outbox"],
        }[role]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("REFACEX_")}
        environment |= self.environment(role) | {"STANDIN_FOLDER": str(self.world.folder), "PYTHONPATH": str(ROOT)}
        with (self.world.folder / f"{role}.log").open("ab") as log:
            self.running[role] = subprocess.Popen(
                [sys.executable, *command], env=environment, cwd=ROOT, stdout=log, stderr=log, start_new_session=True
            )

    def kill(self, role: str) -> None:
        """As a power cut would, children and all."""
        process = self.running.pop(role)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def logs(self) -> str:
        return "\n".join(path.read_text("utf-8", "replace")[-3000:] for path in self.world.folder.glob("*.log"))

    def until(self, check: Callable[[], Any], seconds: float = 120.0) -> Any:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            found = check()
            if found:
                return found
            time.sleep(0.1)
        raise AssertionError(f"it did not come to that\n{self.logs()}")


@pytest.fixture
def processes(world: World, buckets: Buckets, brokers: Brokers, s3_admin: Any) -> Iterator[Processes]:
    for key, data in world.files.items():
        s3_admin.put_object(Bucket=buckets.releases, Key=key, Body=data)
    made = Processes(world, buckets, brokers)
    yield made
    for role in list(made.running):
        made.kill(role)


def recovery_of(world: World, request: UUID) -> Recovery | None:
    with world.as_("gateway")() as session:
        return service.find_recovery(session, request)


def recovered(world: World, request: UUID) -> UUID | None:
    found = recovery_of(world, request)
    return found.id if found is not None and found.state is RecoveryState.RECOVERED else None


@pytest.mark.slow
def test_through_the_privileged_broker_and_through_kills(processes: Processes, world: World) -> None:
    hold = world.folder / "hold"
    hold.touch()
    for role in ("relay", "custodian", "recovery"):
        processes.start(role)
    terms = world.approved((0, 0), (1, 1))
    processes.until(lambda: list(world.folder.glob("started-*")))
    processes.kill("recovery")
    bound = recovery_of(world, terms.id)
    assert bound is not None
    assert bound.state is RecoveryState.BOUND, "killed in the middle: its keys wait for the next worker"
    hold.unlink()
    processes.start("recovery")
    assert processes.until(lambda: recovered(world, terms.id)) == bound.id
    faces = world.fetch(terms, bound.id)
    secret = world.people["alice"].receiving.private_bytes_raw()
    assert len(faces) == 2
    for face in faces:
        assert open_sealed(secret, face.sealed, face_info(bound.id, face.item, face.face)).startswith(b"\x89PNG")
    names = [each["event"] for each in world.events()]
    assert [names.count(name) for name in ("ticket:issued", "ticket:spent", "recovery:recovered")] == [1, 1, 1]

    # The custodian is killed with an approved request in its queue: the next one opens it.
    processes.kill("custodian")
    second = world.approved((0, 1))
    processes.start("custodian")
    processes.until(lambda: recovered(world, second.id))
    logs = processes.logs()
    assert not [word for word in ("private", "0.png", "a court asked") if word in logs]


@pytest.mark.slow
def test_a_file_that_kills_its_worker_is_given_up_and_holds_nobody_up(processes: Processes, world: World) -> None:
    (world.folder / "poison").write_bytes(world.items[0].bytes)
    for role in ("relay", "custodian", "recovery"):
        processes.start(role)
    poisoned = world.approved((0, 0))

    def failed() -> Recovery | None:
        found = recovery_of(world, poisoned.id)
        return found if found is not None and found.state is not RecoveryState.BOUND else None

    found = processes.until(failed)
    assert (found.state, found.attempts, found.error_code) == (RecoveryState.FAILED, MAX_ATTEMPTS, "attempts_used_up")
    last = world.events()[-1]
    assert (last["event"], last["fields"]["detail"]["code"]) == ("recovery:failed", "attempts_used_up")
    assert len((world.folder / "killed").read_text().split()) == MAX_ATTEMPTS
    good = world.approved((1, 0))
    processes.until(lambda: recovered(world, good.id))


@pytest.mark.slow
def test_messages_put_straight_into_the_queues(processes: Processes, world: World, brokers: Brokers) -> None:
    """Who owns the broker can send anything, and gets nothing."""
    processes.start("custodian")
    processes.start("recovery")
    app = make_app("attacker", brokers.privileged, [Queue.CUSTODY.value, Queue.RECOVERY.value])
    terms = world.request()
    world.approve(terms, "bob")
    ids = [str(terms.id), str(uuid4()), str(world.release), str(world.items[0])]
    for given in ids:
        app.send_task(TaskName.OPEN.value, args=[given], queue=Queue.CUSTODY.value)
    # Tasks that another worker has, tasks that nobody has, arguments that are not ids.
    app.send_task(TaskName.RECOVER.value, args=[str(terms.id)], queue=Queue.CUSTODY.value)
    app.send_task(TaskName.OPEN.value, args=[str(terms.id)], queue=Queue.RECOVERY.value)
    app.send_task("celery.backend_cleanup", queue=Queue.CUSTODY.value)
    app.send_task(TaskName.OPEN.value, args=["'; DROP TABLE tickets; --"], queue=Queue.CUSTODY.value)
    app.send_task(TaskName.RECOVER.value, args=[str(uuid4())], queue=Queue.RECOVERY.value)
    app.send_task(TaskName.OPEN.value, args=[ids[1]], queue=Queue.CUSTODY.value)
    app.close()
    processes.until(lambda: [each["event"] for each in world.events()].count("ticket:refused") == len(ids) + 1)
    # Audited, with an alert each: two tasks that the custodian lacks and one that is no id; for the recovery worker, a
    # task that it lacks and a recovery that nobody opened.
    processes.until(lambda: [each["event"] for each in world.events()].count("message:refused") == 5)
    told = [each["fields"] for each in world.events() if each["event"] == "message:refused"]
    assert sorted(each.get("detail", {}).get("task", "") for each in told) == sorted(
        ["", TaskName.OPEN, TaskName.OPEN, TaskName.RECOVER, "celery.backend_cleanup"]
    )
    assert world.unsigned() == [], "what a stranger's message made the custodian write is signed as well"
    kinds = select(func.count()).select_from(Alert).where(Alert.kind == "message_refused")
    assert world.one(kinds) == len(told)
    reasons = {each["fields"]["detail"]["refusal"] for each in world.events() if each["event"] == "ticket:refused"}
    assert reasons == {"not_approved", "request_unknown"}
    assert world.one(select(func.count()).select_from(Ticket)) == 0
    assert world.one(select(RecoveryRequest.state)) is RequestState.OPEN
    assert all(process.poll() is None for process in processes.running.values())
    # And they still serve.
    processes.start("relay")
    world.approve(terms, "carol")
    processes.until(lambda: recovered(world, terms.id))


def published(world: World, brokers: Brokers, queue: Queue) -> bytes:
    """The one message that the relay has put into this queue, taken off it."""
    app = make_app("relay", brokers.privileged_for("relay"), [Queue.CUSTODY, Queue.RECOVERY], privileged=True)
    assert Relay(world.as_("relay"), {Broker.PRIVILEGED: app}).publish_waiting(Broker.PRIVILEGED) == 1
    app.close()
    with redis.Redis.from_url(brokers.privileged) as owner:
        message = owner.rpop(queue.value)
        assert isinstance(message, bytes) and owner.llen(queue.value) == 0
    return message


def put(brokers: Brokers, queue: Queue, message: bytes, task: TaskName | None = None) -> None:
    """Puts it back as it was, or saying that it is another task's."""
    envelope = json.loads(message)
    assert envelope["headers"]["task"] in list(TaskName)
    if task is not None:
        envelope["headers"]["task"] = task.value
    with redis.Redis.from_url(brokers.privileged) as owner:
        owner.lpush(queue.value, json.dumps(envelope))


@pytest.mark.slow
def test_the_relays_own_message_under_another_tasks_name(processes: Processes, world: World, brokers: Brokers) -> None:
    """Who owns the broker takes it off, renames it and puts it back: whatever its id is of, it is not of that."""
    refusals = 0

    def refused_as(message: bytes, queue: Queue, task: TaskName) -> dict[str, Any]:
        nonlocal refusals
        refusals += 1
        put(brokers, queue, message, task)
        processes.until(lambda: [each["event"] for each in world.events()].count("message:refused") == refusals)
        told = world.events()[-1]
        assert (told["event"], told["role"]) == ("message:refused", f"refacex_{roles[queue]}")
        kinds = select(func.count()).select_from(Alert).where(Alert.kind == "message_refused")
        assert world.one(kinds) == refusals
        return told["fields"]  # type: ignore[no-any-return]

    roles = {Queue.CUSTODY: "custodian", Queue.RECOVERY: "recovery"}
    terms = world.approved((0, 0))
    message = published(world, brokers, Queue.CUSTODY)
    processes.start("custodian")
    assert refused_as(message, Queue.CUSTODY, TaskName.CARRY_OUT)["detail"] == {"order": str(terms.id)}
    assert refused_as(message, Queue.CUSTODY, TaskName.RETAIN)["release"] == str(terms.id)
    assert refused_as(message, Queue.CUSTODY, TaskName.RECOVER)["detail"] == {"task": TaskName.RECOVER.value}
    assert world.one(select(func.count()).select_from(Ticket)) == 0
    put(brokers, Queue.CUSTODY, message)
    recovery = processes.until(lambda: recovery_of(world, terms.id))
    message = published(world, brokers, Queue.RECOVERY)
    processes.start("recovery")
    for task in (TaskName.OPEN, TaskName.CARRY_OUT, TaskName.RETAIN):
        assert refused_as(message, Queue.RECOVERY, task)["detail"] == {"task": task.value}
    for task in (TaskName.CARRY_OUT, TaskName.RETAIN):
        refused_as(message, Queue.CUSTODY, task)
    found = recovery_of(world, terms.id)
    assert found is not None and (found.state, found.attempts) == (RecoveryState.BOUND, 0)
    with world.as_("custodian")() as session:
        assert not session.scalar(select(func.count()).select_from(SealedKey).where(SealedKey.wrapped.is_(None)))
    assert world.unsigned() == []
    put(brokers, Queue.RECOVERY, message)
    assert processes.until(lambda: recovered(world, terms.id)) == recovery.id


def test_each_user_of_the_privileged_broker_reaches_its_own_queue_alone(brokers: Brokers) -> None:
    """With the credentials that the processes have."""
    own = {"custodian": "custody", "recovery": "recovery"}
    for user, queue in own.items():
        (foreign,) = set(own.values()) - {queue}
        with redis.Redis.from_url(brokers.privileged_for(user)) as client:
            client.lpush(queue, "x")
            client.rpop(queue)
            for attempt in (
                lambda c=client, k=foreign: c.lpush(k, "x"),
                lambda c=client, k=foreign: c.lrange(k, 0, -1),
                lambda c=client, k=foreign: c.hgetall(f"{k}.unacked"),
                lambda c=client: c.keys("*"),
                lambda c=client: c.config_get("requirepass"),
                lambda c=client: c.acl_list(),
                lambda c=client: c.flushall(),
                lambda c=client: c.publish("x", "y"),
            ):
                with pytest.raises(redis.exceptions.NoPermissionError):
                    attempt()
    with redis.Redis.from_url(brokers.release) as client, pytest.raises(redis.exceptions.AuthenticationError):
        client.auth(brokers.privileged_for("relay").split(":")[2].split("@")[0], "relay")
