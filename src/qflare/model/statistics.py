"""Figures about keys and sessions, for people and dashboards."""

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
