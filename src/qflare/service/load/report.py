"""What a load gave, as text and as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from qflare.service.load.search import highest_held

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qflare.service.load.trial import Trial


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadReport:
    """Every trial of a run."""

    trials: list[Trial]
    latency_ms: float
    """What 99 of 100 requests had to stay below."""
    is_search: bool
    workers: int
    devices: int
    machine: Mapping[str, object]

    @property
    def saturation(self) -> Trial | None:
        """The trial of the highest rate that held, if rates were searched."""
        return highest_held(self.trials, latency_ms=self.latency_ms) if self.is_search else None

    def to_json(self) -> dict[str, object]:
        """Return all of it; histograms are in HdrHistogram's compressed form."""
        found = self.saturation
        return {
            "schema": "qflare-load-1",
            "machine": dict(self.machine),
            "workers": self.workers,
            "devices": self.devices,
            "latency_ms": self.latency_ms,
            "saturation_per_s": None if found is None else found.rate,
            "trials": [
                asdict(trial) | {"is_sustained": trial.is_sustained(latency_ms=self.latency_ms)}
                for trial in self.trials
            ],
        }

    @property
    def text(self) -> str:
        """A table for a terminal of 80 columns, and what it means."""
        lines = [
            "                       first request, ms      last request, ms     CPU, µs each",
            "form   offered/s got/s    p50   p99    max      p50   p99    max server  pg",
        ]
        for trial in self.trials:
            first, last = trial.first.latency, trial.last.latency
            postgres = "–" if trial.postgres_us is None else f"{trial.postgres_us:,.0f}"
            firsts = f"{first.p50_ms:>6.1f} {first.p99_ms:>5.0f} {first.max_ms:>6.0f}"
            lasts = f"{last.p50_ms:>6.1f} {last.p99_ms:>5.0f} {last.max_ms:>6.0f}"
            rates = f"{trial.form:<6} {trial.rate:>9,.0f} {trial.achieved:>5,.0f}"
            lines.append(f"{rates} {firsts}   {lasts} {trial.server_us:>6,.0f} {postgres:>4}")
            failures = {**trial.first.failures} | {
                f"{status} at the end": n for status, n in trial.last.failures.items()
            }
            if failures:
                lines.append(f"       not answered with 200: {failures}")
        lines.append("")
        lines.append(f"{self.workers} workers, {self.devices:,} devices; latency counts from when a request was due.")
        lines += self._verdict()
        return "\n".join(lines)

    def _verdict(self) -> list[str]:
        if not self.is_search:
            return []
        found = self.saturation
        if found is None:
            return [f"No rate held with 99 of 100 requests within {self.latency_ms:g} ms."]
        rate = f"{found.rate:,.0f} {found.form} handshakes/s"
        lines = [f"Highest rate that held, 99 of 100 requests within {self.latency_ms:g} ms: {rate}."]
        if any(trial.client_late_ms > self.latency_ms / 2 for trial in self.trials):
            lines.append("The client itself fell behind in some trials: the server may do more with cores of its own.")
        return lines
