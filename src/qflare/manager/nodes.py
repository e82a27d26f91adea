"""Hashes of the log's complete subtrees as proofs need them: those that many proofs share are read once."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from qflare.manager.deadline import Deadline
    from qflare.model.log_ports import LogStore

_HELD_MAX: Final = 8192
"""Nodes that are held, some 2 MB: the upper half of the levels that a proof among ten million entries passes."""

Node = tuple[int, int]


class Nodes:
    """
    Reads nodes by (level, index) and holds those that were used last.

    A complete subtree never changes.  What the database said of one is held even if the database is altered later: its
    proofs stay those of the heads that were signed.
    """

    def __init__(self, store: LogStore, deadline: Deadline) -> None:
        self._store = store
        self._deadline = deadline
        self._held: OrderedDict[Node, bytes] = OrderedDict()

    async def find(self, wanted: Iterable[Node]) -> dict[Node, bytes]:
        """
        Return the hashes of those that stand; each of *wanted* once.

        Raises:
            StoreUnavailableError: the store does not answer.
        """
        found: dict[Node, bytes] = {}
        lacking: list[Node] = []
        for node in wanted:
            node_hash = self._held.get(node)
            if node_hash is None:
                lacking.append(node)
            else:
                self._held.move_to_end(node)
                found[node] = node_hash
        if lacking:
            read = await self._deadline.of(self._store.find_nodes(lacking))
            found |= read
            self._held |= read
            while len(self._held) > _HELD_MAX:
                self._held.popitem(last=False)
        return found
