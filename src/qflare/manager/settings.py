"""Every bound and width of the manager, with its unit and its default."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from qflare.errors import ConfigError

_LIFETIME_MAX: Final = 288
_ORIGIN_BYTES_MAX: Final = 255
_SECONDS_MAX: Final = 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class ManagerSettings:
    """
    How a manager works; every queue, cache, batch and wait has its maximum here.

    Raises:
        ConfigError: a value is outside its range; the message names it.
    """

    bucket_width_s: int = 300
    """Width of a bucket (A2); one value for all workers of a database."""
    lifetime: int = 288
    """Buckets a session lives, 1 to 288 (H4)."""
    batch_max: int = 256
    """Most items of one batch: one C call, one statement; of events of the log twice as many."""
    waiting_max: int = 8192
    """Most items that wait in one queue; one more is refused with `OverloadedError`."""
    flights_max: int = 2
    """Most batches of one operation under way at a time."""
    threads: int = 2
    """Threads that run C batches."""
    engine: str | None = None
    """What computes batches: `liboqs` or `lanes`; unset takes the lanes where the processor has them."""
    jobs_max: int = 256
    """Most jobs that wait for a thread."""
    store_timeout_s: float = 10.0
    """Longest wait for one transaction of the store."""
    close_timeout_s: float = 8.0
    """Longest wait for accepted work when the manager closes."""
    record_bytes_max: int = 64 * 2**20
    """Largest sealed record; larger ones are refused before they are looked at."""
    record_batch_bytes_max: int = 64 * 2**20
    """Most bytes of records opened or sealed in one batch."""
    reply_lifetime: int = 288
    """Buckets in which a late reply to a device's request may be given, 1 to 288 (R6)."""
    replies_outstanding_max: int = 64
    """Most late replies that one session may have outstanding, both directions together (R6)."""
    seen_max: int = 65_536
    """Hellos remembered by one worker (H3)."""
    devices_cached_max: int = 16_384
    """Roster rows one worker remembers for answers to offers; H8 reads them again."""
    device_cached_s: int = 10
    """Age at which a remembered roster row is read again."""
    sessions_cached_max: int = 65_536
    """Sessions whose terms and chain keys one worker holds in memory."""
    session_records_max: int = 2**32
    """Records one session carries, both ways; then a new handshake is asked for (R9)."""
    session_bytes_max: int = 2**44
    """Bytes of sealed records one session carries, the same way."""
    reserve_keys_low: int = 0
    """Device key pairs made ahead below which the reserve is filled again."""
    reserve_keys_high: int = 0
    """Device key pairs up to which it is filled while nothing else runs; 0 keeps none."""
    reserve_offers_max: int = 4096
    """Most encapsulations made ahead for the devices of the next round, about 2 KB each."""
    reserve_max_age_s: int = 3600
    """Age at which what was made ahead is wiped unused."""
    turn_page: int = 1024
    """Most chain keys of a page that a bucket turn seals; below 16 each is a row of its own."""
    change_poll_s: float = 0.5
    """Time between two looks for devices revoked and sessions ended on other workers; messages are sooner."""
    tick_max_s: float = 5.0
    """Longest time between two looks at the clock."""
    cleanup_every_s: float = 30.0
    """Time between two clean-ups, jittered."""
    refusal_events_per_minute: int = 60
    """Most audit events about refusals a minute and reason; beyond it they are only counted."""
    detection: bool = True
    """Whether this worker looks for attacks (docs/detection.md); refusals are counted and logged in any case."""
    playbook: str | None = None
    """File of the rules by which incidents lead to responses; unset takes the shipped ones (docs/operations.md)."""
    detection_opinion: bool = False
    """Whether incidents of fleets carry a second opinion of `river`, of the extra `detect`."""
    incidents_kept_days: int = 365
    """Age at which closed incidents and finished responses are removed, counted from their last change."""
    certificate_years: int = 10
    """Life of a CERT, from its issue or request."""
    log_origin: str | None = None
    """Name of the log in checkpoints (a C2SP origin); None makes `qflare/` and the server id's first 16 hex digits."""
    pool_size_min: int = 1
    """Connections kept open."""
    pool_size_max: int = 8
    """Most connections of this worker."""
    keeper: str | None = None
    """Keeper of the sealing keys: `file:`, which unset means too, or a `pkcs11:` URI (docs/operations.md)."""
    keeper_dir: str | None = None
    """Folder of the file keeper's bucket keys; None lets the assembly choose one in a memory file system."""

    signer_socket: str | None = None
    """Unix socket of the signer of the log's heads (`qflare signer`); None keeps the log's key in each worker."""
    signer_timeout_s: float = 2.0
    """Longest wait for a signature."""

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        for name, low, high in (
            ("bucket_width_s", 1, 86_400),
            ("lifetime", 1, _LIFETIME_MAX),
            ("batch_max", 1, 4096),
            ("waiting_max", 1, 1_000_000),
            ("flights_max", 1, 64),
            ("threads", 1, 64),
            ("jobs_max", 1, 65_536),
            ("record_bytes_max", 64, 2**31),
            ("record_batch_bytes_max", 64, 2**31),
            ("reply_lifetime", 1, _LIFETIME_MAX),
            ("replies_outstanding_max", 0, 4096),
            ("seen_max", 1, 10_000_000),
            ("incidents_kept_days", 1, 36_500),
            ("devices_cached_max", 1, 10_000_000),
            ("device_cached_s", 0, 3600),
            ("sessions_cached_max", 1, 10_000_000),
            ("session_records_max", 1, 2**32),
            ("session_bytes_max", 64, 2**44),
            ("reserve_keys_low", 0, 65_536),
            ("reserve_keys_high", 0, 65_536),
            ("reserve_offers_max", 0, 1_000_000),
            ("reserve_max_age_s", 1, 86_400),
            ("turn_page", 1, 4096),
            ("refusal_events_per_minute", 0, 100_000),
            ("certificate_years", 1, 100),
            ("pool_size_min", 0, 1000),
            ("pool_size_max", 1, 1000),
        ):
            value: object = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
                raise ConfigError(f"setting {name} must be a whole number from {low} to {high}, got {value!r}")
        for name in ("detection", "detection_opinion"):
            chosen: object = getattr(self, name)
            if not isinstance(chosen, bool):
                raise ConfigError(f"setting {name} must be True or False, got {chosen!r}")
        for name in (
            "store_timeout_s",
            "close_timeout_s",
            "change_poll_s",
            "tick_max_s",
            "cleanup_every_s",
            "signer_timeout_s",
        ):
            seconds: object = getattr(self, name)
            if not isinstance(seconds, int | float) or isinstance(seconds, bool) or not 0 < seconds <= _SECONDS_MAX:
                raise ConfigError(f"setting {name} must be above 0 and at most 3600 seconds, got {seconds!r}")
        if self.pool_size_min > self.pool_size_max:
            raise ConfigError("setting pool_size_min must not be above pool_size_max")
        if self.reserve_keys_low > self.reserve_keys_high:
            raise ConfigError("setting reserve_keys_low must not be above reserve_keys_high")
        origin = self.log_origin
        if origin is not None and not (
            0 < len(origin.encode()) <= _ORIGIN_BYTES_MAX
            and all(character > " " and character not in "+\x7f" for character in origin)
        ):
            raise ConfigError("setting log_origin must be 1 to 255 bytes without spaces, control characters or '+'")
