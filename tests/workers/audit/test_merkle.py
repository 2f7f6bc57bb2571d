"""The tree against the vectors of the Certificate Transparency project, and against itself for every small size."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.audit import merkle
from workers.audit.merkle import Frontier, NodeSource

# The entries and roots that every implementation of RFC 6962 and RFC 9162 is tested with.
ENTRIES = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
INCLUSION = [  # leaf, size, path
    (0, 1, []),
    (
        0,
        8,
        [
            "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
        ],
    ),
    (
        5,
        8,
        [
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ],
    ),
    (2, 3, ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"]),
    (
        1,
        5,
        [
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        ],
    ),
]
CONSISTENCY = [  # first, second, proof
    (1, 1, []),
    (
        1,
        8,
        [
            "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
        ],
    ),
    (
        6,
        8,
        [
            "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ],
    ),
    (
        2,
        5,
        [
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        ],
    ),
]
LEAVES = [merkle.leaf_hash(bytes.fromhex(entry)) for entry in ENTRIES]


def nodes_of(leaves: list[bytes]) -> NodeSource:
    """Hashes of complete subtrees straight from the leaves, and from nothing but the definition."""

    def node(level: int, position: int) -> bytes:
        if level == 0:
            return leaves[position]
        return merkle.node_hash(node(level - 1, 2 * position), node(level - 1, 2 * position + 1))

    return node


def root_by_definition(leaves: list[bytes]) -> bytes:
    """RFC 9162, 2.1.1, word for word."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while 2 * k < len(leaves):
        k *= 2
    return merkle.node_hash(root_by_definition(leaves[:k]), root_by_definition(leaves[k:]))


@pytest.mark.parametrize("size", range(1, 9))
def test_known_roots(size: int) -> None:
    assert merkle.tree_root(LEAVES[:size]).hex() == ROOTS[size - 1]
    assert merkle.root_at(size, nodes_of(LEAVES)).hex() == ROOTS[size - 1]


def test_root_of_nothing() -> None:
    assert merkle.tree_root([]).hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@pytest.mark.parametrize(("index", "size", "path"), INCLUSION)
def test_known_inclusion(index: int, size: int, path: list[str]) -> None:
    assert [each.hex() for each in merkle.inclusion_proof(index, size, nodes_of(LEAVES))] == path


@pytest.mark.parametrize(("first", "second", "proof"), CONSISTENCY)
def test_known_consistency(first: int, second: int, proof: list[str]) -> None:
    assert [each.hex() for each in merkle.consistency_proof(first, second, nodes_of(LEAVES))] == proof


def test_every_proof_of_small_trees_checks() -> None:
    leaves = [merkle.leaf_hash(bytes([number])) for number in range(20)]
    node = nodes_of(leaves)
    roots = [root_by_definition(leaves[:size]) for size in range(21)]
    for size in range(1, 21):
        assert merkle.root_at(size, node) == merkle.tree_root(leaves[:size]) == roots[size]
        for index in range(size):
            path = merkle.inclusion_proof(index, size, node)
            assert merkle.check_inclusion(leaves[index], index, size, path, roots[size])
        for first in range(1, size + 1):
            proof = merkle.consistency_proof(first, size, node)
            assert merkle.check_consistency(first, size, roots[first], roots[size], proof)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_change_breaks_the_proofs(data: st.DataObject) -> None:
    size = data.draw(st.integers(2, 70))
    leaves = [merkle.leaf_hash(number.to_bytes(2, "big")) for number in range(size)]
    node, root = nodes_of(leaves), root_by_definition(leaves)
    index = data.draw(st.integers(0, size - 1))
    path = merkle.inclusion_proof(index, size, node)
    other = data.draw(st.integers(0, size - 1).filter(lambda each: each != index))
    assert not merkle.check_inclusion(leaves[index], other, size, path, root)
    assert not merkle.check_inclusion(leaves[other], index, size, path, root)
    assert not merkle.check_inclusion(leaves[index], index, size, path[:-1], root)
    assert not merkle.check_inclusion(leaves[index], index, size, [*path, root], root)
    first = data.draw(st.integers(1, size - 1))
    proof = merkle.consistency_proof(first, size, node)
    before = root_by_definition(leaves[:first])
    changed = root_by_definition([merkle.leaf_hash(b"another"), *leaves[1:first]])
    assert not merkle.check_consistency(first, size, changed, root, proof)
    spot = data.draw(st.integers(0, len(proof) - 1))
    assert not merkle.check_consistency(first, size, before, root, [*proof[:spot], root, *proof[spot + 1 :]])
    assert not merkle.check_consistency(first, size, before, root, proof[:-1])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 200), st.integers(0, 60))
def test_a_frontier_goes_on_where_it_stopped(start: int, more: int) -> None:
    leaves = [merkle.leaf_hash(number.to_bytes(2, "big")) for number in range(start + more)]
    frontier = Frontier.at(start, nodes_of(leaves))
    node = nodes_of(leaves)
    for leaf in leaves[start:]:
        for level, position, value in frontier.push(leaf):
            assert value == node(level, position)
    assert frontier.root() == root_by_definition(leaves)


def test_out_of_range() -> None:
    with pytest.raises(ValueError, match="not in the tree"):
        merkle.inclusion_proof(3, 3, nodes_of(LEAVES))
    with pytest.raises(ValueError, match="out of range"):
        merkle.consistency_proof(0, 3, nodes_of(LEAVES))
    assert not merkle.check_inclusion(LEAVES[0], 1, 1, [], LEAVES[0])
    assert not merkle.check_consistency(3, 2, LEAVES[0], LEAVES[0], [])
