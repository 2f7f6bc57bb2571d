"""A whole life in the processes that they are, and then every row and every log: no secret stands in any of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import func, select, update

from schemas.audit_tables import Event
from schemas.states import OrderKind, OrderState, RecoveryState
from schemas.tables import CustodyOrder, Release
from tests.governance import World
from tests.spilt import dump, spellings, spilt
from tests.workers.custody.lives import give
from tests.workers.recoveries.test_kills import deny
from tests.workers.recoveries.test_queue import Processes, processes, recovered, recovery_of
from workers.custody import keys
from workers.custody.keys import FileKind

__all__ = ["processes"]
NAME = "Ms Somebody of Somewhere"


@pytest.fixture
def world(world: World) -> World:
    """With a release whose files are called by somebody's name."""
    return replace(world, names=[f"{NAME} 0", f"{NAME} 1"]).another_release()


def privates(world: World) -> Iterator[bytes]:
    """Of everybody, and of the custodian and the recovery worker."""
    for member in world.people.values():
        yield member.signing.private_bytes_raw()
        yield member.receiving.private_bytes_raw()
    files = {"custody": FileKind.CUSTODY, "ticket": FileKind.SIGNING, "recovery": FileKind.KEYPAIR}
    for name, kind in files.items():
        yield from (key.secret() for key in keys.load(world.folder / f"{name}.json", kind).keys)


def test_whatever_a_secret_is_spelt_like_it_is_seen() -> None:
    secret = bytes(range(200, 232))
    assert len(spellings(secret)) == 3 + 2 * 3
    for before in range(4):
        whole = bytes(before) + secret + b"more"
        for said in (whole, whole.hex().encode(), *spellings(whole)):
            assert spilt([secret], b"and " + said + b" so on") == [secret]
    assert spilt([secret], secret[1:] + secret[:-1]) == []


@pytest.mark.slow
def test_no_private_key_and_no_file_name_is_left_anywhere(processes: Processes, world: World, capfd: Any) -> None:
    with world.as_("release").begin() as session:
        session.execute(update(Release).values(state="finished", finished_at=func.now()))
    for role in ("relay", "custodian", "recovery"):
        processes.start(role)
    deny(world, world.request((0, 1)))
    world.withdraw(world.request((0, 1)))
    terms = world.approved((0, 0), (1, 1))
    recovery = processes.until(lambda: recovered(world, terms.id))
    waiting = world.approved((1, 0))
    processes.until(lambda: recovered(world, waiting.id))
    before = dump(world.database)  # with the faces that wait to be fetched
    assert len(world.fetch(terms, recovery)) == 2
    order = give(world, OrderKind.SHRED, 1)
    done = select(CustodyOrder.state).where(CustodyOrder.id == order)
    processes.until(lambda: world.one(done) is OrderState.DONE)
    ended = recovery_of(world, terms.id)
    assert ended is not None and ended.state is RecoveryState.FETCHED
    rows = before + dump(world.database)
    told = capfd.readouterr()
    logs = b"".join(path.read_bytes() for path in world.folder.glob("*.log")) + (told.out + told.err).encode()
    assert b"request_opened" in logs and b"order_carried_out" in logs

    public = world.people["alice"].on_roster()
    assert spilt([public.ed25519_public, public.x25519_public], rows) == [public.ed25519_public, public.x25519_public]
    assert public.x25519_public.hex().encode() in rows and NAME.encode() in rows, "this is how it would show"
    kept = [*privates(world), *world.secrets.values()]
    assert len(kept) == 2 * len(world.people) + 3 + len(world.secrets)
    assert spilt(kept, rows) == []
    assert spilt(kept, logs) == []
    assert NAME.encode() not in logs
    with world.as_("gateway")() as session:
        assert NAME.encode() not in b"".join(session.execute(select(Event.canonical)).scalars())
