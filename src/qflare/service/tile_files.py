"""The log's tree as files that any web server publishes: checkpoint and tiles (C2SP tlog-tiles), hashes only."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Final

from qflare.errors import ConfigError, DecodeError, EvidenceError, LogForkError
from qflare.protocol.checkpoint import NOTE_BYTES_MAX, NoteBody, decode_note_body, encode_note
from qflare.protocol.log import HASH_BYTES, Node, frontier_from_nodes, nodes_for_frontier, root_from_nodes
from qflare.protocol.tile import HEIGHT, WIDTH, Tile, nodes_from_tiles, root_of_tile, tile_of, tiles_of_tree
from qflare.service.proving import signed_head

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from qflare.model.event import SignedCheckpoint
    from qflare.service.auditing import Audit

CHECKPOINT: Final = "checkpoint"


async def write_tiles(
    audit: Audit, folder: Path, *, progress: Callable[[int, int], None] | None = None
) -> tuple[SignedCheckpoint, int]:
    """
    Write what a folder lacks of the tree under the latest signed head, the checkpoint last.

    Every hash that is written is shown to lead to the signed root before the checkpoint is replaced.

    Returns:
        The head, and how many tiles were written.

    Raises:
        ConfigError: the folder cannot be used.
        DecodeError: its checkpoint cannot be read.
        EvidenceError: the stored hashes do not lead to the signed root.
        KeyNotFoundError: the log has no signed head.
        LogForkError: the log does not go on from the folder's checkpoint.
    """
    key, head = await signed_head(audit, audit.keys)
    before = await audit.offload.run(partial(_read_checkpoint, folder))
    if before is not None:
        await _require_goes_on(audit, before, head)
    writing = _Writing(audit, folder, head)
    for tile in tiles_of_tree(head.size, after=0 if before is None else before.size):
        await writing.add(tile)
        if progress is not None and not tile.level:
            progress(tile.index * WIDTH + tile.width, head.size)
    await writing.require_root()
    await audit.offload.run(partial(_write, folder / CHECKPOINT, encode_note(key.origin, key.key, head).encode()))
    return head, writing.count


class _Writing:
    """Tiles of one tree on their way, each checked against those below it."""

    def __init__(self, audit: Audit, folder: Path, head: SignedCheckpoint) -> None:
        self._audit, self._folder, self._head = audit, folder, head
        self._above: dict[Node, bytes] = {}
        """What tiles of the next level must hold, from full tiles that were written."""
        self._wanted = {tile_of(node, head.size) for node in nodes_for_frontier(head.size)}
        self._edge: dict[Tile, bytes] = {}
        """Tiles at the right edge, from which the root follows."""
        self.count = 0

    async def add(self, tile: Tile) -> None:
        hashes = await self._read(tile)
        for place, node in enumerate(tile.nodes):
            if self._above.pop(node, None) not in {None, hashes[place * HASH_BYTES : (place + 1) * HASH_BYTES]}:
                raise EvidenceError(f"the tile {tile.path} is not that of the one below it", index=node[1] << node[0])
        if tile.width == WIDTH:
            root = (HEIGHT * (tile.level + 1), tile.index)
            self._above[root] = await self._audit.offload.run(partial(root_of_tile, hashes))
        if tile in self._wanted:
            self._edge[tile] = hashes
        await self._audit.offload.run(partial(_write, self._folder / tile.path, hashes))
        self.count += 1

    async def require_root(self) -> None:
        """Show that what was written leads to the signed root; the edge may have stood before."""
        for tile in self._wanted - self._edge.keys():
            self._edge[tile] = await self._read(tile)
        frontier = nodes_from_tiles(nodes_for_frontier(self._head.size), self._head.size, self._edge)
        if root_from_nodes(self._head.size, frontier) != self._head.root:
            raise EvidenceError(f"the stored hashes do not lead to the signed root of {self._head.size} entries")

    async def _read(self, tile: Tile) -> bytes:
        nodes = await self._audit.log.find_nodes(tile.nodes)
        hashes = b"".join(nodes.get(node, b"") for node in tile.nodes)
        if len(hashes) != tile.width * HASH_BYTES:
            raise EvidenceError(f"the log lacks hashes of its tile {tile.path}", index=_first_leaf(tile))
        return hashes


async def _require_goes_on(audit: Audit, before: NoteBody, head: SignedCheckpoint) -> None:
    if before.size > head.size:
        raise LogForkError(f"the log shrank: the folder has {before.size} entries, the signed head {head.size}")
    nodes = await audit.log.find_nodes(nodes_for_frontier(before.size))
    if frontier_from_nodes(before.size, nodes).root() != before.root:
        raise LogForkError(f"the first {before.size} entries are not those of the folder's checkpoint: a fork")


def _first_leaf(tile: Tile) -> int:
    return tile.index << HEIGHT * (tile.level + 1)


def _read_checkpoint(folder: Path) -> NoteBody | None:
    path = folder / CHECKPOINT
    try:
        if not folder.is_dir():
            raise ConfigError(f"{folder} is no folder: make it first")
        with path.open("rb") as file:
            return decode_note_body(file.read(NOTE_BYTES_MAX).decode())
    except FileNotFoundError:
        return None
    except UnicodeDecodeError:
        raise DecodeError(f"{path} holds no signed note") from None
    except OSError as failure:
        raise ConfigError(f"cannot read {path}: {failure.strerror}") from None


def _write(path: Path, content: bytes) -> None:
    """Write a public file whole or not at all."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with unfinished.open("wb") as file:
            file.write(content)
        unfinished.replace(path)
    except OSError as failure:
        raise ConfigError(f"cannot write {path}: {failure.strerror}") from None
