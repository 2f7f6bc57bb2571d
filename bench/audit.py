"""How fast the audit trail is: `python -m bench.audit [--events N]`, on a PostgreSQL and an S3 server of its own.

Events appended a second by eight writers, one a transaction beside eight; then, on a trail of a million events: one append, one proof, the
notary's next head, a full verification with the custodian's key, the evidence of one release. One event in a hundred is the custodian's,
signed. Prints a table and writes `bench/results/audit.json`.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
from sqlalchemy import create_engine, select
from sqlalchemy.orm import Session, sessionmaker

from gateway import provision
from gateway.engines import Engines, S3Identity
from schemas.audit import AuditEvent
from schemas.audit_tables import Event
from schemas.tables import Release
from workers.audit import append, merkle
from workers.audit.attested import EventSigner, attesting
from workers.audit.checking import check_bundle
from workers.audit.crosscheck import crosscheck
from workers.audit.evidence import About, gather, pack
from workers.audit.heads import Anchors, HeadSigner
from workers.audit.notary import Notary
from workers.audit.store import StoredNodes, trail_size
from workers.audit.verify import Verification, verify
from workers.custody.keys import KeyType, key_id
from workers.storage import Storage

RESULTS = Path(__file__).parent / "results" / "audit.json"
ITEMS = 1_000  # of one release
SIGNED = 0.01  # of the long trail's events are the custodian's
RUNS = 200
AT_ONCE = 8  # events a transaction, where several are
WRITERS: dict[str, AuditEvent] = {
    "release": AuditEvent.ITEM_CLAIMED,
    "gateway": AuditEvent.RELEASE_SUBMITTED,
    "custodian": AuditEvent.TICKET_ISSUED,
    "recovery": AuditEvent.RECOVERY_RECOVERED,
}
NAMES = {
    "events": "events of the long trail",
    "signed_events": "of them the custodian's, signed",
    "verified_signatures": "signatures that verification checked",
    "signed_per_s": "signed events a second, one writer, eight a transaction",
}
Url = Callable[[str], str]
Figures = dict[str, Any]


class Place:
    """Databases and a bucket on engines of our own."""

    def __init__(self, engines: Engines) -> None:
        self._admin = engines.urls.postgres_admin
        self._passwords = {role: uuid4().hex for role in (provision.OWNER, *provision.ROLES)}
        provision.create_roles(self._admin, self._passwords)
        identity = S3Identity(engines.urls.s3_admin_access, engines.urls.s3_admin_secret)
        provision.create_buckets(engines.urls.s3_endpoint, identity)
        self._s3 = engines.urls.s3_endpoint, engines.s3_identities["notary"]

    def database(self, name: str) -> Url:
        """A fresh, migrated database: its URL by role."""
        provision.create_database(self._admin, name)

        def url(role: str) -> str:
            full = role if role == provision.OWNER else f"refacex_{role}"
            return provision.sqlalchemy_url(self._admin, role=full, password=self._passwords[full], database=name)

        provision.migrate(url(provision.OWNER))
        return url

    def anchors(self) -> Anchors:
        endpoint, identity = self._s3
        settings = argparse.Namespace(
            s3_endpoint=endpoint, s3_region="us-east-1", s3_access_key=identity.access, s3_secret_key=identity.secret
        )
        return Anchors(Storage(settings), provision.ANCHORS, f"{uuid4()}/")


def sessions(url: str) -> sessionmaker[Session]:
    return sessionmaker(create_engine(url), expire_on_commit=False)


# --- writers side by side


def _write(url: str, event: str, at_once: int, start: Any, seconds: float, done: Any) -> None:
    factory = sessions(url)
    with factory.begin() as session:
        append(session, AuditEvent(event), actor="bench")
    start.wait()
    written, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        with factory.begin() as session:
            for _ in range(at_once):
                about = {"release": uuid4(), "item": uuid4()}
                append(session, AuditEvent(event), actor="bench", detail={"attempt": 1, "fence": 1}, **about)
        written += at_once
    done.put(written)


def rate(url: Url, writers: int, at_once: int, seconds: float) -> float:
    """Events a second that so many processes append, each with its own role's session, `at_once` events a transaction."""
    context = multiprocessing.get_context("spawn")
    start, done = context.Barrier(writers + 1), context.Queue()
    roles = [list(WRITERS)[number % len(WRITERS)] for number in range(writers)]
    processes = [
        context.Process(target=_write, args=(url(role), WRITERS[role].value, at_once, start, seconds, done))
        for role in roles
    ]
    for process in processes:
        process.start()
    start.wait()
    began = time.monotonic()
    written = sum(done.get() for _ in processes)
    took = time.monotonic() - began
    for process in processes:
        process.join()
    return written / took


