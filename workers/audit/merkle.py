"""The Merkle tree of RFC 9162, section 2.1, over SHA-256: roots, inclusion and consistency proofs, and their checks.

Proofs are made from a `NodeSource`, which gives the hash of any complete subtree; so a proof reads about log2(size) hashes
and never the log. Leaves are level 0; a node at `level` and `position` covers leaves position * 2 ** level and the 2 ** level - 1
after it.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterable, Iterator, Sequence

NodeSource = Callable[[int, int], bytes]
Node = tuple[int, int, bytes]  # level, position, hash

EMPTY_ROOT = hashlib.sha256(b"").digest()


def leaf_hash(entry: bytes) -> bytes:
    """The hash of one entry."""
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of two children."""
    return hashlib.sha256(b"\x01" + left + right).digest()


class Frontier:
    """The roots of the complete subtrees that a log of `size` leaves ends in: what is needed to append and to give a root."""

    def __init__(self, size: int = 0, hashes: Iterable[bytes] = ()) -> None:
        self.size = size
        self._stack = list(hashes)
        if len(self._stack) != size.bit_count():
            raise ValueError("as many hashes as there are one bits in the size")

    @classmethod
    def at(cls, size: int, node: NodeSource) -> Frontier:
        """The frontier of the first `size` leaves."""
        return cls(size, [node(level, position) for level, position in complete_subtrees(0, size)])

    def push(self, leaf: bytes) -> Iterator[Node]:
        """Appends a leaf hash; gives the subtrees that it completes, smallest first, level 1 and up."""
        position, level, top = self.size, 0, leaf
        while position & 1:
            top = node_hash(self._stack.pop(), top)
            position, level = position >> 1, level + 1
            yield level, position, top
        self._stack.append(top)
        self.size += 1

    def root(self) -> bytes:
        """The root of what was pushed so far."""
        if not self._stack:
            return EMPTY_ROOT
        top = self._stack[-1]
        for left in reversed(self._stack[:-1]):
            top = node_hash(left, top)
        return top


def tree_root(leaves: Iterable[bytes]) -> bytes:
    """The root over leaf hashes."""
    frontier = Frontier()
    for leaf in leaves:
        for _ in frontier.push(leaf):
            pass
    return frontier.root()


def root_at(size: int, node: NodeSource) -> bytes:
    """The root of the first `size` leaves."""
    return Frontier.at(size, node).root()


def inclusion_proof(index: int, size: int, node: NodeSource) -> list[bytes]:
    """The audit path of leaf `index` in the tree of the first `size` leaves (2.1.3.1). Raises ValueError out of range."""
    if not 0 <= index < size:
        raise ValueError("the leaf is not in the tree")
    path: list[bytes] = []
    low, high = 0, size
    while high - low > 1:
        middle = low + _split(high - low)
        if index < middle:
            path.append(_range_root(middle, high, node))
            high = middle
        else:
            path.append(_range_root(low, middle, node))
            low = middle
    return path[::-1]


def consistency_proof(first: int, second: int, node: NodeSource) -> list[bytes]:
    """The proof that the first `first` leaves of the tree of size `second` have not changed (2.1.4.1); empty if equal.

    Raises ValueError unless 0 < first <= second.
    """
    if not 0 < first <= second:
        raise ValueError("sizes out of range")
    proof: list[bytes] = []
    low, high, whole = 0, second, True
    while first != high:
        middle = low + _split(high - low)
        if first <= middle:
            proof.append(_range_root(middle, high, node))
            high = middle
        else:
            proof.append(_range_root(low, middle, node))
            low, whole = middle, False
    if not whole:
        proof.append(_range_root(low, high, node))
    return proof[::-1]


def check_inclusion(leaf: bytes, index: int, size: int, path: Sequence[bytes], root: bytes) -> bool:
    """Whether `path` proves that the leaf hash stands at `index` under `root` (2.1.3.2)."""
    if not 0 <= index < size:
        return False
    position, last, top = index, size - 1, leaf
    for sibling in path:
        if last == 0:
            return False
        if position & 1 or position == last:
            top = node_hash(sibling, top)
            while position and not position & 1:
                position, last = position >> 1, last >> 1
        else:
            top = node_hash(top, sibling)
        position, last = position >> 1, last >> 1
    return last == 0 and hmac.compare_digest(top, root)


def check_consistency(first: int, second: int, first_root: bytes, second_root: bytes, proof: Sequence[bytes]) -> bool:
    """Whether `proof` shows that the tree under `second_root` extends the one under `first_root` (2.1.4.2)."""
    if not 0 < first <= second:
        return False
    if first == second:
        return not proof and hmac.compare_digest(first_root, second_root)
    path = list(proof)
    if first & (first - 1) == 0:
        path.insert(0, first_root)
    if not path:
        return False
    position, last = first - 1, second - 1
    while position & 1:
        position, last = position >> 1, last >> 1
    old = new = path[0]
    for sibling in path[1:]:
        if last == 0:
            return False
        if position & 1 or position == last:
            old, new = node_hash(sibling, old), node_hash(sibling, new)
            while position and not position & 1:
                position, last = position >> 1, last >> 1
        else:
            new = node_hash(new, sibling)
        position, last = position >> 1, last >> 1
    return last == 0 and hmac.compare_digest(old, first_root) and hmac.compare_digest(new, second_root)


def _split(width: int) -> int:
    """The largest power of two smaller than `width` (2 or more)."""
    return 1 << (width - 1).bit_length() - 1


def complete_subtrees(low: int, high: int) -> Iterator[tuple[int, int]]:
    """The complete subtrees (level, position) that leaves low..high fall into, left to right; low is where a split puts it."""
    while low < high:
        level = (high - low).bit_length() - 1
        yield level, low >> level
        low += 1 << level


def _range_root(low: int, high: int, node: NodeSource) -> bytes:
    hashes = [node(level, position) for level, position in complete_subtrees(low, high)]
    top = hashes.pop()
    while hashes:
        top = node_hash(hashes.pop(), top)
    return top
