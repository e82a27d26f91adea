"""
Two runs of the benchmarks on one machine: which ratios became worse.

Only ratios are compared: both of a ratio's sides were measured in the same rounds, so it says something on a machine
that is slower today than it was.  Times by themselves do not.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from qflare.errors import ConfigError, DecodeError
from qflare.service.bench.claim import Claim, Relation
from qflare.service.bench.run import SCHEMA
from qflare.service.bench.table import as_quantity

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

TOLERANCE: Final = 0.10
"""A ratio that is worse by less is noise here, whatever its quartiles say."""
_RATIO: Final = "×"
_SAME: Final = ("cpu", "cores", "vector_units", "liboqs", "engine")
"""What makes a machine the same one for a ratio against liboqs."""


@dataclass(frozen=True, slots=True)
class Change:
    """A ratio in both runs."""

    before: Claim
    after: Claim

    @property
    def worsening(self) -> float:
        """By which share it is worse, below 0 if it is better."""
        before, after = self.before.figure.median, self.after.figure.median
        return before / after - 1 if _is_better_high(self.after) else after / before - 1

    @property
    def is_regression(self) -> bool:
        """Whether it is worse by more than the tolerance, and its quartiles lie apart from the former ones."""
        before, after = self.before.figure, self.after.figure
        apart = after.upper < before.lower if _is_better_high(self.after) else after.lower > before.upper
        return apart and self.worsening > TOLERANCE


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What changed from a baseline to a newer run."""

    changes: tuple[Change, ...]
    missing: tuple[str, ...]
    """Ratios of the baseline that the newer run has not."""

    @property
    def regressions(self) -> tuple[Change, ...]:
        """The ratios that became worse, worst first."""
        worse = (change for change in self.changes if change.is_regression)
        return tuple(sorted(worse, key=lambda change: change.worsening, reverse=True))

    @property
    def text(self) -> str:
        """What a person wants to read."""
        lines = [f"{len(self.changes)} ratios compared, {len(self.regressions)} worse by more than {TOLERANCE:.0%}."]
        for change in self.regressions:
            before = as_quantity(change.before.figure.median, change.before.unit)
            after = as_quantity(change.after.figure.median, change.after.unit)
            lines.append(
                f"worse by {change.worsening:.0%}: {change.after.what} ({change.after.section}): {before} to {after}"
            )
        lines += [f"not measured any more: {what}" for what in self.missing]
        return "\n".join(lines)

    def to_json(self) -> dict[str, object]:
        """Return it for scripts."""
        return {
            "compared": len(self.changes),
            "regressions": [
                {
                    "section": change.after.section,
                    "what": change.after.what,
                    "before": change.before.figure.median,
                    "after": change.after.figure.median,
                    "unit": change.after.unit,
                    "worsening": change.worsening,
                }
                for change in self.regressions
            ],
            "missing": list(self.missing),
        }


def compare(before: Path, after: Path) -> Comparison:
    """
    Compare two files that `run_bench` wrote.

    Raises:
        ConfigError: a file cannot be read, or the runs are of different machines: their ratios say nothing together.
        DecodeError: a file holds something else.
    """
    old, old_machine = _read(before)
    new, new_machine = _read(after)
    different = [name for name in _SAME if old_machine.get(name) != new_machine.get(name)]
    if different:
        raise ConfigError(
            f"{before} was measured elsewhere ({', '.join(different)} differ): take a baseline on this machine first"
        )
    found = {_key(claim): claim for claim in new if claim.unit.startswith(_RATIO)}
    ratios = [claim for claim in old if claim.unit.startswith(_RATIO)]
    return Comparison(
        changes=tuple(Change(claim, found[_key(claim)]) for claim in ratios if _key(claim) in found),
        missing=tuple(claim.what for claim in ratios if _key(claim) not in found),
    )


def _key(claim: Claim) -> tuple[str, str, str, str]:
    return claim.section, claim.what, claim.reference_name, claim.unit


def _is_better_high(claim: Claim) -> bool:
    # "× time" says how much longer, "×" alone how much faster; a goal says it too.
    return claim.goal.relation is Relation.AT_LEAST if claim.goal is not None else claim.unit == _RATIO


def _read(path: Path) -> tuple[Sequence[Claim], Mapping[str, object]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}): run the benchmarks first") from None
    except ValueError:
        raise DecodeError(f"{path} holds no results of the benchmarks: run them again") from None
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise DecodeError(f"{path} holds no results of the benchmarks: run them again")
    try:
        return [Claim.from_json(fields) for fields in content["claims"]], dict(content["machine"])
    except (KeyError, TypeError) as error:
        raise DecodeError(f"{path} is incomplete ({error!r}): run the benchmarks again") from None
