"""
The detector's figures, as bounds: what docs/detection.md shows must not become worse (`make detection-report`).

The observations are recordings of the real protocol (tests/detection), made anew each time these tests run.
"""

import asyncio

import pytest

from detection import report
from detection.fleet import CALM, FLAKY
from detection.measuring import PLANS, measure_attack, measure_honest
from qflare.model.event import EventSeverity

BOUNDS = {
    # (act, whether it is spread, acts an hour): seconds within which it must be found, in each trial.
    ("forged_hello", False, 6.0): 2000,
    ("forged_hello", True, 600.0): 300,
    ("forged_record", False, 6.0): 2000,
    ("broken_hello", False, 300.0): 700,
    ("bad_ticket", False, 300.0): 700,
    ("replayed_hello", False, 1200.0): 1800,
    ("replayed_record", False, 12.0): 6600,
    ("replayed_record", True, 2400.0): 450,
    ("old_hello", False, 4000.0): 700,
    ("clone", False, 6.0): 1700,
    ("old_keys", False, 6.0): 2000,
    ("low_entropy", False, 0.2): 21_600,
    ("one_source", False, 0.2): 21_600,
    ("same_seed_again", False, 0.2): 22_200,
    ("scan", False, 1200.0): 500,
    ("announcements_alone", False, 20_000.0): 1400,
    ("half_open", False, 30.0): 5000,
    ("half_open", True, 6000.0): 400,
    ("guessed_token", False, 60.0): 900,
    ("revoked_device", False, 6.0): 1700,
    ("poisoned_update", False, 0.2): 21_600,
}
"""One and a half times what was measured when a parameter was last changed."""
_MANY = 6000
"""Acts an hour from which on one trial must do: it is a hundred thousand observations."""


@pytest.fixture(scope="module")
def episodes():
    """Recordings of the real protocol."""
    return asyncio.run(report.record_all())


def test_recordings_hold_what_they_are_called(episodes):
    """Each recording has observations, and of honest devices only refusals that honest devices have."""
    heard = {episode.name: {each.reason for _, each in episode.seen} - {None} for episode in episodes}
    assert all(episode.seen for episode in episodes)
    assert {"bucket"} == heard["stale_announcement"] == heard["late_m3"]
    assert {"replay"} == heard["doubled_by_the_network"]
    assert {"signature"} == heard["forged_hello"]
    assert set() == heard["session"] == heard["offered_session"] == heard["reboot"] == heard["clone"]


def test_an_honest_week_of_a_thousand_devices_raises_no_critical_alarm(episodes):
    """A calm week of a thousand devices raises nothing at all; a hundred with bad links nothing critical."""
    calm = measure_honest(episodes, CALM, devices=1000, days=7)
    assert calm.observations > 150_000
    assert () == calm.alarms
    flaky = measure_honest(episodes, FLAKY, devices=100, days=7)
    assert 0 == flaky.rate(EventSeverity.CRITICAL)
    assert 0 == flaky.rate(EventSeverity.ERROR)
    assert flaky.rate(EventSeverity.WARNING) < 1.0


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: plan.act + ("-spread" if plan.is_spread else ""))
def test_attacks_are_found_as_often_and_as_soon_as_they_were(episodes, plan):
    """Each attack is found in every trial, within its bound."""
    strengths = [an_hour for act, is_spread, an_hour in BOUNDS if (act, is_spread) == (plan.act, plan.is_spread)]
    assert strengths
    for an_hour in strengths:
        result = measure_attack(episodes, plan, an_hour, trials=1 if an_hour >= _MANY else 2)
        assert 1.0 == result.rate
        assert max(result.times_s) <= BOUNDS[plan.act, plan.is_spread, an_hour]


def test_the_document_is_that_of_these_parameters():
    """docs/detection.md was written after its text or a parameter was last changed."""
    page = report.DOCUMENT.read_text()
    lines = [line for line in report.TEXT.read_text().splitlines() if "{" not in line]
    assert all(line in page for line in lines)
    assert all(rules in page for rules in report.rules_tables())
    for plan in PLANS:
        assert page.count(f"| {plan.act.replace('_', ' ')} | ") >= len(plan.strengths)
