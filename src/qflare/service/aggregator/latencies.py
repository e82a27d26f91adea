"""How long HTTP requests took in one worker, by address and kind of status: few series, whatever is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from qflare.model.histogram import SECONDS, Histogram

if TYPE_CHECKING:
    from starlette.types import Message, Send

    from qflare.service.metrics.facts import Facts

OTHER: Final = "other"
"""What has no address here."""
NO_STATUS: Final = "none"
"""No answer was begun: the client went, or the worker ended."""
_NS: Final = 10**9
_HUNDRED: Final = 100


class Latencies:
    """Times of requests; a route is the name of an address of ours, so that their number is bounded."""

    def __init__(self) -> None:
        """Begin with none."""
        self._seconds: dict[tuple[str, str], Histogram] = {}

    def note(self, route: str, status: int | None, elapsed_ns: int) -> None:
        """Count a request that was answered with *status*, None if it was not."""
        key = route, NO_STATUS if status is None else f"{status // _HUNDRED}xx"
        histogram = self._seconds.get(key)
        if histogram is None:
            histogram = self._seconds[key] = Histogram(SECONDS)
        histogram.observe(elapsed_ns / _NS)

    def tell(self, facts: Facts) -> None:
        """Put what was counted into *facts*."""
        for (route, status), histogram in self._seconds.items():
            facts.add_histogram("qflare_http_request_seconds", histogram, route, status)


class StatusWatch:
    """ASGI's send that remembers the status of the answer that goes through it."""

    __slots__ = ("_send", "status")

    def __init__(self, send: Send) -> None:
        """Pass everything on to *send*."""
        self._send = send
        self.status: int | None = None

    async def __call__(self, message: Message) -> None:
        """Pass *message* on."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
        await self._send(message)
