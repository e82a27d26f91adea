"""Tiles hold every node of a tree, under one spelling each, as C2SP tlog-tiles says."""

import hashlib

import pytest

from qflare.errors import DecodeError, EvidenceError
from qflare.protocol.log import (
    Frontier,
    consistency_path,
    nodes_for_consistency,
    nodes_for_frontier,
    root_from_nodes,
    verify_consistency,
)
from qflare.protocol.tile import Tile, decode_tile_path, node_from_tile, nodes_from_tiles, tile_of, tiles_of_tree


def tree(size):
    """Every node of a tree, and its root at each size asked for."""
    frontier, made = Frontier().append([hashlib.sha256(b"%d" % number).digest() for number in range(size)])
    return frontier.root(), {(level, index): value for level, index, value in made}


def test_the_paths_are_those_of_the_specification():
    """The example of the specification, and both ends of what an index may be."""
    for tile, path in (
        (Tile(0, 1234067, 256), "tile/0/x001/x234/067"),
        (Tile(0, 0, 256), "tile/0/000"),
        (Tile(63, 0, 1), "tile/63/000.p/1"),
        (Tile(5, 999, 255), "tile/5/999.p/255"),
        (Tile(0, 1000, 1), "tile/0/x001/000.p/1"),
        (Tile(0, 10**18, 256), "tile/0/x001/x000/x000/x000/x000/x000/000"),
    ):
        assert (path, tile) == (tile.path, decode_tile_path(path))
    for path in (
        "tile/0/0", "tile/0/0000", "tile/00/000", "tile/64/000", "tile/0/x000/001", "tile/0/001/002", "tile/0/x001",
        "tile/0/000.p/0", "tile/0/000.p/256", "tile/0/000.p/01", "tile/0/000.p", "tile/entries/000", "tile/-1/000",
        "tile/0/000/", "/tile/0/000", "tile/0/\u0660\u0660\u0660", "tile/0/000\n", "",
    ):  # fmt: skip
        with pytest.raises(DecodeError):
            decode_tile_path(path)


def test_a_tree_of_70000_has_the_tiles_of_the_specification():
    """273 full and one partial tile of level 0, one full and one partial of level 1, one partial of level 2."""
    tiles = list(tiles_of_tree(70_000))
    assert 273 == sum(tile.level == 0 and tile.width == 256 for tile in tiles)
    assert [Tile(0, 273, 112), Tile(1, 0, 256), Tile(1, 1, 17), Tile(2, 0, 1)] == tiles[273:]
    assert [Tile(0, 0, 256), Tile(1, 0, 1)] == list(tiles_of_tree(256))
    assert [] == list(tiles_of_tree(0)) == list(tiles_of_tree(300, after=300))
    assert [Tile(0, 1, 44)] == list(tiles_of_tree(300, after=256))
    assert [Tile(0, 0, 256), Tile(0, 1, 1), Tile(1, 0, 1)] == list(tiles_of_tree(257, after=200))


def test_every_node_and_every_proof_follows_from_tiles():
    """From the tiles of a tree alone come each of its nodes, its root, and the proof that it goes on from any before."""
    size = 600
    root, nodes = tree(size)
    tiles = {tile: b"".join(nodes[node] for node in tile.nodes) for tile in tiles_of_tree(size)}
    for node, value in nodes.items():
        assert value == node_from_tile(node, tiles[tile_of(node, size)], tile_of(node, size)), node
    frontier = nodes_from_tiles(nodes_for_frontier(size), size, tiles)
    assert root == root_from_nodes(size, frontier)
    for old in (1, 2, 255, 256, 257, 511, 512, 599):
        path = consistency_path(old, size, nodes_from_tiles(nodes_for_consistency(old, size), size, tiles))
        verify_consistency(old, size, old_root=tree(old)[0], new_root=root, path=path)
    for tile in (Tile(0, 2, 88), Tile(1, 0, 2)):
        assert tile.is_in(size)
        assert not tile.is_in(size - 88 - (1 if tile.level else 0))
    with pytest.raises(EvidenceError):
        node_from_tile((0, 0), bytes(31), Tile(0, 0, 1))
    with pytest.raises(EvidenceError):
        node_from_tile((3, 1), bytes(320), Tile(0, 0, 10))
