"""
The buckets at work (PROTOCOL A2-A4, R8): when each begins, its keys made one bucket early, and destroyed in time.

Everything that is sealed per bucket goes through here: the ring of live buckets holds `dk_b`, `TK_b` and `KEK_b` of
b-1, b and b+1, and of nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import weakref
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

from qflare.errors import AuthenticationError, KeeperError, KeyNotFoundError, KeyStateError, QflareError
from qflare.manager.deadline import Deadline
from qflare.manager.forks import wipe_after_fork
from qflare.manager.sealing import BUCKET_DK_COLUMN, BUCKET_TICKET_COLUMN, Place, seal, unseal
from qflare.model.bucket import SealedBucket
from qflare.model.event import EventSeverity, NewEvent, SecurityEventType
from qflare.model.ids import DEFAULT_TENANT
from qflare.protocol.announcement import Announcement, sign_again, verify_announcement
from qflare.protocol.bucket import BucketKeys, Keyring, make_bucket_keys, restore_bucket_keys
from qflare.protocol.bucket_mark import BucketMark
from qflare.protocol.leaf import JsonValue
from qflare.protocol.new_event import new_event
from qflare.protocol.wire import u64

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from qflare.clock import Clock
    from qflare.manager.identity import Identity, SigningKeys
    from qflare.manager.offload import Offload
    from qflare.manager.settings import ManagerSettings
    from qflare.model.identity_ports import IdentityStore
    from qflare.model.keeper_ports import Keeper
    from qflare.protocol.identity import Certificate
    from qflare.secret import SecretBytes

_log = logging.getLogger("qflare.manager")
_NS: Final = 1_000_000_000
_END_WARNED_S: Final = 30 * 86_400
"""Time before a certificate's end from which the log says so."""
_ANNOUNCE_TRIES: Final = 8
"""Two for each rotation that another worker may make meanwhile; more than four in a row are none."""


@dataclass(slots=True, weakref_slot=True, eq=False)
class _LiveBucket:
    """One bucket's secrets in this worker's memory; wiped when it is retired and no batch uses it."""

    keys: BucketKeys
    kek: SecretBytes
    users: int = 0
    is_retired: bool = False

    def release(self) -> None:
        """Wipe if nothing needs it any more."""
        if self.is_retired and self.users == 0:
            self.wipe()

    def wipe(self) -> None:
        """Destroy the keys, whoever uses them."""
        self.keys.wipe()
        self.kek.wipe()


@dataclass(frozen=True, slots=True)
class Ring:
    """The live buckets as one batch sees them from its begin to its end."""

    current: int
    """The server's bucket."""
    now_s: int
    """Server time, whole seconds; agrees with *current* even where the wall clock does not."""
    keyring: Keyring
    _live: dict[int, _LiveBucket] = field(repr=False)

    def kek(self, bucket: int) -> SecretBytes:
        """Return KEK_b, owned by the ring. `KeyNotFoundError` if the bucket does not live."""
        live = self._live.get(bucket)
        if live is None:
            raise KeyNotFoundError(f"bucket {bucket} does not live any more, or not yet")
        return live.kek

    def has(self, bucket: int) -> bool:
        """Return whether the bucket lives."""
        return bucket in self._live

    @property
    def first(self) -> int:
        """The lowest bucket whose keys are accepted."""
        return self.current - 1


