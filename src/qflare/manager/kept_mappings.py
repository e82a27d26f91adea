"""What a mapper keeps of its mappings, by id and by the end of their life; the secrets in it are sealed."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

from qflare.clock import utc
from qflare.errors import KeyNotFoundError
from qflare.manager.key_mapping import KeptMapping, KeyMapping
from qflare.manager.mapper_state import ExportedMapping
from qflare.protocol.descriptor import read_descriptor

if TYPE_CHECKING:
    from collections.abc import Iterable

    from qflare.clock import Clock
    from qflare.model.ids import MappingId


class KeptMappings:
    """Finds, exports and forgets mappings; one whose life is over is as good as gone."""

    def __init__(self, clock: Clock) -> None:
        """Keep none."""
        self._clock = clock
        self._kept: dict[MappingId, KeptMapping] = {}
        self._expiring: list[tuple[int, MappingId]] = []
        """A heap by the end of life; an entry that a rotation has overtaken is passed over."""

    def __len__(self) -> int:
        """Return how many are kept, those included that wait to be cleaned up."""
        return len(self._kept)

    def get(self, mapping_id: MappingId) -> KeptMapping:
        """Return a mapping that lives. `KeyNotFoundError` if there is none."""
        kept = self._kept.get(mapping_id)
        if kept is None or self._clock.now_s() >= kept.expires_s:
            raise KeyNotFoundError("no such mapping, or it has expired: create it with create_key_mapping()")
        return kept

    def has(self, kept: KeptMapping) -> bool:
        """Return whether *kept* is what is kept of its mapping now, not an earlier generation."""
        return self._kept.get(kept.public.mapping_id) is kept

    def put(self, kept: KeptMapping) -> None:
        """Keep a mapping, in place of its generation before."""
        self._kept[kept.public.mapping_id] = kept
        heapq.heappush(self._expiring, (kept.expires_s, kept.public.mapping_id))

    def replace(self, every: Iterable[KeptMapping]) -> None:
        """Keep *every* one that still lives, and nothing else."""
        now_s = self._clock.now_s()
        self._kept = {each.public.mapping_id: each for each in every if now_s < each.expires_s}
        self._expiring = [(each.expires_s, mapping_id) for mapping_id, each in self._kept.items()]
        heapq.heapify(self._expiring)

    def drop_expired(self, *, limit: int) -> int:
        """Forget at most *limit* mappings whose life is over; return how many."""
        now_s, removed = self._clock.now_s(), 0
        while removed < limit and self._expiring and self._expiring[0][0] <= now_s:
            _, mapping_id = heapq.heappop(self._expiring)
            kept = self._kept.get(mapping_id)
            if kept is not None and kept.expires_s <= now_s:
                del self._kept[mapping_id]
                removed += 1
        return removed

    def export(self) -> list[ExportedMapping]:
        """Return every mapping that lives, as it goes into an exported state."""
        now_s = self._clock.now_s()
        return [
            ExportedMapping(
                device_id=kept.public.device_id,
                client_public_key=kept.client_public_key,
                descriptor=kept.public.descriptor,
                server_public_key=kept.public.server_public_key,
                expires_s=kept.expires_s,
                sealed=kept.sealed,
            )
            for kept in self._kept.values()
            if now_s < kept.expires_s
        ]

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()
        self._expiring.clear()


def restore_kept(exported: ExportedMapping) -> KeptMapping:
    """Return what an exported state holds of a mapping. `AuthenticationError` if its descriptor is not signed."""
    descriptor = read_descriptor(exported.descriptor, server_key=exported.server_public_key)
    public = KeyMapping(
        mapping_id=descriptor.mapping_id,
        device_id=exported.device_id,
        ref=descriptor.ref,
        generation=descriptor.generation,
        bucket=descriptor.bucket,
        width_s=descriptor.width_s,
        descriptor=exported.descriptor,
        server_public_key=exported.server_public_key,
        expires_at=utc(exported.expires_s),
    )
    return KeptMapping(public, exported.client_public_key, exported.sealed, exported.expires_s)
