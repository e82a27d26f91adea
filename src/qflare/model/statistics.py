"""Figures about keys, sessions and queues, for people and dashboards."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyStatistics:
    """Counts of rows, of one tenant unless said otherwise."""

    devices_total: int
    devices_active: int
    devices_revoked: int
    device_keys_total: int
    sessions_live: int
    sessions_total: int
    handshakes_recent: int
    """Handshake rows of the buckets that still live."""
    bucket: int
    """The server's bucket, whole cluster."""
    oldest_live_bucket: int
    """The lowest bucket whose keys still exist, whole cluster."""
    log_size: int
    """Entries in the audit log, whole cluster."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueStatistics:
    """How one operation's calls were gathered into batches, in this worker since it opened."""

    name: str
    """The operation, such as `hello` or `confirm`."""
    batches: int
    """Batches begun."""
    items: int
    """Items in them."""
    batch_items_max: int
    """Items of the largest batch."""
    waiting: int
    """Items that wait now."""
    in_flight: int
    """Batches under way now."""
    waited_ms: float
    """Milliseconds that all items together waited for their batch."""
    waited_max_ms: float
    """The longest wait of one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolStatistics:
    """The connections of one worker to its database."""

    used: int
    idle: int
    size_max: int
    """Most there may be."""
