"""
The audit log as the manager writes it: append, sign one head for a whole batch, and hand out receipts (PROTOCOL H9).
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from typing import TYPE_CHECKING, Final, NamedTuple

from qflare.clock import Clock, utc
from qflare.errors import ConflictError, QflareError, RestoredError, SignerUnavailableError, UncoveredError
from qflare.manager.batcher import Batcher
from qflare.manager.cover import Cover
from qflare.manager.deadline import Deadline
from qflare.manager.failures import Failures
from qflare.manager.heads import Heads
from qflare.manager.history import require_append_goes_on, require_goes_on, root_of
from qflare.manager.logged import logged_events
from qflare.manager.nodes import Nodes
from qflare.model.call import call_about
from qflare.model.event import AuditEntry, LogAppend, LoggedEvent, NewEvent, SignedCheckpoint
from qflare.protocol.checkpoint import sign_checkpoint
from qflare.protocol.entry import EntryVault, open_entry
from qflare.protocol.log import inclusion_path, nodes_for_path, prove_append
from qflare.protocol.new_event import make_events
from qflare.protocol.receipt import encode_receipt, encode_receipts

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from qflare.manager.background import Background
    from qflare.manager.identity import Identity, SigningKeys
    from qflare.manager.marks import Marks
    from qflare.manager.offload import Offload
    from qflare.manager.settings import ManagerSettings
    from qflare.model.ids import CallId, TenantId
    from qflare.model.log_ports import LogStore
    from qflare.model.signer_ports import Signer
    from qflare.protocol.identity import Certificate
    from qflare.protocol.new_event import PreparedEvent
    from qflare.secret import SecretBytes

_log = logging.getLogger("qflare.manager")

_SAVE_EVERY_S: Final = 0.2
"""Signed heads are stored at most so often; only the newest of them matters."""
_RETRY_S: Final = 1.0
_BATCHES: Final = 2
"""Events are small: so many times as many are appended at once as other batches have items."""
_WEIGHT_MAX: Final = 4 * 2**20
"""Most bytes of data of one batch, so that the log's lock is held for milliseconds."""


class _Pending(NamedTuple):
    tenant_id: TenantId
    event: PreparedEvent
    call_id: CallId | None


@dataclass(frozen=True, slots=True)
class _Group:
    """What a batch has of one tenant."""

    tenant_id: TenantId
    places: list[int]
    """In the batch."""
    events: list[NewEvent]
    call_ids: list[CallId | None]