class Buckets:
    """Owner of the live buckets of one worker."""

    def __init__(
        self,
        *,
        store: IdentityStore,
        keeper: Keeper,
        identity: Identity,
        offload: Offload,
        clock: Clock,
        settings: ManagerSettings,
    ) -> None:
        """Own nothing yet; `open` loads or makes the first buckets."""
        self._store = store
        self._keeper = keeper
        self._identity = identity
        self._offload = offload
        self._clock = clock
        self._width_s = settings.bucket_width_s
        self._deadline = Deadline(settings.store_timeout_s)
        self._lock = asyncio.Lock()
        self._attempts = 0
        self._failure: QflareError | None = None
        self._live: dict[int, _LiveBucket] = {}
        self._held: weakref.WeakSet[_LiveBucket] = weakref.WeakSet()
        """Those that live, and retired ones that a batch still uses."""
        self._current = -1
        self._entered_ns = 0
        self._alarmed_jump = 0
        self._mark: BucketMark | None = None
        self._alarms: list[NewEvent] = []
        self._announced_serial = identity.serial
        self._warned_serial = -1
        self.keys_destroyed = 0
        """KEK_b that this worker was the first to destroy in the keeper."""
        self.listeners: list[Callable[[int], None]] = []
        """Called with the lowest live bucket after a turn: whoever caches keys of older ones wipes them."""
        wipe_after_fork(self._wipe_in_child)

    @property
    def current(self) -> int:
        """The server's bucket as of the last look at the clock."""
        return self._current

    async def open(self) -> None:
        """Read the stored mark and make or load the live buckets; a database of another width is refused."""
        mark = await self._deadline.of(self._store.bucket_mark())
        self._mark = BucketMark(
            width_s=self._width_s, mark=mark, now_s=self._clock.now_s(), monotonic_ns=self._clock.monotonic_ns()
        )
        if self._mark.startup_step > 1:
            # A2: after downtime the step is taken, and said.
            self._alarm("bucket step at start", {"from_bucket": mark, "to_bucket": self._mark.mark})
        await self._advance(is_start=True)

    async def refresh(self) -> int:
        """Look at the clock, turn to the next bucket if it is due, and return the server's bucket."""
        if self._tick() != self._current:
            await self._advance(is_start=False)
        return self._current

    async def follow(self) -> None:
        """
        Take over what other workers have done: a higher mark (A2), and another certificate (A1).

        The bucket is the cluster's: a worker whose clock is slow would else keep keys that are destroyed everywhere
        else (A4), and refuse devices that another worker told of a later bucket.
        """
        mark = await self._deadline.of(self._store.bucket_mark())
        if self._mark is not None and mark > self._mark.mark:
            self._mark.raise_to(mark, monotonic_ns=self._clock.monotonic_ns())
            await self.refresh()
        await self._identity.follow()
        if self._announced_serial != self._identity.serial:
            async with self._lock:
                await self._announce_again()
        self._look_at_the_end()

    def _look_at_the_end(self) -> None:
        """Say once that the certificate ends soon: beyond its last bucket nothing is announced any more (A1)."""
        certificate = self._identity.certificate
        left_s = (certificate.last_bucket - self._current) * self._width_s
        if left_s < _END_WARNED_S and self._warned_serial != certificate.serial:
            self._warned_serial = certificate.serial
            self._alarm(
                "certificate ends soon",
                {"serial": certificate.serial, "last_bucket": certificate.last_bucket, "seconds": max(0, left_s)},
            )

    @contextlib.contextmanager
    def lend(self) -> Iterator[Ring]:
        """Lend the live buckets to one batch: their secrets are not wiped before the block ends."""
        live = dict(self._live)
        for bucket in live.values():
            bucket.users += 1
        try:
            yield Ring(self._current, self.now_s(), {index: bucket.keys for index, bucket in live.items()}, live)
        finally:
            for bucket in live.values():
                bucket.users -= 1
                bucket.release()

    def now_s(self) -> int:
        """Return server time: the wall clock where it agrees with the bucket, else the time elapsed in the bucket."""
        wall_s = self._clock.now_s()
        if wall_s // self._width_s == self._current:
            return wall_s
        elapsed_s = (self._clock.monotonic_ns() - self._entered_ns) // _NS
        return self._current * self._width_s + min(max(0, elapsed_s), self._width_s - 1)

    def seconds_left(self) -> float:
        """Return how long the current bucket still lasts, as the clock stands."""
        return max(0.0, (self._current + 1) * self._width_s - self._clock.now_ms() / 1000)

    def announcement(self, which: str | int) -> bytes:
        """
        Return `ann_b` of the "current", the "next" or a numbered live bucket (A3).

        Raises:
            KeyNotFoundError: that bucket does not live.
        """
        bucket = {"current": self._current, "next": self._current + 1}.get(which) if isinstance(which, str) else which
        live = self._live.get(bucket) if type(bucket) is int else None
        if live is None:
            raise KeyNotFoundError(f"no announcement {which!r}: live are 'current', 'next' and {sorted(self._live)}")
        return live.keys.announcement.encoded

    def accept_jump(self, bucket: int) -> None:
        """Take the wall clock's word up to *bucket* at the next look: an operator has looked at the alarm (A2)."""
        if self._mark is not None:
            self._mark.accept_jump(bucket)

    def take_alarms(self) -> list[NewEvent]:
        """Return events about the clock that wait for the log, and forget them."""
        alarms, self._alarms = self._alarms, []
        return alarms

    def wipe(self) -> None:
        """Destroy this worker's copies; the keeper and the database keep theirs for the next start."""
        for live in self._live.values():
            live.is_retired = True
            live.release()
        self._live = {}

    def _wipe_in_child(self) -> None:
        # Nobody turns in the child, so that its copies would outlive their buckets (A4). It cannot use them either:
        # its loop is another one, and `_tick` refuses without a mark.
        for live in self._held:
            live.wipe()
        self._live, self._mark = {}, None

    # --- turning ----------------------------------------------------------------------------------

    def _tick(self) -> int:
        if self._mark is None:
            raise KeyStateError("the buckets are not open")
        tick = self._mark.tick(now_s=self._clock.now_s(), monotonic_ns=self._clock.monotonic_ns())
        if tick.held_buckets and tick.held_buckets + tick.bucket > self._alarmed_jump:
            self._alarmed_jump = tick.held_buckets + tick.bucket + 1
            self._alarm("clock jumped ahead", {"bucket": tick.bucket, "held_buckets": tick.held_buckets})
        return tick.bucket

    async def _advance(self, *, is_start: bool) -> None:
        attempts = self._attempts
        async with self._lock:
            if self._attempts != attempts and self._failure is not None:
                # The attempt that this caller waited for has failed: callers must not try one after the other.
                raise self._failure.with_traceback(None)
            self._failure = None
            try:
                await self._turn(is_start=is_start)
            except QflareError as failure:
                self._failure = failure
                raise
            finally:
                self._attempts += 1

    async def _turn(self, *, is_start: bool) -> None:
        bucket = self._tick()
        if bucket == self._current:
            return
        # A4, R8: what is over dies first, whatever the database does afterwards.
        await self._destroy(before=bucket - 1)
        # A1: no bucket is made under a key that is in force no more.
        await self._identity.follow()
        mark = await self._deadline.of(self._store.raise_bucket_mark(bucket))
        if mark > bucket and self._mark is not None:
            self._mark.raise_to(mark, monotonic_ns=self._clock.monotonic_ns())
            bucket = mark
            await self._destroy(before=bucket - 1)
        rows = {row.bucket: row for row in await self._deadline.of(self._store.find_buckets(bucket - 1, bucket + 1))}
        for index in (bucket - 1, bucket, bucket + 1):
            if index not in self._live:
                live = await self._enter(index, rows.get(index), is_past=index < bucket, is_start=is_start)
                if live is not None:
                    self._live[index] = live
                    self._held.add(live)
        if self._announced_serial != self._identity.serial:
            await self._announce_again()
        self._current = bucket
        self._entered_ns = self._clock.monotonic_ns()

    async def _announce_again(self) -> None:
        """Have every live bucket announced under the announce key in force: the same body, another signature (A3)."""
        serial = self._identity.serial
        if not self._live:
            self._announced_serial = serial
            return
        for row in await self._deadline.of(self._store.find_buckets(min(self._live), max(self._live))):
            live = self._live.get(row.bucket)
            if live is not None:
                live.keys = live.keys.announced(await self._announced(row, live.keys.announcement))
        self._announced_serial = serial

    async def _announced(self, row: SealedBucket, announcement: Announcement) -> Announcement:
        """Return *row*'s announcement under the announce key in force, signing and storing it if nobody has yet."""
        for _ in range(_ANNOUNCE_TRIES):
            with self._identity.lend() as keys:
                earlier = self._identity.certificates[1:]
                found = await self._offload.run(partial(_under, keys, earlier, row, announcement))
            if found is None:
                # Under a key that is newer than any known here: never signed back under an older one.
                await self._identity.follow()
            elif found.encoded == row.announcement:
                return found
            else:
                row = await self._deadline.of(self._store.sign_bucket_again(row, found.encoded))
        raise KeyStateError(f"bucket {row.bucket} is announced under a key that no certificate names: it was altered")

    async def _destroy(self, *, before: int) -> None:
        for index in [index for index in self._live if index < before]:
            live = self._live.pop(index)
            live.is_retired = True
            live.release()
        for listener in self.listeners:
            listener(before)
        self.keys_destroyed += await self._offload.run(partial(self._keeper.destroy_bucket_keys, before=before))

    async def _enter(
        self, bucket: int, row: SealedBucket | None, *, is_past: bool, is_start: bool
    ) -> _LiveBucket | None:
        if row is not None:
            live = await self._load(row, is_past=is_past)
            if live is not None:
                # A worker that had not heard of the certificate yet may have made it.
                live.keys = live.keys.announced(await self._announced(row, live.keys.announcement))
                return live
            if is_past and not is_start:
                # Another worker is further and has destroyed its KEK already: the bucket is over.
                return None
            if not is_start:
                raise KeeperError(
                    f"bucket {bucket} was made by a worker with another keeper: all workers of a database share one"
                )
            # The keeper lost its keys (a memory file system after a reboot): what they sealed is gone for good.
            self._alarm("bucket keys lost", {"bucket": bucket})
            await self._deadline.of(self._store.forget_bucket(bucket))
        if is_past:
            return None
        return await self._make(bucket)

    async def _load(self, row: SealedBucket, *, is_past: bool) -> _LiveBucket | None:
        """Open a bucket that another worker made; None where its keys are gone."""
        live = await self._offload.run(partial(self._restore, row, is_past=is_past), wipe=_wipe_live)
        if live is None and await self._identity.follow():
            # It was announced under a certificate that came into force since the last look.
            live = await self._offload.run(partial(self._restore, row, is_past=is_past), wipe=_wipe_live)
        return live

    def _restore(self, row: SealedBucket, *, is_past: bool) -> _LiveBucket | None:
        if row.width_s != self._width_s:
            raise KeyStateError(
                f"this database has buckets of {row.width_s} s, the setting bucket_width_s says {self._width_s}: "
                "start with the width it was made with"
            )
        if is_past:
            try:
                kek = self._keeper.bucket_key(row.bucket)
            except KeeperError:
                return None
        else:
            kek = self._keeper.make_bucket_key(row.bucket)
        try:
            with (
                unseal(kek, row.sealed_dk, _place(BUCKET_DK_COLUMN, row.bucket)) as seed,
                unseal(kek, row.sealed_ticket_key, _place(BUCKET_TICKET_COLUMN, row.bucket)) as ticket_key,
            ):
                keys = self._restore_keys(row.announcement, seed, ticket_key)
        except AuthenticationError:
            kek.wipe()
            return None
        return _LiveBucket(keys, kek)

    def _restore_keys(self, announcement: bytes, seed: SecretBytes, ticket_key: SecretBytes) -> BucketKeys:
        # A bucket that was made just before a rotation is announced under the key before it.
        certificates = self._identity.certificates
        for certificate in certificates[:-1]:
            try:
                return restore_bucket_keys(announcement, certificate, seed, ticket_key)
            except AuthenticationError:
                continue
        return restore_bucket_keys(announcement, certificates[-1], seed, ticket_key)

    async def _make(self, bucket: int) -> _LiveBucket:
        certificate = self._identity.certificate
        if not certificate.has_bucket(bucket):
            raise KeyStateError(
                f"the certificate of serial {certificate.serial} covers the buckets {certificate.first_bucket} to "
                f"{certificate.last_bucket}, not {bucket}: issue a new one (qflare identity rotate, or request and "
                "import where the root is offline)"
            )
        with self._identity.lend() as keys:
            sealed, made = await self._offload.run(
                partial(self._make_keys, keys, bucket), wipe=lambda pair: _wipe_live(pair[1])
            )
        try:
            event = self._event(
                SecurityEventType.KEY_GENERATION,
                EventSeverity.INFO,
                {"what": "bucket key", "bucket": bucket, "body_hash": made.keys.announcement.body_hash.hex()},
            )
            stands = await self._deadline.of(self._store.save_bucket(sealed, event=event))
        except BaseException:
            _wipe_live(made)
            raise
        if stands.announcement == sealed.announcement:
            return made
        # A3: another worker was first, and its row is the bucket.
        _wipe_live(made)
        theirs = await self._load(stands, is_past=False)
        if theirs is None:
            raise KeeperError(
                f"bucket {bucket} was made by a worker with another keeper: all workers of a database share one"
            )
        return theirs

    def _make_keys(self, keys: SigningKeys, bucket: int) -> tuple[SealedBucket, _LiveBucket]:
        kek = self._keeper.make_bucket_key(bucket)
        made = make_bucket_keys(
            keys.announce,
            server_id=keys.public.server_id,
            width_s=self._width_s,
            bucket=bucket,
        )
        # If sealing fails, what was made is wiped when it is collected; there is nothing half done outside.
        with made.seed as seed:
            sealed = SealedBucket(
                bucket=bucket,
                width_s=self._width_s,
                announcement=made.keys.announcement.encoded,
                sealed_dk=seal(kek, seed, _place(BUCKET_DK_COLUMN, bucket)),
                sealed_ticket_key=seal(kek, made.keys.ticket_key, _place(BUCKET_TICKET_COLUMN, bucket)),
            )
        return sealed, _LiveBucket(made.keys, kek)

    def _alarm(self, what: str, facts: dict[str, JsonValue]) -> None:
        _log.warning("%s: %s", what, facts)
        self._alarms.append(self._event(SecurityEventType.SYSTEM, EventSeverity.WARNING, {"what": what, **facts}))

    def _event(self, event_type: SecurityEventType, severity: EventSeverity, data: dict[str, JsonValue]) -> NewEvent:
        return new_event(event_type, severity, data, tenant_id=DEFAULT_TENANT, occurred_at_ms=self._clock.now_ms())


def _place(column: bytes, bucket: int) -> Place:
    return Place(column, u64(bucket), bucket)


def _under(
    keys: SigningKeys, earlier: Sequence[Certificate], row: SealedBucket, announcement: Announcement
) -> Announcement | None:
    """Return *row*'s announcement if the key in force signed it, signed again if an *earlier* one did, else None."""
    for certificate in (keys.certificate, *earlier):
        try:
            found = verify_announcement(row.announcement, certificate)
        except AuthenticationError:
            continue
        if found.body_hash != announcement.body_hash:
            raise KeyStateError(f"the database announces another key for bucket {row.bucket} than lives here: altered")
        return found if certificate is keys.certificate else sign_again(keys.announce, announcement)
    return None


def _wipe_live(live: _LiveBucket | None) -> None:
    if live is not None:
        live.wipe()
