"""A trial: handshakes at one rate for some stretches, and what came of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from qflare.service.load.latency import Latencies, Percentiles
from qflare.service.load.pace import Stream, send_paced

if TYPE_CHECKING:
    from collections.abc import Callable

    from qflare.service.load.client import Client
    from qflare.service.load.fleet import Answered, Fleet
    from qflare.service.load.target import Target

FIRST_STEP: Final = {"hello": "/v1/hello", "offer": "/v1/offer"}
LAST_STEP: Final = "/v1/confirm"
STRETCH_S_MAX: Final = 20.0
"""Longest stretch: tickets of hellos live a minute, and the last messages are made in between."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One of a handshake's two requests during a trial."""

    path: str
    sent: int
    failures: dict[int, int]
    """By HTTP status; 0 is no answer."""
    latency: Percentiles
    histogram: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What one rate gave."""

    form: str
    rate: float
    """Handshakes a second that were offered."""
    achieved: float
    """Handshakes a second that were confirmed, until the last answer."""
    first: Step
    last: Step
    checked: int
    """Confirmations whose tag, proof and signature were checked as a device does; none failed."""
    client_late_ms: float
    """The most that the client sent behind time."""
    server_us: float
    """Processor time of the server's processes a handshake."""
    postgres_us: float | None
    client_us: float

    def is_sustained(self, *, latency_ms: float) -> bool:
        """Say whether the server kept up: every handshake confirmed, in time, and 99 of 100 within *latency_ms*."""
        return (
            not self.first.failures
            and not self.last.failures
            and self.achieved >= _KEPT_UP * self.rate
            and max(self.first.latency.p99_ms, self.last.latency.p99_ms) <= latency_ms
        )


_KEPT_UP: Final = 0.95


@dataclass(slots=True)
class _Sums:
    first: Latencies = field(default_factory=Latencies)
    last: Latencies = field(default_factory=Latencies)
    first_failures: dict[int, int] = field(default_factory=dict)
    last_failures: dict[int, int] = field(default_factory=dict)
    sent: int = 0
    confirmed: int = 0
    checked: int = 0
    wall_s: float = 0.0
    late_s: float = 0.0
    server_s: float = 0.0
    postgres_s: float | None = 0.0
    client_s: float = 0.0


async def run_trial(
    client: Client,
    fleet: Fleet,
    target: Target,
    *,
    form: str,
    rate: float,
    stretches: int,
    seconds: float,
    say: Callable[[str], None],
) -> Trial:
    """
    Offer *rate* handshakes a second for *stretches* stretches of *seconds*.

    In each stretch the first requests of one group of handshakes and the last requests of the group before it are sent
    side by side, as a server has them; the devices' own work is done between the stretches.  A stretch of first
    requests alone comes before them and is not measured.
    """
    count = max(1, round(rate * seconds))
    sums = _Sums()
    ready: Answered | None = None
    for number in range(stretches + 2):
        is_measured = ready is not None and number <= stretches
        begun = await fleet.begin(form, count) if number <= stretches else None
        first = Stream([client.request(FIRST_STEP[form], body) for body in begun.bodies] if begun else [])
        last = Stream([client.request(LAST_STEP, body) for body in ready.bodies] if ready else [])
        before = target.cpu_time()
        stretch = await send_paced(client, [first, last], seconds)
        after = target.cpu_time()
        if ready is not None:
            checked = await fleet.check(ready, last.answers)
            if is_measured:
                _add(sums, first, last, checked)
                sums.wall_s += max(stretch.wall_s, stretch.offered_s)
                sums.late_s = max(sums.late_s, stretch.late_s)
                sums.server_s += after.server_s - before.server_s
                sums.client_s += after.client_s - before.client_s
                if sums.postgres_s is not None and after.postgres_s is not None and before.postgres_s is not None:
                    sums.postgres_s += after.postgres_s - before.postgres_s
                else:
                    sums.postgres_s = None
                say(f"{form} {rate:,.0f}/s, stretch {number} of {stretches}: {last.latencies.count:,} confirmed")
        ready = await fleet.answer(form, begun, first.answers) if begun else None
    return _trial(sums, form=form, rate=rate)


def _add(sums: _Sums, first: Stream, last: Stream, checked: int) -> None:
    sums.first.merge(first.latencies)
    sums.last.merge(last.latencies)
    for totals, stream in ((sums.first_failures, first), (sums.last_failures, last)):
        for status, many in stream.failures.items():
            totals[status] = totals.get(status, 0) + many
    sums.sent += len(last.requests)
    sums.confirmed += sum(answer is not None for answer in last.answers)
    sums.checked += checked


def _trial(sums: _Sums, *, form: str, rate: float) -> Trial:
    each = 1e6 / max(1, sums.confirmed)
    return Trial(
        form=form,
        rate=rate,
        achieved=sums.confirmed / sums.wall_s if sums.wall_s else 0.0,
        first=Step(
            path=FIRST_STEP[form],
            sent=sums.first.count,
            failures=sums.first_failures,
            latency=sums.first.percentiles(),
            histogram=sums.first.encode(),
        ),
        last=Step(
            path=LAST_STEP,
            sent=sums.sent,
            failures=sums.last_failures,
            latency=sums.last.percentiles(),
            histogram=sums.last.encode(),
        ),
        checked=sums.checked,
        client_late_ms=sums.late_s * 1e3,
        server_us=sums.server_s * each,
        postgres_us=None if sums.postgres_s is None else sums.postgres_s * each,
        client_us=sums.client_s * each,
    )
