"""A claim: one figure, what it was held against, and whether it meets what was set for it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Self

from qflare.errors import DecodeError
from qflare.service.bench.spread import Spread

if TYPE_CHECKING:
    from collections.abc import Mapping


class Relation(StrEnum):
    """On which side of the goal a figure meets it."""

    AT_MOST = "at most"
    AT_LEAST = "at least"


@dataclass(frozen=True, slots=True)
class Goal:
    """What a figure has to reach."""

    relation: Relation
    value: float

    def is_met_by(self, figure: float) -> bool:
        """Say whether *figure* reaches it."""
        return figure <= self.value if self.relation is Relation.AT_MOST else figure >= self.value


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number with its unit."""

    value: float
    unit: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One line of the table."""

    section: str
    what: str
    goal: Goal | None
    """None where no figure was set."""
    measured: Quantity
    """Median over the rounds; a mean where a distribution has no middle (signing)."""
    reference: Quantity | None
    """The same of what it is held against, in the same rounds; None where the goal is a plain number."""
    reference_name: str
    figure: Spread
    """What the goal is about: a ratio, a difference or a quantity."""
    unit: str
    """Of the figure; × for ratios."""
    note: str = ""

    @property
    def is_met(self) -> bool | None:
        """Whether the median meets the goal; None without one."""
        return None if self.goal is None else self.goal.is_met_by(self.figure.median)

    def to_json(self) -> dict[str, object]:
        """Return it as it stands in the JSON file."""
        return {
            "section": self.section,
            "what": self.what,
            "goal": None if self.goal is None else {"relation": self.goal.relation.value, "value": self.goal.value},
            "measured": {"value": self.measured.value, "unit": self.measured.unit},
            "reference": None
            if self.reference is None
            else {"value": self.reference.value, "unit": self.reference.unit},
            "reference_name": self.reference_name,
            "figure": {
                "median": self.figure.median,
                "lower": self.figure.lower,
                "upper": self.figure.upper,
                "rounds": self.figure.rounds,
            },
            "unit": self.unit,
            "is_met": self.is_met,
            "note": self.note,
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, object]) -> Self:
        """
        Rebuild from `to_json`'s fields.

        Raises:
            DecodeError: a field is missing or of another shape.
        """
        try:
            goal, reference = fields["goal"], fields["reference"]
            figure = _mapping(fields["figure"])
            return cls(
                section=_text(fields["section"]),
                what=_text(fields["what"]),
                goal=None if goal is None else _goal(_mapping(goal)),
                measured=_quantity(_mapping(fields["measured"])),
                reference=None if reference is None else _quantity(_mapping(reference)),
                reference_name=_text(fields["reference_name"]),
                figure=Spread(
                    _number(figure["median"]),
                    _number(figure["lower"]),
                    _number(figure["upper"]),
                    int(_number(figure["rounds"])),
                ),
                unit=_text(fields["unit"]),
                note=_text(fields["note"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DecodeError(f"a benchmark's claim cannot be read ({error!r}): run the benchmarks again") from None


def _goal(fields: Mapping[str, object]) -> Goal:
    return Goal(Relation(_text(fields["relation"])), _number(fields["value"]))


def _quantity(fields: Mapping[str, object]) -> Quantity:
    return Quantity(_number(fields["value"]), _text(fields["unit"]))


def _mapping(value: object) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise TypeError(f"an object was expected, not {type(value).__name__}")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"text was expected, not {type(value).__name__}")
    return value


def _number(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"a number was expected, not {type(value).__name__}")
    return float(value)
