"""The benchmarks of the source tree: run them, print their table, keep their figures."""

from __future__ import annotations

from qflare.service.bench.run import BenchReport, run_bench

__all__ = ["BenchReport", "run_bench"]
