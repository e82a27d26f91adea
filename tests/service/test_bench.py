"""Figures of the benchmarks: how they are made of rounds, kept and shown; how fast anything is, is not asked here."""

import json
import math

import pytest

from qflare.errors import ConfigError, DecodeError, UsageError
from qflare.service.bench import run_bench
from qflare.service.bench.claim import Claim, Goal, Quantity, Relation
from qflare.service.bench.compare import compare
from qflare.service.bench.plot import distance, render_plot
from qflare.service.bench.run import SCHEMA, find_benchmarks, read_results
from qflare.service.bench.spread import Spread, around, differences, ratios, spread_of
from qflare.service.bench.table import HEADINGS, as_markdown, as_number, as_text

MACHINE = {
    "cpu": "Some CPU", "cores": 2, "vector_units": ["avx2"], "kernel": "6.1", "python": "3.11.7", "qflare": "0.1.0",
    "engine": "liboqs", "liboqs": "0.13.0", "liboqs_origin": "built", "packages": {"numpy": "2"}, "postgresql": "18.4",
}  # fmt: skip


def make_claim(**changes):
    fields = {
        "section": "Against raw", "what": "a | batch", "goal": Goal(Relation.AT_MOST, 1.03),
        "measured": Quantity(25.4, "µs"), "reference": Quantity(25.0, "µs"), "reference_name": "raw",
        "figure": Spread(1.016, 1.01, 1.02, 31), "unit": "× time", "note": "as it is",
    }  # fmt: skip
    return Claim(**(fields | changes))


def test_ratio_is_the_median_of_the_rounds_ratios():
    """A machine that halves its speed for half of the rounds changes no ratio of two things measured together."""
    reference = [1.0, 1.0, 2.0, 2.0, 2.0]
    found = ratios([1.1 * value for value in reference], reference)
    assert math.isclose(found.median, 1.1)
    assert math.isclose(found.lower, found.upper)
    assert found.rounds == 5


def test_quartiles_are_those_of_the_values():
    """Median and quartiles are what the textbook says."""
    assert spread_of([5, 1, 4, 2, 3]) == Spread(3, 2, 4, 5)
    assert spread_of([7.0]) == Spread(7.0, 7.0, 7.0, 1)


def test_reference_of_a_round_lies_around_it():
    """What is measured between two rounds of the reference is held against their mean."""
    assert around([1.0, 3.0, 5.0]) == [2.0, 4.0]
    assert differences([5.0, 5.0], around([1.0, 3.0, 5.0])).median == 2.0


@pytest.mark.parametrize("make", [ratios, differences])
def test_sides_of_different_lengths_are_refused(make):
    """Rounds without their reference make no figure."""
    with pytest.raises(UsageError):
        make([1.0, 2.0], [1.0])
    with pytest.raises(UsageError):
        spread_of([])


@pytest.mark.parametrize(
    ("relation", "figure", "is_met"),
    [
        (Relation.AT_MOST, 1.0, True), (Relation.AT_MOST, 1.1, False),
        (Relation.AT_LEAST, 1.0, True), (Relation.AT_LEAST, 0.9, False),
    ],
)  # fmt: skip
def test_goal_is_met_on_its_side(relation, figure, is_met):
    """A figure meets its goal on the goal and on the named side of it, and nowhere else."""
    claim = make_claim(goal=Goal(relation, 1.0), figure=Spread(figure, figure, figure, 1))
    assert claim.is_met is is_met
    assert (distance(claim.goal, figure) >= 1) is is_met


def test_claim_survives_json():
    """A claim read back from its JSON is the claim."""
    for claim in (make_claim(), make_claim(goal=None, reference=None)):
        assert Claim.from_json(json.loads(json.dumps(claim.to_json()))) == claim


@pytest.mark.parametrize("damage", [{"figure": None}, {"what": 3}, {"measured": {"value": "1", "unit": "s"}}])
def test_damaged_claim_is_refused(damage):
    """A claim with a field of another shape is an error that says what to do."""
    with pytest.raises(DecodeError, match="run the benchmarks again"):
        Claim.from_json(make_claim().to_json() | damage)


def test_table_names_machine_figure_and_verdict():
    """The table says on what, how much, against what and whether it is enough."""
    missed = make_claim(figure=Spread(1.2, 1.1, 1.3, 31))
    text = as_text([make_claim(), missed], MACHINE)
    for expected in ("Some CPU", "liboqs 0.13.0", "PostgreSQL 18.4", "≤ 1.03 × time", "raw: 25.0 µs", "1.10 – 1.30"):
        assert expected in text
    assert "1 of 2 figures are met." in text


def test_markdown_table_is_whole():
    """Every line of a Markdown table has every column, whatever the text holds."""
    text = as_markdown([make_claim()], MACHINE)
    assert "Of the figures that were set, " in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 3
    assert {line.replace("\\|", "").count("|") for line in lines} == {len(HEADINGS) + 1}


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (0.01234, "0.0123"), (1.234, "1.23"), (12.34, "12.3"), (1234.5, "1,234")]
)
def test_numbers_have_three_figures(value, text):
    """A number is shown with the figures that count."""
    assert as_number(value) == text


def test_plot_is_a_png():
    """The plot is a PNG, also of figures without a goal or below zero."""
    claims = [make_claim(), make_claim(goal=None), make_claim(figure=Spread(-1.0, -2.0, 0.0, 31))]
    assert render_plot(claims, MACHINE).startswith(b"\x89PNG\r\n")


