"""
Accepting a restored database: nothing of it may come to life again, and its log says what is missing.

In this order.  The keeper knows from before the first step until after the last that accepting was begun, so that
after a crash in between no worker starts until it was done again:

1. every sealing key of a bucket is destroyed: no session, ticket or record of before opens any more;
2. sessions, tickets, streams and unused tokens end in the database, and the bucket mark rises above every bucket whose
   key was ever made: fresh announcements cannot meet old ones;
3. the log gets an entry that tells the gap, and entries that fill it up to the largest size that may have been signed:
   no size is ever signed with two roots, so that devices see no fork where there is none (PROTOCOL H9);
4. the head after them is signed, and the keeper takes the database over.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Final

from qflare.manager.deadline import Deadline
from qflare.model.event import EventSeverity, NewEvent, SecurityEventType
from qflare.model.ids import DEFAULT_TENANT
from qflare.model.mark import HighWaterMark
from qflare.protocol.leaf import JsonValue
from qflare.protocol.new_event import new_event

if TYPE_CHECKING:
    from qflare.clock import Clock
    from qflare.manager.log import Log
    from qflare.manager.offload import Offload
    from qflare.model.keeper_ports import Keeper
    from qflare.model.ports import Store

_PAGE: Final = 1000
"""Entries that fill the gap, in one transaction."""
_WRITE_TIMEOUT_S: Final = 900.0
"""For a statement over all sessions, or a page of entries."""


_AHEAD: Final = 2
"""A turn to bucket b destroys what is below b-1 before it makes the keys of b+1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Acceptance:
    """What became of a restored database."""

    bucket: int
    """The first bucket of the new beginning."""
    sessions_ended: int
    log_size_found: int
    """Entries of the copy."""
    log_size_signed: int
    """The largest size that is known to have been signed; entries between the two are lost."""
    log_size: int
    """Entries now, those that tell and fill the gap included."""
    serial_found: int
    """Of the certificate that the copy holds."""
    serial_in_force: int
    """The highest that is known to have been in force: above the other, keys were rotated since the copy was made."""


async def accept_restored(
    *,
    store: Store,
    keeper: Keeper,
    log: Log,
    offload: Offload,
    clock: Clock,
    server_id: bytes,
    width_s: int,
    gap: int = 0,
) -> Acceptance:
    """
    Take a restored database into use; no worker may run on it meanwhile.

    Args:
        store: The database, with timeouts that fit statements over whole tables.
        keeper: Of this database: it knows how far the database had come.
        log: Signs the head after the gap.
        offload: Where the keeper is asked.
        clock: What tells the time.
        server_id: Whose log it is.
        width_s: Seconds a bucket.
        gap: Sizes of the log that are left out at least, for a keeper whose marks were lost too.

    Raises:
        KeeperError: the keeper's marks or keys cannot be changed.
        StoreUnavailableError: the store did not answer; accept again.
    """
    deadline = Deadline(_WRITE_TIMEOUT_S)
    mark = await offload.run(keeper.high_water)
    head = await deadline.of(store.log_head())
    serial = await deadline.of(store.identity_serial())
    # From here on no worker starts until the end is reached.
    await offload.run(partial(keeper.replace_high_water, replace(mark, is_accepting=True)))
    bucket = _unused_bucket(
        await offload.run(keeper.destroyed_before), await deadline.of(store.bucket_mark()), clock.now_s() // width_s
    )
    await offload.run(partial(keeper.destroy_bucket_keys, before=bucket))
    ended = await deadline.of(store.begin_anew(bucket=bucket))
    is_same_log = mark.server_id == server_id.hex()
    signed, reserved = (mark.log_size, mark.log_reserved) if is_same_log else (0, 0)
    reserved = max(reserved, head.size + gap)
    in_force = max(serial, mark.serial) if is_same_log else serial

    def event(severity: EventSeverity, facts: dict[str, JsonValue]) -> NewEvent:
        return new_event(
            SecurityEventType.OPERATOR_ACTION,
            severity,
            facts,
            tenant_id=DEFAULT_TENANT,
            occurred_at_ms=clock.now_ms(),
        )

    tells = event(
        EventSeverity.CRITICAL,
        {
            "what": "database restored",
            "log_size_found": head.size,
            "log_size_signed": signed,
            "log_root_signed": mark.log_root.hex() if is_same_log else "",
            "log_fills_to": reserved + 1,
            "bucket": bucket,
            "sessions_ended": ended,
            "serial_found": serial,
            "serial_in_force": in_force,
        },
    )
    await deadline.of(store.append_events(DEFAULT_TENANT, [tells]))
    size = (await deadline.of(store.log_head())).size
    while size <= reserved:
        filler = [
            event(EventSeverity.INFO, {"what": "gap of a restored database"})
            for _ in range(min(_PAGE, reserved + 1 - size))
        ]
        await deadline.of(store.append_events(DEFAULT_TENANT, filler))
        size = (await deadline.of(store.log_head())).size
    checkpoint = await log.checkpoint()
    pulse = await deadline.of(store.raise_pulse())
    accepted = HighWaterMark(
        pulse=pulse.count,
        server_id=server_id.hex(),
        log_size=checkpoint.size,
        log_root=checkpoint.root,
        log_reserved=checkpoint.size,
    )
    await offload.run(partial(keeper.replace_high_water, accepted))
    return Acceptance(
        bucket=bucket,
        sessions_ended=ended,
        log_size_found=head.size,
        log_size_signed=signed,
        log_size=checkpoint.size,
        serial_found=serial,
        serial_in_force=in_force,
    )


def _unused_bucket(destroyed_before: int, mark: int, by_clock: int) -> int:
    """Return the lowest bucket above all that were ever announced, as the keeper knows, which no copy takes back."""
    # A keeper without a mark never turned: then the clock tells what may have been announced.
    announced = destroyed_before + _AHEAD if destroyed_before else by_clock + 1
    return max(announced, mark + 1) + 1