class Log:
    """Writes entries and signs heads; one for all operations of a worker."""

    def __init__(
        self,
        *,
        store: LogStore,
        identity: Identity,
        vault: EntryVault,
        signer: Signer | None,
        marks: Marks,
        offload: Offload,
        clock: Clock,
        settings: ManagerSettings,
    ) -> None:
        """
        Sign with *identity*'s log key what *store* has committed, and what *marks* have reserved.

        Where a signer of its own holds that key, *signer* is asked.
        """
        self._store = store
        self._marks = marks
        self._identity = identity
        self._vault = vault
        self._offload = offload
        self._clock = clock
        self._deadline = Deadline(settings.store_timeout_s)
        self._nodes = Nodes(store, self._deadline)
        self.failures = Failures()
        """Entries that were not appended, heads that were not signed or stored (steps append, sign and store)."""
        self._heads = None if signer is None else Heads(signer=signer, store=store, deadline=self._deadline)
        self._latest: SignedCheckpoint | None = None
        self._latest_serial = identity.serial
        """Of the certificate whose log key signed it: devices take receipts under the one in force."""
        self._unsaved: SignedCheckpoint | None = None
        self._has_unsaved = asyncio.Event()
        self._batcher: Batcher[_Pending, LoggedEvent] = Batcher(
            "log event",
            self._log_batch,
            items_max=_BATCHES * settings.batch_max,
            waiting_max=settings.waiting_max,
            flights_max=settings.flights_max,
            weigh=_weigh,
            weight_max=_WEIGHT_MAX,
        )
        self._cover = Cover(self._sign_present, waiting_max=settings.waiting_max)
        self._turn = asyncio.Lock()
        """Held while a batch is appended: in the order in which they came, whatever the others do meanwhile."""

    async def log_event(
        self, tenant_id: TenantId, event: PreparedEvent, *, call_id: CallId | None = None
    ) -> LoggedEvent:
        """
        Append *event* and return where it stands, with its receipt; once for one change.

        Raises:
            ConflictError: the call id was used for another event.
        """
        return await self._batcher.submit(_Pending(tenant_id, event, call_id), tenant_id=tenant_id)

    async def log_events(
        self, tenant_id: TenantId, events: Sequence[PreparedEvent], *, call_id: CallId | None = None
    ) -> list[LoggedEvent | QflareError]:
        """Append *events* in batches; one result or error each, and with *call_id* once at its place in the call."""
        changes: Iterable[CallId | None] = (
            repeat(None, len(events))
            if call_id is None
            else (call_about(call_id, b"event", b"%d" % place) for place in range(len(events)))
        )
        pending = [
            tuple.__new__(_Pending, (tenant_id, event, change)) for event, change in zip(events, changes, strict=True)
        ]
        return await self._batcher.submit_many(pending, tenant_id=tenant_id)

    async def append(self, tenant_id: TenantId, events: Sequence[NewEvent]) -> LogAppend:
        """Append *events* without signing: the next signed head covers them."""
        with self.failures.of("append"):
            return await self._deadline.of(self._store.append_events(tenant_id, events))

    async def receipts(self, append: LogAppend) -> list[bytes]:
        """
        Sign the head that *append* left and return the receipt of every new entry in order.

        Only after the commit: what is signed is what will be found.  The signed head is stored in the background:
        nobody's answer rests on it, and whoever holds a receipt holds the head.
        """
        with self.failures.of("sign"), self._identity.lend() as keys:
            if keys.log is None:
                return await self._receipts_elsewhere(keys.certificate, append)
            if (known := self._latest) is not None:
                await require_append_goes_on(
                    known, append, store=self._store, deadline=self._deadline, offload=self._offload
                )
            checkpoint, receipts = await self._offload.run(partial(self._prove, keys, keys.log, append))
        self._note(checkpoint, keys.certificate.serial)
        return receipts

    async def receipts_at(self, indices: Sequence[int]) -> list[bytes]:
        """Return receipts of entries that stand already, under one head that covers them all."""
        if not indices:
            return []
        checkpoint = self._held()
        if checkpoint is None or checkpoint.size <= max(indices):
            checkpoint = await self.checkpoint()
        return await self._receipts_under(checkpoint, indices)

    async def _receipts_under(self, checkpoint: SignedCheckpoint, indices: Sequence[int]) -> list[bytes]:
        size = checkpoint.size
        nodes = await self._nodes.find({node for index in indices for node in nodes_for_path(index, size)})
        return [
            encode_receipt(index, size, checkpoint.time_s, inclusion_path(index, size, nodes), checkpoint.signature)
            for index in indices
        ]

    async def checkpoint(self) -> SignedCheckpoint:
        """
        Sign the log as it stands (the stored head if it is of that size already) and store the signature.

        Raises:
            EvidenceError: it does not go on from what this worker signed before.
        """
        checkpoint = await self._sign_present()
        await self._save_noted()
        return checkpoint

    async def cover(self) -> None:
        """
        Return once a signed head covers what is committed, however many wait: before a change is answered (H9).

        Callers share one look at the log and one signature, which began after each of them came.  As with receipts the
        signed head is stored in the background.

        Raises:
            RestoredError: the database under this worker was restored.
            UncoveredError: no head could be signed in time; what is committed stands.
        """
        await self._cover.wait()

    async def require_signer(self) -> None:
        """
        Refuse before anything is made that is told once: what nobody may be told would be lost.

        Raises:
            SignerUnavailableError: no head can be signed now; nothing was changed.
        """
        try:
            await self._cover.wait()
            if self._heads is not None:
                # Where nothing is left to sign nobody was asked.
                with self.failures.of("sign"):
                    await self._heads.require_signer()
        except RestoredError:
            raise
        except QflareError as failure:
            reason = failure.reason if isinstance(failure, UncoveredError) else str(failure)
            raise SignerUnavailableError(
                f"nothing was done, since no head of the log can be signed: {reason}"
            ) from None

    async def save_heads(self, background: Background) -> None:
        """Store the newest signed head whenever there is one, until the manager closes."""
        while not background.stop.is_set():
            await background.pause_until(self._has_unsaved)
            try:
                await self._save_noted()
            except QflareError as failure:
                # Noted it stays; the next head, or the next try, stores it.
                _log.warning("a signed head was not stored: %s", type(failure).__name__)
                await background.pause(_RETRY_S)
            else:
                await background.pause(_SAVE_EVERY_S)

    async def close(self, timeout_s: float) -> None:
        """Finish what was accepted, and store the last signed head."""
        await self._batcher.close(timeout_s)
        await self._cover.close(timeout_s)
        try:
            await self._save_noted()
        except QflareError as failure:
            _log.warning("the last signed head was not stored: %s", type(failure).__name__)

    def _held(self) -> SignedCheckpoint | None:
        """Return the newest signed head, if the log key in force signed it."""
        return self._latest if self._latest_serial == self._identity.serial else None

    async def _sign_present(self) -> SignedCheckpoint:
        """Return a signed head of the log as it stands, or of what it became meanwhile."""
        known = self._latest
        head = await self._deadline.of(self._store.log_head())
        root = root_of(head)
        checkpoint = self._held()
        is_later = checkpoint is not None and checkpoint is not known and checkpoint.size > head.size
        if checkpoint is None or ((checkpoint.size, checkpoint.root) != (head.size, root) and not is_later):
            if known is not None:
                with self.failures.of("sign"):
                    await require_goes_on(known, head.size, root, store=self._store, deadline=self._deadline)
            with self.failures.of("sign"), self._identity.lend() as keys:
                if keys.log is None:
                    checkpoint = await self._sign_elsewhere(keys.certificate, head.size, root)
                else:
                    checkpoint = await self._offload.run(
                        partial(self._sign, keys.certificate, keys.log, head.size, root)
                    )
            self._note(checkpoint, keys.certificate.serial)
        return checkpoint

    async def _receipts_elsewhere(self, certificate: Certificate, append: LogAppend) -> list[bytes]:
        """Have a signer of its own sign the head that *append* left, or a larger one, and make the receipts."""
        size = append.first_index + len(append.leaf_hashes)
        root, paths = await self._offload.run(
            partial(prove_append, append.old_frontier, append.first_index, append.leaf_hashes)
        )
        signed = await self._sign_elsewhere(certificate, size, root)
        self._note(signed, certificate.serial)
        if signed.size == size:
            return encode_receipts(append.first_index, size, signed.time_s, paths, signed.signature)
        # Another worker's head came first, and covers these entries too.
        return await self._receipts_under(signed, range(append.first_index, size))

    async def _sign_elsewhere(self, certificate: Certificate, size: int, root: bytes) -> SignedCheckpoint:
        if self._heads is None:
            raise SignerUnavailableError("a signer of its own holds the log's key, and this worker has no way to it")
        await self._offload.run(partial(self._marks.reserve, size))
        return await self._heads.sign(certificate, size, root)

    def _sign(self, certificate: Certificate, log_key: SecretBytes, size: int, root: bytes) -> SignedCheckpoint:
        self._marks.reserve(size)
        return sign_checkpoint(log_key, certificate.log_origin, size, root, self._clock.now_s())

    def _prove(
        self, keys: SigningKeys, log_key: SecretBytes, append: LogAppend
    ) -> tuple[SignedCheckpoint, list[bytes]]:
        root, paths = prove_append(append.old_frontier, append.first_index, append.leaf_hashes)
        signed = self._sign(keys.certificate, log_key, append.first_index + len(paths), root)
        return signed, encode_receipts(append.first_index, signed.size, signed.time_s, paths, signed.signature)

    def _note(self, checkpoint: SignedCheckpoint, serial: int) -> None:
        is_newer = self._latest is None or (serial, checkpoint.size) > (self._latest_serial, self._latest.size)
        if is_newer:
            self._latest = self._unsaved = checkpoint
            self._latest_serial = serial
            self._has_unsaved.set()

    async def _save_noted(self) -> None:
        checkpoint = self._unsaved
        if checkpoint is None:
            return
        with self.failures.of("store"):
            await self._deadline.of(self._store.save_checkpoint(checkpoint))
            await self._marks.note(checkpoint)
        if self._unsaved is checkpoint:
            self._unsaved = None
            self._has_unsaved.clear()

    async def _log_batch(self, batch: Sequence[_Pending]) -> list[LoggedEvent | QflareError]:
        results: list[LoggedEvent | QflareError | None] = [None] * len(batch)
        places: dict[TenantId, list[int]] = {}
        for place, pending in enumerate(batch):
            places.setdefault(pending.tenant_id, []).append(place)
        # Leaves are made, and receipts written, while another batch is appended.
        groups = [
            self._make(tenant_id, its_places, [batch[place] for place in its_places])
            for tenant_id, its_places in places.items()
        ]
        async with self._turn:
            appends = [await self._append(group) for group in groups]
        for group, append in zip(groups, appends, strict=True):
            for place, answer in zip(group.places, await self._answer(group, append), strict=True):
                results[place] = answer
        return [result for result in results if result is not None]

    def _make(self, tenant_id: TenantId, places: list[int], batch: Sequence[_Pending]) -> _Group:
        events = make_events([pending.event for pending in batch], tenant_id, self._vault)
        return _Group(tenant_id, places, events, [pending.call_id for pending in batch])

    async def _append(self, group: _Group) -> LogAppend | QflareError:
        try:
            with self.failures.of("append"):
                return await self._deadline.of(
                    self._store.append_events(group.tenant_id, group.events, call_ids=group.call_ids)
                )
        except QflareError as failure:
            return failure

    async def _answer(self, group: _Group, append: LogAppend | QflareError) -> Sequence[LoggedEvent | QflareError]:
        if isinstance(append, QflareError):
            return [append] * len(group.events)
        try:
            return await self._results(group, append)
        except QflareError as failure:
            return [failure] * len(group.events)

    async def _results(self, group: _Group, append: LogAppend) -> list[LoggedEvent | QflareError]:
        fresh = await self.receipts(append) if append.leaf_hashes else []
        if len(fresh) == len(group.events):
            return [*logged_events(append.indexes, group.events, fresh)]
        receipts = {append.first_index + number: receipt for number, receipt in enumerate(fresh)}
        old = sorted(set(append.indexes) - receipts.keys())
        receipts.update(zip(old, await self.receipts_at(old), strict=True))
        entries = {
            index: open_entry(entry, self._vault)
            for index in old
            if (entry := await self._deadline.of(self._store.find_entry(group.tenant_id, index))) is not None
        }
        # Of one id given twice in a batch the first is what stands.
        fresh_events: dict[int, NewEvent] = {}
        for index, event in zip(append.indexes, group.events, strict=True):
            fresh_events.setdefault(index, event)
        return [
            _logged_before(entries[index], event, receipts[index])
            if index in entries
            else logged_events([index], [fresh_events[index]], [receipts[index]])[0]
            if _is_same(fresh_events[index], event)
            else _used_otherwise()
            for index, event in zip(append.indexes, group.events, strict=True)
        ]


def _weigh(pending: _Pending) -> int:
    return len(pending.event.data)


def _is_same(one: NewEvent | AuditEntry, other: NewEvent) -> bool:
    return (one.event_type, one.severity, one.device_id, one.data) == (
        other.event_type,
        other.severity,
        other.device_id,
        other.data,
    )


def _used_otherwise() -> ConflictError:
    return ConflictError("this call id was used for another event: draw 16 random bytes for each change")


def _logged_before(entry: AuditEntry, event: NewEvent, receipt: bytes) -> LoggedEvent | QflareError:
    """Return what stands of a change that was carried out before, if it was the same one."""
    if not _is_same(entry, event):
        return _used_otherwise()
    return LoggedEvent(
        index=entry.index,
        leaf_hash=entry.leaf_hash,
        event_type=entry.event_type,
        severity=entry.severity,
        device_id=entry.device_id,
        occurred_at=utc(int(entry.recorded_at.timestamp())),
        receipt=receipt,
    )