def test_results_of_another_kind_are_refused(tmp_path):
    """A file that pytest-benchmark did not write for us is an error that says what to do."""
    path = tmp_path / "other.json"
    for text in ("", "{}", '{"machine_info": {"qflare": {}}, "benchmarks": [{"extra_info": {}}]}'):
        path.write_text(text)
        with pytest.raises(DecodeError, match="run them again"):
            read_results(path)


def test_outside_a_source_tree_there_is_an_error(tmp_path, monkeypatch):
    """Where there are no benchmarks, the error says where they are."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("qflare.service.bench.run.__file__", str(tmp_path / "a/b/c/d/e/run.py"))
    with pytest.raises(ConfigError, match="source tree"):
        find_benchmarks()


def test_unwritable_target_is_refused_before_the_run(tmp_path):
    """A folder in the place of the JSON file is an error before anything is measured."""
    with pytest.raises(ConfigError, match="cannot be written"):
        run_bench(tmp_path, tmp_path / "plot.png", is_quick=True, only="nothing matches this")


@pytest.mark.slow
def test_quick_run_writes_all_files(tmp_path):
    """One benchmark run through the command's own way leaves JSON, table and plot that agree."""
    report = run_bench(tmp_path / "b.json", tmp_path / "b.png", is_quick=True, only="test_kdf and test_hashlib")
    written = json.loads((tmp_path / "b.json").read_text())
    assert written["schema"] == SCHEMA
    assert [claim.to_json() for claim in report.claims] == written["claims"]
    assert written["claims"][0]["reference_name"] == "hashlib.sha3_512 loop"
    assert written["machine"]["liboqs"]
    assert "quick run" in (tmp_path / "b.md").read_text()
    assert (tmp_path / "b.png").stat().st_size > 1000


def kept(folder, name, claims, **machine):
    """Write a run as `run_bench` does."""
    path = folder / name
    facts = {"schema": SCHEMA, "machine": MACHINE | machine, "claims": [claim.to_json() for claim in claims]}
    path.write_text(json.dumps(facts))
    return path


@pytest.mark.parametrize(
    ("relation", "unit", "medians", "is_worse"),
    [
        (Relation.AT_MOST, "× time", (1.0, 1.2), True),
        (Relation.AT_MOST, "× time", (1.0, 0.8), False),
        (Relation.AT_MOST, "× time", (1.0, 1.05), False),
        (Relation.AT_LEAST, "×", (4.0, 3.0), True),
        (Relation.AT_LEAST, "×", (4.0, 5.0), False),
        (Relation.AT_LEAST, "×", (4.0, 3.9), False),
    ],
)
def test_a_worse_ratio_is_a_regression(tmp_path, relation, unit, medians, is_worse):
    """A ratio counts as worse in its own direction, beyond the tolerance, and not for being better."""
    runs = [
        kept(tmp_path, f"{name}.json", [
            make_claim(goal=Goal(relation, 1), unit=unit, figure=Spread(value, 0.99 * value, 1.01 * value, 31))
        ])
        for name, value in zip(("before", "after"), medians, strict=True)
    ]  # fmt: skip
    found = compare(*runs)
    assert (1, int(is_worse)) == (len(found.changes), len(found.regressions))
    assert 1 + is_worse == len(found.text.splitlines())


def test_overlapping_quartiles_are_no_regression(tmp_path):
    """A median that moved within what the rounds of both runs cover says nothing."""
    before = kept(tmp_path, "before.json", [make_claim(figure=Spread(1.0, 0.8, 1.3, 31))])
    after = kept(tmp_path, "after.json", [make_claim(figure=Spread(1.2, 1.1, 1.4, 31))])
    assert () == compare(before, after).regressions


def test_times_are_not_compared_and_what_is_missing_is_named(tmp_path):
    """Plain times are left out, since machines change their speed; a ratio that nobody measured any more is named."""
    before = kept(tmp_path, "before.json", [make_claim(unit="ms"), make_claim(what="gone"), make_claim()])
    after = kept(tmp_path, "after.json", [make_claim(unit="ms", figure=Spread(9, 9, 9, 31)), make_claim()])
    found = compare(before, after)
    assert (1, ("gone",), ()) == (len(found.changes), found.missing, found.regressions)


@pytest.mark.parametrize("change", [{"cpu": "Another CPU"}, {"cores": 4}, {"liboqs": "0.16.0"}])
def test_another_machine_is_no_baseline(tmp_path, change):
    """Runs of different machines or libraries are refused, and what differs is named."""
    before, after = (
        kept(tmp_path, "before.json", [make_claim()]),
        kept(tmp_path, "after.json", [make_claim()], **change),
    )
    with pytest.raises(ConfigError, match=next(iter(change))):
        compare(before, after)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"schema": "qflare-bench-1"}'])
def test_a_file_that_is_no_run_is_refused(tmp_path, content):
    """Whatever else a file holds, the error says to run the benchmarks."""
    good, bad = kept(tmp_path, "good.json", [make_claim()]), tmp_path / "bad.json"
    bad.write_text(content)
    with pytest.raises(DecodeError, match="run"):
        compare(bad, good)
    with pytest.raises(ConfigError, match="run"):
        compare(tmp_path / "absent.json", good)