# --- a long trail


def fill(url: Url, events: int) -> int:
    """A trail of about so many events with the rows that they tell of, see `trail.sql`; gives its size."""
    each = 3 * ITEMS + 2
    releases = (events - 5) // each
    rest = max((events - releases * each - 2) // 3, 1)
    statements = (Path(__file__).parent / "trail.sql").read_text().format(releases=releases, items=ITEMS, rest=rest)
    with psycopg.connect(url(provision.OWNER).replace("+psycopg", "")) as connection:
        connection.execute(statements)
        odd = connection.execute(
            "SELECT count(*) FROM audit.events WHERE seq % 997 = 0 "
            "AND convert_from(canonical, 'UTF8') <> audit.canonical(convert_from(canonical, 'UTF8')::jsonb)"
        ).fetchone()
    assert odd == (0,), "the bulk path must write what audit.append writes"
    with sessions(url("gateway"))() as session:
        return trail_size(session)


def sign(url: Url, custodian: EventSigner, events: int) -> int:
    """Appends so many signed events of the custodian's, each a refused ticket, which needs no row; gives their number."""
    factory = attesting(sessions(url("custodian")), custodian)
    for done in range(0, events, AT_ONCE):
        with factory.begin() as session:
            for _ in range(min(AT_ONCE, events - done)):
                detail = {"refusal": "request_unknown"}
                append(session, AuditEvent.TICKET_REFUSED, actor="custodian", request=uuid4(), detail=detail)
    return events


def tell(words: str) -> None:
    """How far it is, beside the table that programs may read."""
    print(f"{time.strftime('%H:%M:%S')} {words}", file=sys.stderr, flush=True)


def timed(action: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, and what it gave."""
    start = time.perf_counter()
    result = action()
    return time.perf_counter() - start, result


def spread(action: Callable[[], Any], runs: int = RUNS) -> dict[str, float]:
    """Median and 95th percentile in milliseconds."""
    taken = sorted(1000 * timed(action)[0] for _ in range(runs))
    return {"median_ms": round(statistics.median(taken), 2), "p95_ms": round(taken[int(0.95 * runs)], 2), "runs": runs}


def long_trail(place: Place, events: int) -> Figures:
    """Everything that is measured on one long trail."""
    url = place.database("bench_long")
    custodian = EventSigner(bytes(reversed(range(32))))
    filling, size = timed(lambda: fill(url, events - round(events * SIGNED)))
    tell(f"a trail of {size} events is there")
    signing, signed = timed(lambda: sign(url, custodian, round(events * SIGNED)))
    size += signed
    tell(f"{signed} of the custodian's are there")
    private = bytes(range(32))
    signer = HeadSigner(key_id(KeyType.ED25519, HeadSigner("", private).verifier.public), private)
    anchors = place.anchors()
    notary = Notary(sessions(url("notary")), anchors, signer, timedelta(days=1))
    first_head, _ = timed(notary.anchor)
    gateway = sessions(url("gateway"))
    figures: Figures = {"events": size, "filled_s": round(filling, 1), "first_head_s": round(first_head, 1)}
    figures |= {"signed_events": signed, "signed_per_s": round(signed / signing)}
    tell("the first head is anchored")
    figures["append"] = _appends(url)
    figures["next_head"] = _next_heads(url, notary)
    figures["inclusion_proof"], figures["consistency_proof"] = _proofs(gateway, size)
    tell(f"proofs are made: {figures}")
    figures |= _verification(gateway, anchors, signer, custodian)
    figures |= _evidence(gateway, anchors, signer, custodian)
    return figures


def _appends(url: Url) -> Figures:
    factory = sessions(url("release"))

    def one() -> None:
        with factory.begin() as session:
            append(session, AuditEvent.ITEM_CLAIMED, actor="bench", detail={"attempt": 1, "fence": 1}, item=uuid4())

    return spread(one)


def _next_heads(url: Url, notary: Notary) -> Figures:
    factory = sessions(url("release"))

    def write() -> None:
        with factory.begin() as session:
            for _ in range(30):
                append(session, AuditEvent.ITEM_CLAIMED, actor="bench", item=uuid4())

    taken = []
    for _ in range(30):
        write()
        taken.append(1000 * timed(notary.anchor)[0])
    taken.sort()
    return {
        "median_ms": round(statistics.median(taken), 2),
        "p95_ms": round(taken[28], 2),
        "runs": 30,
        "new_events": 30,
    }


def _proofs(gateway: sessionmaker[Session], size: int) -> tuple[Figures, Figures]:
    """Proofs over `size` events, each with a memory of its own, checked against the root."""
    chance = random.Random(1)
    with gateway() as session:
        root = merkle.root_at(size, StoredNodes(session))

        def inclusion() -> None:
            index = chance.randrange(size)
            path = merkle.inclusion_proof(index, size, StoredNodes(session).prefetch([index], size))
            leaf = session.execute(select(Event.leaf).where(Event.seq == index)).scalar_one()
            assert merkle.check_inclusion(bytes(leaf), index, size, path, root)

        def consistency() -> None:
            first = chance.randrange(1, size)
            merkle.consistency_proof(first, size, StoredNodes(session).prefetch([first - 1], first, size))

        return spread(inclusion), spread(consistency)


def _verification(
    gateway: sessionmaker[Session], anchors: Anchors, signer: HeadSigner, custodian: EventSigner
) -> Figures:
    with gateway() as session:
        trail, result = timed(lambda: verify(session, anchors, signer.verifier))
        tables, _ = timed(lambda: crosscheck(session, result, custodian=custodian.keys))
    _must_hold(result)
    figures = {"verify_trail_s": round(trail, 1), "verify_tables_s": round(tables, 1), "verified_events": result.events}
    return figures | {"verified_signatures": result.signatures + result.attested}


def _must_hold(result: Verification) -> None:
    # The appends above tell of claims that have no rows, and a claim needs none.
    if not result.ok:
        sys.exit(f"the trail does not hold: {result.findings[:3]}")


def _evidence(gateway: sessionmaker[Session], anchors: Anchors, signer: HeadSigner, custodian: EventSigner) -> Figures:
    with gateway() as session:
        release = session.execute(select(Release.id).limit(1)).scalar_one()
    with gateway() as session:
        taken, data = timed(lambda: pack(gather(session, anchors, signer.verifier, About.RELEASE, release)))
    checking, checked = timed(lambda: check_bundle(data, signer.verifier, custodian.keys))
    if not checked.ok:
        sys.exit(f"the evidence does not hold: {checked.problems[:3]}")
    return {"evidence_s": round(taken, 2), "evidence_bytes": len(data), "evidence_check_s": round(checking, 2)}


# --- the whole


def machine() -> Figures:
    """What it was measured on."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    models = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    load = [round(each, 2) for each in os.getloadavg()]
    cores = len(os.sched_getaffinity(0))
    return {
        "cores": cores,
        "cpu": models[0] if models else "",
        "load_before": load,
        "python": platform.python_version(),
        "commit": commit,
    }


@contextmanager
def place() -> Iterator[Place]:
    with (
        tempfile.TemporaryDirectory(prefix="refacex-bench-") as folder,
        Engines(folder, only=("postgres", "s3")) as engines,
    ):
        yield Place(engines)


def measure(events: int, seconds: float) -> Figures:
    """Every figure."""
    figures: Figures = {"machine": machine(), "command": f"python -m bench.audit --events {events}"}
    with place() as own:
        url = own.database("bench_rate")
        figures["appended_per_s"] = {
            f"{writers} writers, {at_once} a transaction": round(rate(url, writers, at_once, seconds))
            for writers, at_once in ((1, 1), (1, AT_ONCE), (8, 1), (8, AT_ONCE))
        }
        tell(f"appended: {figures['appended_per_s']}")
        figures["long"] = long_trail(own, events)
    return figures


def show(figures: Figures) -> None:
    long = figures["long"]
    print(
        f"{figures['machine']['cores']} cores, {figures['machine']['cpu']}, commit {figures['machine']['commit'][:12]}"
    )
    for name, value in figures["appended_per_s"].items():
        print(f"{'events appended a second, ' + name:<58}{value:>12}")
    for name in ("events", "signed_events", "verified_signatures", "signed_per_s"):
        print(f"{NAMES[name]:<58}{long[name]:>12}")
    for name in ("append", "inclusion_proof", "consistency_proof", "next_head"):
        words = f"{name.replace('_', ' ')} at {long['events']} events, median / p95 ms"
        print(f"{words:<58}{long[name]['median_ms']:>7} / {long[name]['p95_ms']}")
    for name in ("first_head_s", "verify_trail_s", "verify_tables_s", "evidence_s", "evidence_check_s"):
        print(f"{name.removesuffix('_s').replace('_', ' ') + ', s':<58}{long[name]:>12}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=10.0, help="how long each rate is measured")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    measured = measure(options.events, options.seconds)
    show(measured)
    options.out.write_text(json.dumps(measured, indent=1) + "\n")
