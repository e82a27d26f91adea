"""Where figures for operators are shown."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Final

from qflare.errors import ConfigError

_PORT_MAX: Final = 65_535
_SECONDS_MAX: Final = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsSettings:
    """
    How `qflare serve` shows its metrics.

    Raises:
        ConfigError: a value is outside its range; the message names it.
    """

    metrics_address: str | None = None
    """`host:port` on loopback that shows `/metrics`, such as `127.0.0.1:9464`; unset shows none."""
    metrics_timeout_s: float = 2.0
    """Longest wait for what a worker, its database and its keeper tell at a scrape."""

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        if self.metrics_address is not None:
            self.split()
        seconds: object = self.metrics_timeout_s
        if not isinstance(seconds, int | float) or isinstance(seconds, bool) or not 0 < seconds <= _SECONDS_MAX:
            raise ConfigError(
                f"setting metrics_timeout_s must be above 0 and at most {_SECONDS_MAX} seconds, got {seconds!r}"
            )

    def split(self) -> tuple[str, int]:
        """Return host and port of the address; `ConfigError` if there is none, or it is not this machine's own."""
        host, _, port = (self.metrics_address or "").rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        try:
            # WHY: true reasons of refusals stand there, which no peer may learn (PROTOCOL N5).
            is_loopback = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host).is_loopback
            number = int(port) if port.isascii() and port.isdigit() else -1
        except ValueError:
            is_loopback, number = False, -1
        if not is_loopback or not 0 <= number <= _PORT_MAX:
            raise ConfigError(
                "setting metrics_address must be host:port on loopback, such as 127.0.0.1:9464, got "
                f"{self.metrics_address!r}; to be scraped from elsewhere put a proxy that asks who comes in front"
            )
        return host, number
