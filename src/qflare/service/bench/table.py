"""The table of claims: for a terminal, and as Markdown for the documents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from qflare.service.bench.claim import Goal, Relation

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from qflare.service.bench.claim import Claim, Quantity

HEADINGS: Final = ("what", "figure to reach", "measured", "reference", "ratio or figure", "quartiles", "met")
_SIGNS: Final = {Relation.AT_MOST: "≤", Relation.AT_LEAST: "≥"}
_MET: Final = {True: "yes", False: "no", None: "–"}


def as_number(value: float) -> str:
    """Return *value* with three figures that count, thousands apart."""
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 100:  # noqa: PLR2004 - from here on whole numbers have three figures
        return f"{value:,.0f}"
    if size >= 10:  # noqa: PLR2004
        return f"{value:.1f}"
    if size >= 1:
        return f"{value:.2f}"
    return f"{value:.3g}"


def as_quantity(value: float, unit: str) -> str:
    """Return a number with its unit."""
    return f"{as_number(value)} {unit}".rstrip()


def cells(claim: Claim) -> tuple[str, ...]:
    """Return the cells of a claim's line, as `HEADINGS` names them."""
    figure = claim.figure
    sign = "+" if claim.unit.startswith("µs more") and figure.median > 0 else ""
    return (
        claim.what,
        _goal(claim.goal, claim.unit),
        as_quantity(claim.measured.value, claim.measured.unit),
        _reference(claim.reference, claim.reference_name),
        f"{sign}{as_quantity(figure.median, claim.unit)}",
        f"{as_number(figure.lower)} – {as_number(figure.upper)}" if figure.rounds > 1 else "one run",
        _MET[claim.is_met],
    )


def as_text(claims: Sequence[Claim], machine: Mapping[str, object]) -> str:
    """Return the table for a terminal, its sections one below the other, the machine above."""
    rows = [cells(claim) for claim in claims]
    widths = [max(len(row[column]) for row in [HEADINGS, *rows]) for column in range(len(HEADINGS))]
    lines = [*machine_lines(machine), "", _line(HEADINGS, widths)]
    section = None
    for claim, row in zip(claims, rows, strict=True):
        if claim.section != section:
            section = claim.section
            lines += ["", f"{section}"]
        lines.append(_line(row, widths))
    met = sum(claim.is_met is True for claim in claims)
    with_goal = sum(claim.goal is not None for claim in claims)
    lines += ["", f"{met} of {with_goal} figures are met."]
    notes = dict.fromkeys(f"{claim.what}: {claim.note}" for claim in claims if claim.note)
    return "\n".join([*lines, *notes])


def as_markdown(claims: Sequence[Claim], machine: Mapping[str, object]) -> str:
    """Return the machine, one table a section and the notes, as Markdown below a heading of the second level."""
    with_goal = [claim for claim in claims if claim.goal is not None]
    met = sum(claim.is_met is True for claim in with_goal)
    lines = [f"- {line}" for line in machine_lines(machine)]
    lines += ["", f"Of the figures that were set, {met} are met and {len(with_goal) - met} are not."]
    section = None
    for claim in claims:
        if claim.section != section:
            section = claim.section
            lines += ["", f"### {section}", "", _markdown(HEADINGS), _markdown(["---"] * len(HEADINGS))]
        lines.append(_markdown(cells(claim)))
    notes = dict.fromkeys(f"- {claim.what}: {claim.note}" for claim in claims if claim.note)
    if notes:
        lines += ["", "Notes of the run:", "", *notes]
    return "\n".join(lines) + "\n"


def machine_lines(machine: Mapping[str, object]) -> list[str]:
    """Return the machine in a few lines."""
    vectors = _listed(machine.get("vector_units"))
    packages = machine.get("packages")
    versions = ", ".join(f"{name} {found}" for name, found in packages.items()) if isinstance(packages, dict) else ""
    lines = [
        f"{machine.get('cpu')}, {machine.get('cores')} cores ({vectors}), Linux {machine.get('kernel')}",
        f"liboqs {machine.get('liboqs')} ({machine.get('liboqs_origin')}), engine {machine.get('engine')}",
        f"QFLARE {machine.get('qflare')}, Python {machine.get('python')}, {versions}",
    ]
    if machine.get("postgresql"):
        lines.append(f"PostgreSQL {machine['postgresql']}")
    if machine.get("peers"):
        lines.append(f"peers: {_listed(machine['peers'])}")
    began, ended = machine.get("began"), machine.get("ended")
    if isinstance(began, dict) and isinstance(ended, dict):
        lines.append(
            f"{began['at']}; load before {_listed(began['load'])}, after {_listed(ended['load'])} (1, 5, 15 minutes)"
        )
    if machine.get("mode"):
        lines.append(str(machine["mode"]))
    return lines


def _goal(goal: Goal | None, unit: str) -> str:
    return "–" if goal is None else f"{_SIGNS[goal.relation]} {as_quantity(goal.value, unit)}"


def _reference(reference: Quantity | None, name: str) -> str:
    if reference is None:
        return name or "–"
    return f"{name}: {as_quantity(reference.value, reference.unit)}"


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _markdown(row: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"


def _listed(values: object) -> str:
    return ", ".join(str(value) for value in values) if isinstance(values, list) else ""
