"""Interleaved rounds: the reference, then what is measured, then the reference again, in blocks of milliseconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from qflare.service.bench.claim import Claim, Goal, Quantity, Relation
from qflare.service.bench.spread import Spread, around, differences, ratios, spread_of
from qflare.service.bench.table import as_quantity

_UNITS = (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6), ("ns", 1e-9))


@dataclass(frozen=True, slots=True)
class Work:
    """Something to be timed."""

    call: Callable[[], object]
    items: int = 1
    """Operations a call does."""
    name: str = ""
    """How the table calls it as a reference."""


@dataclass(slots=True)
class Block:
    """A work repeated until it fills a few milliseconds."""

    work: Work
    repeats: int

    @property
    def items(self) -> int:
        """Operations a call of the block does."""
        return self.work.items * self.repeats

    def __call__(self) -> None:
        """Do the work as often as the block wants it."""
        call = self.work.call
        for _ in range(self.repeats):
            call()


@dataclass(slots=True)
class Rounds:
    """Seconds an operation, round by round; the reference's are those around each round."""

    measured: list[float]
    reference: list[float] = field(default_factory=list)


class Bench:
    """One benchmark: times rounds through pytest-benchmark and keeps the claims made of them."""

    def __init__(
        self, benchmark, *, section: str, is_quick: bool, timer: Callable[[], float], say: Callable[[str], None]
    ) -> None:
        self._benchmark = benchmark
        self._section = section
        self._say = say
        self._timer = timer
        self.is_quick = is_quick
        self.rounds = 7 if is_quick else 31
        self.warm_up_s = 0.1 if is_quick else 1.0
        benchmark.extra_info["claims"] = []
        benchmark.extra_info["machine"] = {}

    # --- timing -----------------------------------------------------------------------------------

    def interleave(self, measured: Work, reference: Work, *, block_s: float = 0.005) -> Rounds:
        """Warm both up together, then time the rounds."""
        mine, theirs = self._block(measured, block_s), self._block(reference, block_s)
        _warm_up([mine, theirs], self.warm_up_s)
        references: list[float] = []

        def before() -> None:
            references.append(self.seconds(theirs) / theirs.items)

        self._benchmark.pedantic(mine, setup=before, rounds=self.rounds, iterations=1, warmup_rounds=0)
        before()
        times = [seconds / mine.items for seconds in self._benchmark.stats.stats.data]
        return Rounds(times, around(references))

    def repeat(self, measured: Work, *, block_s: float = 0.005, rounds: int | None = None) -> Rounds:
        """Warm up, then time the rounds; for figures that are held against a plain number."""
        block = self._block(measured, block_s)
        _warm_up([block], self.warm_up_s)
        self._benchmark.pedantic(block, rounds=rounds or self.rounds, iterations=1, warmup_rounds=0)
        return Rounds([seconds / block.items for seconds in self._benchmark.stats.stats.data])

    def rounds_of(self, make: Callable[[], tuple[float, float]], *, rounds: int | None = None) -> Rounds:
        """Time what times itself: *make* returns seconds an operation of what is measured and of the reference."""
        measured: list[float] = []
        reference: list[float] = []

        def one() -> None:
            mine, theirs = make()
            measured.append(mine)
            reference.append(theirs)

        self._benchmark.pedantic(one, rounds=rounds or self.rounds, iterations=1, warmup_rounds=0)
        return Rounds(measured, reference)

    def warm_up(self, make: Callable[[], tuple[float, float]]) -> None:
        """Run rounds that count for nothing, for as long as the figures' warm-up is."""
        end = time.perf_counter() + self.warm_up_s
        while time.perf_counter() < end:
            make()

    def once(self, call: Callable[[], None]) -> None:
        """Run what measures something else than time."""
        self._benchmark.pedantic(call, rounds=1, iterations=1, warmup_rounds=0)

    def seconds(self, call: Callable[[], None]) -> float:
        """Time one call."""
        start = self._timer()
        call()
        return self._timer() - start

    def _block(self, work: Work, block_s: float) -> Block:
        block = Block(work, 1)
        block()  # the first call may build something
        fastest = min(self.seconds(block) for _ in range(3))
        return Block(work, max(1, round(block_s / max(fastest, 1e-9))))

    # --- claims -----------------------------------------------------------------------------------

    def claim(self, claim: Claim) -> None:
        """Keep a claim, and say it."""
        self._benchmark.extra_info["claims"].append(claim.to_json())
        verdict = {True: "met", False: "not met", None: "no goal"}[claim.is_met]
        self._say(f"{claim.what}: {as_quantity(claim.figure.median, claim.unit)} ({verdict})")

    def machine(self, **facts: object) -> None:
        """Keep facts about the machine that only this benchmark knows."""
        self._benchmark.extra_info["machine"] |= facts

    def times_the_reference(
        self, what: str, rounds: Rounds, reference: str, at_most: float | None, *, is_mean: bool = False, note: str = ""
    ) -> None:
        """Claim that it takes at most so many times the reference's time."""
        figure = _figure(rounds.measured, rounds.reference, is_mean=is_mean)
        goal = None if at_most is None else Goal(Relation.AT_MOST, at_most)
        self._claim(what, rounds, reference, goal=goal, figure=figure, unit="× time", note=note, is_mean=is_mean)

    def faster_than(
        self,
        what: str,
        rounds: Rounds,
        reference: str,
        at_least: float | None,
        *,
        is_mean: bool = False,
        note: str = "",
    ) -> None:
        """Claim that it is at least so many times faster than the reference."""
        figure = _figure(rounds.reference, rounds.measured, is_mean=is_mean)
        goal = None if at_least is None else Goal(Relation.AT_LEAST, at_least)
        self._claim(what, rounds, reference, goal=goal, figure=figure, unit="×", note=note, is_mean=is_mean)

    def faster_than_published(
        self, what: str, rounds: Rounds, published_s: float, at_least: float, *, is_mean: bool = False, note: str = ""
    ) -> None:
        """Claim that it is at least so many times faster than a timing of the founding document."""
        beside = Rounds(rounds.measured, [published_s] * len(rounds.measured))
        self.faster_than(what, beside, "published", at_least, is_mean=is_mean, note=note)

    def more_than(
        self, what: str, rounds: Rounds, reference: str, at_most_s: float, *, is_mean: bool = False, note: str = ""
    ) -> None:
        """Claim that it takes at most so many seconds more than the reference."""
        figure = differences(rounds.measured, rounds.reference)
        if is_mean:
            figure = Spread(_mean(rounds.measured) - _mean(rounds.reference), figure.lower, figure.upper, figure.rounds)
        scaled = Spread(figure.median * 1e6, figure.lower * 1e6, figure.upper * 1e6, figure.rounds)
        goal = Goal(Relation.AT_MOST, at_most_s * 1e6)
        self._claim(what, rounds, reference, goal=goal, figure=scaled, unit="µs more", note=note, is_mean=is_mean)

    def at_most(
        self, what: str, values: list[float], unit: str, at_most: float, *, reference: str = "", note: str = ""
    ) -> None:
        """Claim a plain number that is at most so large."""
        self._quantity(what, values, unit, goal=Goal(Relation.AT_MOST, at_most), reference=reference, note=note)

    def at_least(
        self, what: str, values: list[float], unit: str, at_least: float, *, reference: str = "", note: str = ""
    ) -> None:
        """Claim a plain number that is at least so large."""
        self._quantity(what, values, unit, goal=Goal(Relation.AT_LEAST, at_least), reference=reference, note=note)

    def figure(self, what: str, values: list[float], unit: str, *, reference: str = "", note: str = "") -> None:
        """Say a plain number for which nothing was set."""
        self._quantity(what, values, unit, goal=None, reference=reference, note=note)

    def _quantity(
        self, what: str, values: list[float], unit: str, *, goal: Goal | None, reference: str, note: str
    ) -> None:
        spread = spread_of(values)
        self.claim(
            Claim(
                section=self._section,
                what=what,
                goal=goal,
                measured=Quantity(spread.median, unit),
                reference=None,
                reference_name=reference,
                figure=spread,
                unit=unit,
                note=note,
            )
        )

    def _claim(
        self, what: str, rounds: Rounds, reference: str, *, goal: Goal | None, figure: Spread, unit: str, note: str,
        is_mean: bool,
    ) -> None:  # fmt: skip
        middle = _mean if is_mean else _median
        self.claim(
            Claim(
                section=self._section,
                what=what,
                goal=goal,
                measured=as_time(middle(rounds.measured)),
                reference=as_time(middle(rounds.reference)),
                reference_name=reference,
                figure=figure,
                unit=unit,
                note=note,
            )
        )


def as_time(seconds: float) -> Quantity:
    """Return *seconds* in the unit that leaves the fewest zeros."""
    for unit, size in _UNITS:
        if abs(seconds) >= size:
            return Quantity(seconds / size, unit)
    return Quantity(seconds * 1e9, "ns")


def _figure(numerators: list[float], denominators: list[float], *, is_mean: bool) -> Spread:
    figure = ratios(numerators, denominators)
    if is_mean:
        # Signing repeats until it is not rejected: the mean is what a server pays, the median is not.
        return Spread(sum(numerators) / sum(denominators), figure.lower, figure.upper, figure.rounds)
    return figure


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _median(values: list[float]) -> float:
    return spread_of(values).median


def _warm_up(blocks: list[Block], warm_up_s: float) -> None:
    end = time.perf_counter() + warm_up_s
    while time.perf_counter() < end:
        for block in blocks:
            block()
