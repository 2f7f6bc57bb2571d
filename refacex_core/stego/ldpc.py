"""Error correction: an irregular repeat-accumulate code for any length and rate, decoded by layered belief propagation.

A code for (k, n) is a small base graph lifted by Z: `info_columns` columns of information bits, `rows` rows of checks,
and one accumulator that runs through all checks (the shape of the DVB-S2 codes, ETSI EN 302 307). So encoding is a few
rotations and a running XOR, decoding works on whole rows of Z checks at once, and no table has to be stored: edges are
drawn from SHAKE-256 and placed by progressive edge growth (Hu, Eleftheriou and Arnold 2005), which keeps short cycles out.

Degrees come from EXIT analysis of the AWGN channel (`_DEGREES`). The structure of a (k, n) never changes: released images
depend on it. `tests/core/test_ldpc.py` holds hashes of it; whoever changes it needs a new `VERSION` beside the old one.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from refacex_core.errors import PayloadUnreadable

VERSION = 1
MAX_BITS = 4_000_000
_KNOWN = np.float32(60.0)  # log-likelihood ratio of a bit that is zero by construction
_CLIP = np.float32(25.0)
_LEAST = np.float32(1e-4)  # of a tanh: an unknown bit must not divide by zero
_DECODERS = 8  # codes whose index tables are kept; a code of a million bits takes some 40 MB

#: from this rate on, in 1/1000: (degree of most information columns, degree of the others, share of the others in 1/1000).
_DEGREES: tuple[tuple[int, int, int, int], ...] = (
    (0, 4, 30, 340),
    (75, 4, 28, 315),
    (140, 3, 20, 380),
    (250, 3, 16, 345),
    (350, 3, 14, 310),
    (450, 3, 14, 280),
    (550, 3, 13, 250),
    (700, 3, 13, 220),
    (850, 3, 12, 190),
    (930, 3, 8, 220),
)


@dataclass(frozen=True)
class Code:
    """The base graph of one (k, n): `edges[c]` holds (row, shift); bit v of column c is in check (shift + v) mod Z of the row."""

    k: int
    n: int
    lifting: int
    info_columns: int
    rows: int
    edges: tuple[tuple[tuple[int, int], ...], ...]
    punctured: NDArray[np.int64]  # places in the accumulator's chain that are not sent

    def digest(self) -> str:
        """SHA-256 over the whole structure, for the tests that keep it fixed."""
        fields = (self.k, self.n, self.lifting, self.info_columns, self.rows, self.edges, self.punctured.tolist())
        text = repr(fields)
        return hashlib.sha256(text.encode()).hexdigest()


class _Stream:
    """Whole numbers drawn from SHAKE-256: the same on every machine and for ever."""

    def __init__(self, label: str) -> None:
        self._label = label.encode()
        self._block = 0
        self._words: list[int] = []

    def below(self, bound: int) -> int:
        """A number in 0..bound-1. The bias of the modulo is below 2^-40 for any bound used here."""
        if not self._words:
            raw = hashlib.shake_256(self._label + self._block.to_bytes(4, "big")).digest(8 * 512)
            self._words = [int(w) for w in np.frombuffer(raw, ">u8")]
            self._block += 1
        return self._words.pop() % bound


def _check_size(k: int, n: int) -> None:
    if not (k >= 8 and n - k >= 3 and n <= MAX_BITS and 20 * k >= n and 20 * k <= 19 * n):
        raise ValueError(
            f"no code for k={k}, n={n}: the rate must be .05 to .95 with three check bits or more, and n at most {MAX_BITS}"
        )


def _lifting(k: int, n: int) -> int:
    """The Z near n / (columns wanted) that wastes the fewest bits on padding and puncturing."""
    m = n - k
    columns = max(72, -(-10 * n // k), -(-10 * n // m))
    target = max(n // columns, 8)
    zs = np.arange(max(target * 4 // 5, 4), target * 6 // 5 + 2, dtype=np.int64)
    waste = -k % zs + -m % zs
    return int(zs[np.lexsort((np.abs(zs - target), waste))[0]])


def _column_degrees(k: int, n: int, info_columns: int, rows: int) -> list[int]:
    """Degrees of the information columns, highest first: padding then falls on columns of low degree."""
    _, low, high, share = next(row for row in reversed(_DEGREES) if 1000 * k >= row[0] * n)
    many = (info_columns * share + 500) // 1000
    return [min(high, rows)] * many + [min(low, rows)] * (info_columns - many)


class _Growth:
    """Progressive edge growth on the lifted graph, one representative bit a column, to a depth of three checks."""

    def __init__(self, rows: int, lifting: int, stream: _Stream) -> None:
        self.rows, self.z, self.stream = rows, lifting, stream
        self.degree = [0] * rows
        self.in_row: list[list[tuple[int, int]]] = [[] for _ in range(rows)]  # (column, shift)
        self.columns: list[list[tuple[int, int]]] = []  # (row, shift)
        self.steps: list[NDArray[np.int64] | None] = [None] * rows
        for r in range(rows):
            self._add([(r, 0), (r + 1, 0)] if r + 1 < rows else [(r, 0), (0, 1 % lifting)])

    def _add(self, edges: list[tuple[int, int]]) -> None:
        for r, s in edges:
            self.in_row[r].append((len(self.columns), s))
        self.columns.append(edges)
        touched = {r for r, _ in edges}
        for r in touched:
            for c, _ in self.in_row[r]:
                for other, _ in self.columns[c]:
                    self.steps[other] = None

    def _moves(self, row: int) -> NDArray[np.int64]:
        """From a check of `row` to the checks that share a bit with it: (row, difference of shifts), K x 2."""
        known = self.steps[row]
        if known is None:
            moves = [
                (r, (t - s) % self.z) for c, s in self.in_row[row] for r, t in self.columns[c] if (r, t) != (row, s)
            ]
            known = np.array(sorted(set(moves)), np.int64).reshape(-1, 2)
            self.steps[row] = known
        return known

    def _expand(self, checks: NDArray[np.int64]) -> NDArray[np.int64]:
        rows, places = np.divmod(checks, self.z)
        found = []
        for r in np.unique(rows):
            moves = self._moves(int(r))
            found.append((moves[:, :1] * self.z + (moves[:, 1:] + places[rows == r]) % self.z).ravel())
        return np.unique(np.concatenate(found))

    def grow(self, degree: int) -> tuple[tuple[int, int], ...]:
        """Place one column of `degree` edges; each goes to a row of least degree, as far from the others as it can."""
        near = np.zeros(self.rows * self.z, np.int8)  # 3: same check, 2: would close a 4-cycle, 1: a 6-cycle
        edges: list[tuple[int, int]] = []
        for _ in range(degree):
            r, s = self._place(near, {r for r, _ in edges})
            edges.append((r, s))
            self.degree[r] += 1
            level = np.array([r * self.z + s], np.int64)
            for mark in (3, 2, 1):
                near[level] = np.maximum(near[level], mark)
                if mark > 1:
                    level = self._expand(level)
        self._add(edges)
        return tuple(sorted(edges))

    def _place(self, near: NDArray[np.int8], used: set[int]) -> tuple[int, int]:
        free = [r for r in range(self.rows) if r not in used]
        least = min(self.degree[r] for r in free)
        table = near.reshape(self.rows, self.z)
        best: NDArray[np.int64] = np.empty(0, np.int64)
        for slack in (0, 1, 2):  # rather an uneven row than a 4-cycle
            rows = np.array([r for r in free if self.degree[r] <= least + slack])
            part = table[rows]
            lowest = int(part.min())
            best = np.flatnonzero(part.ravel() == lowest)
            if lowest < 2:
                break
        i, s = divmod(int(best[self.stream.below(len(best))]), self.z)
        return int(rows[i]), s


@lru_cache(maxsize=64)
def code(k: int, n: int) -> Code:
    """The code for `k` information bits in `n` sent bits. ValueError outside rate .05 - .95."""
    _check_size(k, n)
    m, z = n - k, _lifting(k, n)
    info_columns, rows = -(-k // z), -(-m // z)
    growth = _Growth(rows, z, _Stream(f"refacex ldpc v{VERSION} {k} {n}"))
    degrees = _column_degrees(k, n, info_columns, rows)
    placed = [growth.grow(d) for d in reversed(degrees)]  # low degrees first: they suffer most from short cycles
    spare = rows * z - m
    punctured = (2 * np.arange(spare, dtype=np.int64) + 1) * (rows * z) // max(2 * spare, 1)
    return Code(k, n, z, info_columns, rows, tuple(reversed(placed)), punctured)


def encode(bits: NDArray[np.uint8], n: int) -> NDArray[np.uint8]:
    """`bits` (k values 0 or 1) followed by n - k parity bits. ValueError when no such code exists."""
    k = len(bits)
    c = code(k, n)
    info = np.zeros(c.info_columns * c.lifting, np.uint8)
    info[:k] = bits
    sums = np.zeros((c.rows, c.lifting), np.uint8)
    for column, edges in zip(info.reshape(c.info_columns, c.lifting), c.edges, strict=True):
        for r, s in edges:
            sums[r] ^= np.roll(column, s)
    # The accumulator visits all rows of place 0, then all rows of place 1, and so on.
    chain = np.bitwise_xor.accumulate(sums.T.ravel())
    return np.concatenate([info[:k], np.delete(chain, c.punctured)])


@lru_cache(maxsize=_DECODERS)
def _tables(k: int, n: int) -> tuple[list[NDArray[np.intp]], NDArray[np.intp]]:
    """For each row the bits of its checks (degree x Z), and where the sent parity bits stand in the decoder's vector.

    The vector holds information bits, padding, parity (row by row), and one bit that is always zero: the chain's start.
    """
    c = code(k, n)
    z, first = c.lifting, c.info_columns * c.lifting
    zero = first + c.rows * z
    places = np.arange(z)
    rows: list[list[NDArray[np.intp]]] = [[] for _ in range(c.rows)]
    for column, edges in enumerate(c.edges):
        for r, s in edges:
            rows[r].append(column * z + (places - s) % z)
    for r in range(c.rows):
        before = first + (r - 1) * z + places if r else np.concatenate([[zero], first + (c.rows - 1) * z + places[:-1]])
        rows[r] += [first + r * z + places, before]
    chain = first + np.arange(c.rows * z).reshape(c.rows, z).T.ravel()
    return [np.stack(r) for r in rows], np.delete(chain, c.punctured)


def agreement(llr: NDArray[np.float32], k: int) -> NDArray[np.float32]:
    """How well each row of log-likelihood ratios (B x n) fits the code: the mean over all checks of what their bits say together.

    About 0 for anything but a code word, in whatever order; towards 1 the surer the bits are. ValueError when no such code exists.
    """
    n = llr.shape[1]
    c = code(k, n)
    tables, parity = _tables(k, n)
    first = c.info_columns * c.lifting
    sure = np.ones((len(llr), first + c.rows * c.lifting + 1), np.float32)
    sure[:, first:-1] = 0
    said = np.tanh(np.clip(llr, -_CLIP, _CLIP) / 2)
    sure[:, :k], sure[:, parity] = said[:, :k], said[:, k:]
    total = sum(sure[:, table].prod(axis=1).sum(axis=1) for table in tables)
    return np.asarray(total / (c.rows * c.lifting), np.float32)


def _fails(tables: list[NDArray[np.intp]], total: NDArray[np.float32]) -> bool:
    """Whether a bit is still unknown or the hard decisions break a check."""
    if float(np.abs(total[:-1]).min()) < 1e-6:
        return True
    ones = total < 0
    return any(bool(np.logical_xor.reduce(ones[table], axis=0).any()) for table in tables)


def decode(llr: NDArray[np.float32], k: int, iterations: int = 60) -> NDArray[np.uint8]:
    """The k information bits from `llr` (n log-likelihood ratios ln P(0)/P(1); 0 where nothing is known).

    Layered sum-product with an early stop. Raises PayloadUnreadable when no code word is found; a wrong code word is
    possible in principle, so what was decoded still needs its own check. ValueError when no such code exists.
    """
    n = len(llr)
    c = code(k, n)
    tables, parity = _tables(k, n)
    total = np.full(c.info_columns * c.lifting + c.rows * c.lifting + 1, _KNOWN, np.float32)
    total[c.info_columns * c.lifting : -1] = 0
    given = np.clip(np.nan_to_num(np.asarray(llr, np.float32)), -_CLIP, _CLIP)
    total[:k], total[parity] = given[:k], given[k:]
    messages = [np.zeros(table.shape, np.float32) for table in tables]
    for _ in range(iterations):
        for table, old in zip(tables, messages, strict=True):
            bits = total[table] - old
            t = np.tanh(bits * np.float32(0.5))
            np.copyto(t, np.copysign(_LEAST, t), where=np.abs(t) < _LEAST)
            others = np.clip(t.prod(axis=0) / t, -0.9999999, 0.9999999)
            np.log((1 + others) / (1 - others), out=old)
            total[table] = bits + old
        if not _fails(tables, total):
            return (total[:k] < 0).astype(np.uint8)
    raise PayloadUnreadable("error correction found no code word")
