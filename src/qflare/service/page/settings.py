"""Where the live page is served, and its bounds."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from qflare.errors import ConfigError

PORT_MAX: Final = 65_535
_SECONDS_MAX: Final = 7 * 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class PageSettings:
    """
    Whether and where operators find the live page, and how much of it at a time.

    Raises:
        ConfigError: a value is outside its range; the message names it.
    """

    page_address: str | None = None
    """Where the live page listens, such as `127.0.0.1:8441`: a loopback address; unset serves none."""
    page_origin: str | None = None
    """Under which `https://` address browsers reach the page where a proxy stands before it; unset: none does."""
    page_refresh_s: float = 2.0
    """Time between two looks at the database while somebody watches; longer while a look takes long."""
    page_visit_s: int = 43_200
    """Longest time from a login to the next."""
    page_idle_s: int = 3600
    """Longest time without a request or an open page until a login ends."""
    page_visits_max: int = 64
    """Most logins that last; one more ends the one that was idle longest."""
    page_streams_max: int = 64
    """Most pages that are kept up to date at a time; one more is told to reload by hand."""
    page_heartbeat_s: float = 15.0
    """Time after which a page without news hears that the server is there."""
    page_guesses_max: int = 5
    """Wrong logins for one name before it has to wait; one is forgiven each minute."""
    page_guesses_all_max: int = 30
    """The same over all names; one is forgiven every two seconds."""

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        if self.page_address is not None:
            host_and_port(self.page_address)
        if self.page_origin is not None:
            _require_origin(self.page_origin)
        for name, low, high in (
            ("page_visit_s", 60, _SECONDS_MAX),
            ("page_idle_s", 60, _SECONDS_MAX),
            ("page_visits_max", 1, 4096),
            ("page_streams_max", 1, 4096),
            ("page_guesses_max", 1, 1000),
            ("page_guesses_all_max", 1, 100_000),
        ):
            value: object = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
                raise ConfigError(f"setting {name} must be a whole number from {low} to {high}, got {value!r}")
        for name, least, most in (("page_refresh_s", 0.1, 3600.0), ("page_heartbeat_s", 0.1, 3600.0)):
            seconds: object = getattr(self, name)
            if not isinstance(seconds, int | float) or isinstance(seconds, bool) or not least <= seconds <= most:
                raise ConfigError(f"setting {name} must be {least:g} to {most:g} seconds, got {seconds!r}")


def host_and_port(address: str) -> tuple[str, int]:
    """
    Read the address of a listener: ``127.0.0.1:8441`` or ``[::1]:8441``; port 0 takes a free one.

    Raises:
        ConfigError: it is none, or none of the loopback's: the page speaks plain HTTP.
    """
    host, _, port = address.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    try:
        is_loopback = ipaddress.ip_address(bare).is_loopback
    except ValueError:
        is_loopback = False
    if not is_loopback or not (port.isascii() and port.isdecimal()) or int(port) > PORT_MAX:
        raise ConfigError(
            f"setting page_address must be a loopback address and a port, such as 127.0.0.1:8441, got {address!r}; "
            "for other machines put a proxy with TLS before it and set page_origin, or use an SSH tunnel"
        )
    return bare, int(port)


def _require_origin(origin: str) -> None:
    try:
        parts = urlsplit(origin)
        is_origin = parts.scheme == "https" and bool(parts.hostname) and origin == f"https://{parts.netloc}"
        is_origin = is_origin and parts.username is None and origin == origin.lower() and parts.port != 0
    except ValueError:
        is_origin = False
    if not is_origin:
        raise ConfigError(
            f"setting page_origin must be https:// and a host in small letters, without a path, got {origin!r}"
        )
