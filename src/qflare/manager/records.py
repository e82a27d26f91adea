"""The queues of records and of application keys: what waits, in what sizes, and how it ends."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from qflare.errors import QflareError
from qflare.manager.batcher import Batcher
from qflare.manager.incoming import Incoming
from qflare.manager.outgoing import Outgoing
from qflare.secret import SecretBytes

if TYPE_CHECKING:
    from qflare.manager.buckets import Buckets
    from qflare.manager.limits import Limits
    from qflare.manager.offload import Offload
    from qflare.manager.record import KeyRequest, OpenedRecord, PlainRecord, SealedRecord
    from qflare.manager.refusals import Refusals
    from qflare.manager.replies import Replies
    from qflare.manager.sessions import Sessions
    from qflare.manager.settings import ManagerSettings
    from qflare.manager.uses import Uses
    from qflare.model.ports import Store


class Records:
    """Opens, seals and derives for the sessions of one worker."""

    def __init__(
        self,
        *,
        store: Store,
        buckets: Buckets,
        sessions: Sessions,
        replies: Replies,
        refusals: Refusals,
        offload: Offload,
        uses: Uses,
        limits: Limits,
        settings: ManagerSettings,
    ) -> None:
        """Keep one queue for each direction and one for keys."""
        self._uses = uses
        incoming = Incoming(
            store=store,
            buckets=buckets,
            sessions=sessions,
            replies=replies,
            refusals=refusals,
            offload=offload,
            uses=uses,
            limits=limits,
            settings=settings,
        )
        outgoing = Outgoing(
            store=store, buckets=buckets, sessions=sessions, offload=offload, uses=uses, settings=settings
        )
        self.opens: Batcher[SealedRecord, OpenedRecord] = Batcher(
            "open record",
            incoming.open_batch,
            items_max=settings.batch_max,
            waiting_max=settings.waiting_max,
            flights_max=settings.flights_max,
            discard=lambda opened: opened.plaintext.wipe(),
            weigh=lambda record: len(record.message),
            weight_max=settings.record_batch_bytes_max,
        )
        self.seals: Batcher[PlainRecord, bytes] = Batcher(
            "seal record",
            outgoing.seal_batch,
            items_max=settings.batch_max,
            waiting_max=settings.waiting_max,
            flights_max=settings.flights_max,
            weigh=lambda record: len(record.plaintext),
            weight_max=settings.record_batch_bytes_max,
        )
        self.keys: Batcher[KeyRequest, SecretBytes] = Batcher(
            "derive key",
            outgoing.derive_batch,
            items_max=settings.batch_max,
            waiting_max=settings.waiting_max,
            discard=SecretBytes.wipe,
        )

    async def close(self, timeout_s: float) -> None:
        """Finish what was accepted."""
        for queue in (self.opens, self.seals, self.keys):
            await queue.close(timeout_s)
        with contextlib.suppress(QflareError):
            # Counts that the store does not take now are lost, as they are when a worker is killed.
            await self._uses.flush()
