"""
Tiles of the log's tree: its hashes as files that never change (C2SP tlog-tiles).

Tile (L, N) are the roots of 256 complete subtrees of ``256**L`` leaves each, from subtree ``256 * N`` on; a partial
tile has fewer.  Every node of the tree is in a tile, or follows from hashes that stand beside each other in one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from qflare.errors import DecodeError, EvidenceError, LengthError
from qflare.protocol.log import HASH_BYTES, SIZE_MAX, Node, hash_children

HEIGHT: Final = 8
WIDTH: Final = 1 << HEIGHT
"""Hashes of a full tile."""
LEVEL_MAX: Final = 63
_PATH: Final = re.compile(r"tile/(0|[1-9][0-9]?)/((?:x[0-9]{3}/){0,6}[0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?")


@dataclass(frozen=True, slots=True)
class Tile:
    """The name of a tile."""

    level: int
    index: int
    width: int
    """How many hashes: 256 of a full one."""

    @property
    def path(self) -> str:
        """Return where it stands below the log's prefix, such as ``tile/0/x001/234.p/5``."""
        groups = [f"{self.index // 1000**power % 1000:03}" for power in range(7)]
        while len(groups) > 1 and groups[-1] == "000":
            groups.pop()
        name = "/".join([*(f"x{group}" for group in reversed(groups[1:])), groups[0]])
        return f"tile/{self.level}/{name}" + (f".p/{self.width}" if self.width < WIDTH else "")

    @property
    def nodes(self) -> list[Node]:
        """Return the nodes whose hashes it holds, in order."""
        first = self.index * WIDTH
        return [(HEIGHT * self.level, first + place) for place in range(self.width)]

    def is_in(self, size: int) -> bool:
        """Return whether a tree of *size* leaves has all of it."""
        return self.index * WIDTH + self.width <= size >> HEIGHT * self.level


def decode_tile_path(path: str) -> Tile:
    """
    Read a tile's path.

    Raises:
        DecodeError: it is none; an index has one spelling.
    """
    found = _PATH.fullmatch(path)
    if found is not None:
        level, name, partial = found.groups()
        tile = Tile(int(level), int(name.replace("x", "").replace("/", "")), int(partial or WIDTH))
        if tile.level <= LEVEL_MAX and tile.path == path:
            return tile
    message = "the path of a tile is tile/<level>/<index in groups of three digits>[.p/<width>]"
    raise DecodeError(message)


def tile_of(node: Node, size: int) -> Tile:
    """Return the tile of a tree of *size* leaves from which a complete *node* follows."""
    level, index = node
    tile_level, height = divmod(level, HEIGHT)
    tile_index = (index << height) // WIDTH
    return Tile(tile_level, tile_index, min(WIDTH, (size >> HEIGHT * tile_level) - tile_index * WIDTH))


def node_from_tile(node: Node, hashes: bytes, tile: Tile) -> bytes:
    """
    Return a node's hash from the tile that `tile_of` named.

    Raises:
        EvidenceError: the tile has not the size that its name says, or not that node.
    """
    level, index = node
    height = level - HEIGHT * tile.level
    first, count = (index << height) - tile.index * WIDTH, 1 << height
    if len(hashes) != tile.width * HASH_BYTES or first < 0 or first + count > tile.width:
        message = f"the tile {tile.path} is not one of {tile.width} hashes that holds the node ({level}, {index})"
        raise EvidenceError(message)
    return _fold(hashes[first * HASH_BYTES : (first + count) * HASH_BYTES])


def root_of_tile(hashes: bytes) -> bytes:
    """Return the root over a full tile: a hash of the tile above it."""
    if len(hashes) != WIDTH * HASH_BYTES:
        name = "full tile"
        raise LengthError(name, expected=WIDTH * HASH_BYTES, actual=len(hashes))
    return _fold(hashes)


def _fold(hashes: bytes) -> bytes:
    """Return the root over a power of two of hashes."""
    row = [hashes[at : at + HASH_BYTES] for at in range(0, len(hashes), HASH_BYTES)]
    while len(row) > 1:
        row = [hash_children(row[at], row[at + 1]) for at in range(0, len(row), 2)]
    return row[0]


def nodes_from_tiles(nodes: Iterable[Node], size: int, tiles: Mapping[Tile, bytes]) -> dict[Node, bytes]:
    """Return the hashes of *nodes* from *tiles*, which are at least those that `tile_of` names for each."""
    return {node: node_from_tile(node, tiles[tile], tile) for node in nodes for tile in (tile_of(node, size),)}


def tiles_of_tree(size: int, *, after: int = 0) -> Iterable[Tile]:
    """
    Return every tile of a tree of *size* leaves, full and partial, that one of *after* leaves does not have.

    Source: C2SP tlog-tiles, "Partial Tiles".
    """
    for level in range(LEVEL_MAX + 1):
        wide, had = size >> HEIGHT * level, after >> HEIGHT * level
        if not 0 < wide <= SIZE_MAX:
            return
        for index in range(had // WIDTH, wide // WIDTH):
            yield Tile(level, index, WIDTH)
        if wide % WIDTH and wide != had:
            yield Tile(level, wide // WIDTH, wide % WIDTH)
