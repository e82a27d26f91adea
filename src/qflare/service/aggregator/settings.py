"""Every bound of the HTTP side, with its unit and its default."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from qflare.errors import ConfigError

_BODIES_MAX: Final = 2**40
_SECONDS_MAX: Final = 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class AggregatorSettings:
    """
    How much one worker takes from the network at a time.

    Raises:
        ConfigError: a value is outside its range; the message names it.
    """

    connections_max: int = 8192
    """Most connections of one worker of `qflare serve`; one more is answered with 503."""
    requests_max: int = 1024
    """Most requests with a body under way in one worker; one more is answered with 503."""
    bodies_bytes_max: int = 256 * 2**20
    """Most bytes of request bodies held in memory by one worker; what would go beyond is answered with 503."""
    handshake_body_s: float = 10.0
    """Longest wait for the body of a handshake message."""
    record_body_s: float = 120.0
    """Longest wait for the body of a record."""
    body_bytes_per_s_min: int = 8192
    """Slowest pace of a body after its first `handshake_body_s` seconds: who sends slower gives its place back."""
    on_record_batch_max: int = 256
    """Most records handed to `on_records` in one call."""
    retry_after_s: int = 1
    """What a client is told to wait when the worker is full."""
    ready_timeout_s: float = 2.0
    """Longest wait of `/readyz` for the database and the keeper."""
    drain_s: float = 5.0
    """Longest wait at shutdown for requests that were accepted."""

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        for name, low, high in (
            ("connections_max", 1, 1_000_000),
            ("requests_max", 1, 1_000_000),
            ("bodies_bytes_max", 2**16, _BODIES_MAX),
            ("body_bytes_per_s_min", 1, _BODIES_MAX),
            ("on_record_batch_max", 1, 4096),
            ("retry_after_s", 1, 3600),
        ):
            value: object = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
                raise ConfigError(f"setting {name} must be a whole number from {low} to {high}, got {value!r}")
        for name in ("handshake_body_s", "record_body_s", "ready_timeout_s", "drain_s"):
            seconds: object = getattr(self, name)
            if not isinstance(seconds, int | float) or isinstance(seconds, bool) or not 0 < seconds <= _SECONDS_MAX:
                raise ConfigError(f"setting {name} must be above 0 and at most {_SECONDS_MAX} seconds, got {seconds!r}")
