"""
Detection at work in one worker: observations to the detector, incidents to the database, looks at gauges, saved state.

A task of its own, which looks at a slice of what waits and gives the loop its turn; nobody's answer waits for it, and
what it cannot write now it writes later.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from qflare.errors import DecodeError, EvidenceError, KeyNotFoundError, QflareError
from qflare.model.ids import DEFAULT_TENANT, ID_BYTES, CallId
from qflare.monitor.acts import ACT_TYPES
from qflare.monitor.dashboard import DetectorFigures
from qflare.monitor.detector import Detector
from qflare.monitor.gauges import Gauges, first_altered
from qflare.monitor.opinion import load_opinions
from qflare.monitor.parameters import (
    ACT_PAGES_MAX,
    ACTS_READ_MAX,
    ENTRIES_CHECKED,
    FLUSH_S,
    LOOK_S,
    PENDING_MAX,
    SAVE_S,
    SLICE_MAX,
    TENANTS_LOOKED_AT,
    TENANTS_MAX,
    TICK_S,
)
from qflare.monitor.remembered import Remembered, decode_remembered, recall, remember
from qflare.monitor.reporting import make_sightings
from qflare.protocol.entry import open_entry
from qflare.service.sharing import Sharing

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from datetime import datetime

    from qflare.manager.buckets import Buckets
    from qflare.model.event import AuditEntry, NewEvent
    from qflare.model.ids import DeviceId, DeviceRef, TenantId
    from qflare.model.incident import Sighting
    from qflare.model.signal import Signal
    from qflare.monitor.suspicions import Suspicion
    from qflare.protocol.entry import EntryVault
    from qflare.service.assembly import Foundation

_log = logging.getLogger("qflare.service.detection")
_RECORDS_LOOKED_AT: Final = 64
_SAVE_TRIES: Final = 4
_JITTER: Final = 1000


@dataclass(frozen=True, slots=True)
class _Report:
    """Sightings of one tenant under the id by which they count once."""

    tenant_id: TenantId
    sightings: Sequence[Sighting]
    opened: Sequence[NewEvent]
    raised: Sequence[NewEvent]
    call_id: CallId


class Detection:
    """One worker's detection; `service.assembly` opens and closes it."""

    def __init__(self, foundation: Foundation, buckets: Buckets) -> None:
        """Know nothing yet; `open` recalls what was remembered, `run` is the loop."""
        self._foundation = foundation
        self._buckets = buckets
        self._waits = asyncio.Event()
        self._stop = asyncio.Event()
        self.detector = Detector(foundation.clock, wake=self._waits.set)
        self._gauges = Gauges(self.detector)
        self._sharing = Sharing(self.detector, foundation)
        self._unreported: list[_Report] = []
        self._reporting = asyncio.Lock()
        self._reported = 0
        self.alarms: Counter[Signal] = Counter()
        """Sightings that incidents were made of, by signal."""
        self._looks = 0
        self._next_tenant = 0
        self._checked: dict[TenantId, int] = {}
        """Up to which entry each tenant's log was read again, in this pass over it."""
        self._log_began = 0
        self._acts_read: dict[TenantId, int] = {}
        """Up to which entry each tenant's log was looked through for acts of operators."""
        self._saved_s = 0
        self._failing: set[str] = set()
        """What failed when it was tried last."""

    @property
    def figures(self) -> DetectorFigures:
        """What the detector has done."""
        detector = self.detector
        return DetectorFigures(
            taken=detector.taken,
            waiting=detector.waiting,
            dropped=detector.dropped,
            devices_evicted=detector.devices.evicted,
            folded=detector.suspicions.folded,
            reported=self._reported,
            unreported=sum(len(report.sightings) for report in self._unreported) + len(detector.suspicions),
            left_out=detector.tally.left_out + self._sharing.left_out,
            looks=self._looks,
        )

    async def open(self) -> None:
        """
        Recall what was saved; a state that cannot be read is left out, and said so.

        Raises:
            MissingExtraError: a second opinion is wanted, and its extra is not installed.
        """
        if self._foundation.settings.detection_opinion:
            self.detector.new_opinion = await self._foundation.offload.run(load_opinions)
        store, wait = self._foundation.store, self._foundation.deadline.of
        self._log_began = (await wait(store.log_head())).size
        saved_at: dict[TenantId, datetime] = {}
        for tenant_id, _ in (await wait(store.list_tenants()))[:TENANTS_MAX]:
            saved = await wait(store.find_detector_state(tenant_id))
            if saved is not None:
                saved_at[tenant_id] = saved.saved_at
                try:
                    remembered = decode_remembered(saved.state)
                    remembered.forget_old(self._foundation.clock.now_s())
                    recall(self.detector, tenant_id, remembered)
                except DecodeError as failure:
                    _log.warning("%s", failure)
        await self._sharing.catch_up(saved_at)
        self._foundation.refusals.observations.observer = self.detector

    async def run(self) -> None:
        """Work until `close`: look at observations, and beside that write and measure, however slow the database is."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._observe())
            group.create_task(self._care())

    async def _observe(self) -> None:
        while not self._stop.is_set():
            self._waits.clear()
            await self._work_off()
            await _pause(self._waits, TICK_S)

    async def _care(self) -> None:
        loop = asyncio.get_running_loop()
        look_s, save_s = (loop.time() + _jittered(period) for period in (LOOK_S, SAVE_S))
        while not self._stop.is_set():
            await _pause(self._stop, FLUSH_S)
            await self._attempt(self.share)
            await self._attempt(self.report)
            if loop.time() >= look_s:
                look_s = loop.time() + _jittered(LOOK_S)
                await self._attempt(self.look)
            if loop.time() >= save_s:
                save_s = loop.time() + _jittered(SAVE_S)
                await self._attempt(self.save)

    async def close(self, timeout_s: float) -> None:
        """Look at what waits still, report and save it, within *timeout_s*."""
        self._stop.set()
        self._waits.set()
        self._foundation.refusals.observations.observer = None
        try:
            async with asyncio.timeout(timeout_s):
                await self.settle()
                await self.save()
        except (TimeoutError, QflareError) as failure:
            _log.warning("the detector ended without saving all (%s)", type(failure).__name__)

    async def settle(self) -> None:
        """Look at all that waits, tell the other workers, and report it; raises what the store raises."""
        await self._work_off()
        await self.share()
        await self.report()

    async def share(self) -> None:
        """Tell the other workers what was counted here, and add what they did."""
        await self._sharing.exchange()

    async def _work_off(self) -> None:
        while self.detector.work(SLICE_MAX):  # noqa: ASYNC110 - it waits for nothing, others get their turn
            await asyncio.sleep(0)

    # --- reporting ----------------------------------------------------------------------------------

    async def report(self) -> None:
        """Write what is suspected into incidents; what cannot be written now stays for the next time."""
        async with self._reporting:
            if sum(len(report.sightings) for report in self._unreported) < PENDING_MAX:
                for tenant_id, suspicions in _by_tenant(self.detector.suspicions.take()).items():
                    self._unreported.append(await self._prepare(tenant_id, suspicions))
            while self._unreported:
                report = self._unreported[0]
                try:
                    await self._foundation.deadline.of(
                        self._foundation.store.report_incidents(
                            report.tenant_id,
                            report.sightings,
                            opened=report.opened,
                            raised=report.raised,
                            call_id=report.call_id,
                        )
                    )
                except KeyNotFoundError:
                    _log.warning("%d sightings are of a tenant that is gone", len(report.sightings))
                else:
                    self._reported += len(report.sightings)
                self._unreported.pop(0)

    async def _prepare(self, tenant_id: TenantId, suspicions: Sequence[Suspicion]) -> _Report:
        self.alarms.update(each.signal for each in suspicions)
        refs = [each.ref for each in suspicions if each.ref is not None]
        names: dict[DeviceRef, DeviceId] = {}
        try:
            found = await self._foundation.deadline.of(self._foundation.store.find_devices(tenant_id, refs))
            names = {ref: device.device_id for ref, device in found.items()}
        except QflareError as failure:
            # An incident is worth more than the name in it.
            _log.info("devices of incidents stay without names (%s)", type(failure).__name__)
        sightings, opened, raised = await self._foundation.offload.run(
            partial(make_sightings, suspicions, names, vault=self._foundation.entry_keys)
        )
        return _Report(tenant_id, sightings, opened, raised, CallId(secrets.token_bytes(ID_BYTES)))

    # --- gauges -------------------------------------------------------------------------------------

    async def look(self) -> None:
        """Look at clocks, keys and the log, each by itself: one that cannot be read hides no other."""
        self._looks += 1
        tenants = await self._tenants()
        await self._attempt(self._look_at_clocks)
        await self._attempt(self._look_at_log)
        await self._attempt(self._look_at_keys)
        for tenant_id in tenants:
            await self._attempt(partial(self._look_at_tenant, tenant_id))

    async def _look_at_clocks(self) -> None:
        clock = self._foundation.clock
        before = clock.now_ms()
        database = await self._foundation.deadline.of(self._foundation.store.database_time_ms())
        after = clock.now_ms()
        # What the question itself took is no skew.
        skew_ms = 0 if before <= database <= after else min(before - database, after - database, key=abs)
        self._gauges.clocks(skew_s=skew_ms / 1000, at_s=clock.now_s())
        others = await self._sharing.exchange_clocks(skew_ms)
        self._gauges.spread([skew_ms, *others], at_s=clock.now_s())

    async def _look_at_log(self) -> None:
        store, wait = self._foundation.store, self._foundation.deadline.of
        size = (await wait(store.log_head())).size
        held = await wait(store.latest_checkpoint())
        if held is None or held.size < size:
            # Entries that nobody holds a receipt for are covered by nothing until somebody asks.
            await self._attempt(self._sign_head)
            held = await wait(store.latest_checkpoint())
        self._gauges.log(size=size, signed=0 if held is None else held.size, at_s=self._foundation.clock.now_s())

    async def _sign_head(self) -> None:
        await self._foundation.log.checkpoint()

    async def _look_at_keys(self) -> None:
        store, wait = self._foundation.store, self._foundation.deadline.of
        bucket = self._buckets.current
        records = await wait(store.list_bucket_records(limit=_RECORDS_LOOKED_AT, before=bucket - 1))
        destroyed = await self._foundation.offload.run(self._foundation.keeper.destroyed_before)
        at_s = self._foundation.clock.now_s()
        self._gauges.keys(records, bucket=bucket, destroyed_before=destroyed, at_s=at_s)
        self._gauges.certificates(await wait(store.identity_serial()), at_s=at_s)

    async def _look_at_tenant(self, tenant_id: TenantId) -> None:
        store, wait = self._foundation.store, self._foundation.deadline.of
        at_s = self._foundation.clock.now_s()
        size = (await wait(store.log_head())).size
        newest = max(0, size - ENTRIES_CHECKED)
        # The newest at every look; all others in turn, some at each.
        await self._read_again(tenant_id, newest, at_s=at_s)
        if newest > 0:
            first = min(self._checked.get(tenant_id, 0), newest)
            last = await self._read_again(tenant_id, first, at_s=at_s)
            self._checked[tenant_id] = 0 if last >= newest else last
        await self._look_for_acts(tenant_id, size, at_s=at_s)
        self._gauges.out_of_service(tenant_id, await wait(store.count_out_of_service(tenant_id)), at_s=at_s)

    async def _look_for_acts(self, tenant_id: TenantId, size: int, *, at_s: int) -> None:
        """Look at what operators did since the last look, in the log of *size* entries."""
        store, wait = self._foundation.store, self._foundation.deadline.of
        first = self._acts_read.get(tenant_id, self._log_began)
        for _ in range(ACT_PAGES_MAX):
            last = min(size, first + ACTS_READ_MAX)
            if last > first:
                try:
                    entries = await wait(store.list_acts(tenant_id, first=first, last=last, types=ACT_TYPES))
                except EvidenceError as failure:
                    if failure.index is None or not first <= failure.index < last:
                        raise
                    # `_read_again` tells of the row; what stands before and behind it is looked at all the same.
                    entries, altered = (), failure.index
                    if altered > first:
                        entries = await wait(store.list_acts(tenant_id, first=first, last=altered, types=ACT_TYPES))
                    last = altered + 1
                opened = await self._foundation.offload.run(partial(_opened, entries, self._foundation.entry_keys))
                first = self._acts_read[tenant_id] = last
                self._gauges.acts(tenant_id, opened, at_s=at_s)

    async def _read_again(self, tenant_id: TenantId, first: int, *, at_s: int) -> int:
        """Read entries from *first* on and compare them with their hashes; return where to go on."""
        store, wait = self._foundation.store, self._foundation.deadline.of
        try:
            entries = await wait(store.list_entries(tenant_id, first=first, limit=ENTRIES_CHECKED))
        except EvidenceError as failure:
            # A column that nothing ever wrote: the row cannot even be read.
            self._gauges.altered(tenant_id, failure, at_s=at_s)
            return first + ENTRIES_CHECKED if failure.index is None else failure.index + 1
        problem = await self._foundation.offload.run(partial(first_altered, entries, self._foundation.entry_keys))
        if problem is not None:
            self._gauges.altered(tenant_id, problem, at_s=at_s)
        # Less than asked for: it was the end of this tenant's log.
        return entries[-1].index + 1 if len(entries) == ENTRIES_CHECKED else 2**62

    async def _tenants(self) -> list[TenantId]:
        """Return the tenants whose turn it is: the default one, and some of the others."""
        found = await self._foundation.deadline.of(self._foundation.store.list_tenants())
        self._gauges.tenants(len(found), at_s=self._foundation.clock.now_s())
        others = [tenant_id for tenant_id, _ in found if tenant_id != DEFAULT_TENANT]
        first = self._next_tenant if self._next_tenant < len(others) else 0
        self._next_tenant = first + TENANTS_LOOKED_AT
        return [DEFAULT_TENANT, *others[first : first + TENANTS_LOOKED_AT]]

    # --- state --------------------------------------------------------------------------------------

    async def save(self) -> None:
        """Save what is remembered of each tenant that was heard of since the last time, merged with other workers'."""
        now_s = self._foundation.clock.now_s()
        known = await self._foundation.offload.run(partial(remember, self.detector, changed_since_s=self._saved_s))
        for tenant_id, mine in known.items():
            try:
                await self._save(tenant_id, mine)
            except KeyNotFoundError:
                _log.warning("what is remembered of a tenant that is gone is not saved")
        self._saved_s = now_s

    async def _save(self, tenant_id: TenantId, mine: Remembered) -> None:
        store, wait = self._foundation.store, self._foundation.deadline.of
        for _ in range(_SAVE_TRIES):
            saved = await wait(store.find_detector_state(tenant_id))
            now_s = self._foundation.clock.now_s()
            old = None if saved is None else saved.state
            state = await self._foundation.offload.run(partial(_merged, mine, old, now_s=now_s))
            if await wait(store.save_detector_state(tenant_id, state, after=0 if saved is None else saved.version)):
                return
        _log.info("other workers save the detector's state just now: this one's next save will do")

    async def _attempt(self, work: Callable[[], Awaitable[None]]) -> None:
        name = str(getattr(work, "__name__", "looking at a tenant"))
        try:
            await work()
        except Exception as failure:  # noqa: BLE001 - detection goes on whatever fails in one of its parts
            # Once, not every two seconds while a database is away.
            level = logging.DEBUG if name in self._failing else logging.WARNING
            _log.log(level, "detection: %s failed (%s)", name, type(failure).__name__)
            self._failing.add(name)
        else:
            self._failing.discard(name)


async def _pause(event: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


def _merged(mine: Remembered, saved: bytes | None, *, now_s: int) -> bytes:
    merged = Remembered(dict(mine.rates), dict(mine.devices))
    if saved is not None:
        try:
            merged.merge(decode_remembered(saved))
        except DecodeError as failure:
            _log.warning("%s", failure)
    merged.forget_old(now_s)
    return merged.encode()


def _opened(entries: Sequence[AuditEntry], vault: EntryVault) -> list[AuditEntry]:
    opened = []
    for entry in entries:
        # One that was altered is told by another look, which reads all entries.
        with contextlib.suppress(EvidenceError):
            opened.append(open_entry(entry, vault))
    return opened


def _by_tenant(suspicions: Sequence[Suspicion]) -> dict[TenantId, list[Suspicion]]:
    groups: dict[TenantId, list[Suspicion]] = {}
    for each in suspicions:
        groups.setdefault(each.tenant_id, []).append(each)
    return groups


def _jittered(seconds: float) -> float:
    # Workers that were started together do not ask the database together.
    return seconds * (0.9 + 0.2 * secrets.randbelow(_JITTER) / _JITTER)
