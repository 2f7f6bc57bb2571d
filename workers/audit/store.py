"""The tree in the database: leaves in `audit.events`, complete subtrees in `audit.nodes`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from schemas.audit_tables import Event
from schemas.audit_tables import Node as NodeRow
from workers.audit.errors import AuditShort
from workers.audit.merkle import Frontier, Node, complete_subtrees

_BATCH = 5_000
_NODES = text(
    "SELECT n.level, n.position, n.hash FROM unnest(CAST(:levels AS smallint[]), CAST(:positions AS bigint[])) AS w (level, position) "
    "JOIN audit.nodes AS n ON n.level = w.level AND n.position = w.position"
)
_STORE = text(
    "INSERT INTO audit.nodes (level, position, hash) SELECT * FROM "
    "unnest(CAST(:levels AS smallint[]), CAST(:positions AS bigint[]), CAST(:hashes AS bytea[]))"
)
_LEAVES = text("SELECT seq, leaf FROM audit.events WHERE seq = ANY (CAST(:positions AS bigint[]))")


def trail_size(session: Session) -> int:
    """How many events the trail holds, as this transaction sees it. Appends commit in order, so there are no gaps."""
    return int(session.execute(select(func.coalesce(func.max(Event.seq) + 1, 0))).scalar_one())


class StoredNodes:
    """A `NodeSource` over the database; remembers what it read. Who knows what a proof will need reads it with `prefetch`."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._seen: dict[tuple[int, int], bytes] = {}

    def __call__(self, level: int, position: int) -> bytes:
        """The subtree's hash. Raises AuditShort where the trail, or what the notary has worked up, is shorter."""
        if (level, position) not in self._seen:
            query = (
                select(Event.leaf).where(Event.seq == position)
                if level == 0
                else select(NodeRow.hash).where(NodeRow.level == level, NodeRow.position == position)
            )
            found = self._session.execute(query).scalar_one_or_none()
            if found is None:
                raise AuditShort(f"no node {level}/{position}")
            self._seen[level, position] = bytes(found)
        return self._seen[level, position]

    def prefetch(self, indexes: Iterable[int], *sizes: int) -> StoredNodes:
        """Reads, in two statements, what the inclusion proofs of these events and the roots and consistency proofs between trees
        of these sizes need (for a consistency proof from `first`, the index `first - 1`); gives itself.
        """
        largest = max(sizes)
        levels = range(largest.bit_length())
        wanted = {(level, index >> level ^ 1) for index in indexes for level in levels}
        wanted |= {node for size in sizes for node in complete_subtrees(0, size)}
        missing = sorted(node for node in wanted - self._seen.keys() if (node[1] + 1) << node[0] <= largest)
        leaves = [position for level, position in missing if level == 0]
        higher = [(level, position) for level, position in missing if level > 0]
        for seq, leaf in self._session.execute(_LEAVES, {"positions": leaves}):
            self._seen[0, seq] = bytes(leaf)
        asked = {"levels": [level for level, _ in higher], "positions": [position for _, position in higher]}
        for level, position, value in self._session.execute(_NODES, asked):
            self._seen[level, position] = bytes(value)
        return self


def read_leaves(session: Session, start: int, stop: int) -> Iterator[bytes]:
    """The leaf hashes of events start..stop - 1, in order. Raises AuditShort where one is missing."""
    expected = start
    query = select(Event.seq, Event.leaf).where(Event.seq >= start, Event.seq < stop).order_by(Event.seq)
    for seq, leaf in session.execute(query.execution_options(yield_per=_BATCH)):
        if seq != expected:
            raise AuditShort(f"event {expected} is missing")
        expected += 1
        yield bytes(leaf)
    if expected != stop:
        raise AuditShort(f"event {expected} is missing")


def extend_nodes(session: Session, start: int, stop: int) -> Frontier:
    """Stores the subtrees that events start..stop - 1 complete; gives the frontier at `stop`.

    Reads only those events and log2(start) hashes. `start` is where the last call stopped, or 0.
    """
    frontier = Frontier.at(start, StoredNodes(session))
    made: list[Node] = []
    for leaf in read_leaves(session, start, stop):
        made += frontier.push(leaf)
        if len(made) >= _BATCH:
            _store(session, made)
            made = []
    _store(session, made)
    return frontier


def _store(session: Session, nodes: list[Node]) -> None:
    if nodes:
        levels, positions, hashes = zip(*nodes, strict=True)
        session.execute(_STORE, {"levels": list(levels), "positions": list(positions), "hashes": list(hashes)})
