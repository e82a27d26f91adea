"""The second opinion: it stands in the evidence of fleets' incidents, and opens none."""

import json
import random
import sys

import pytest

from manager_world import Edge, managers
from memory_world import make_memory_store
from qflare.errors import ConfigError, MissingExtraError
from qflare.manager.settings import ManagerSettings
from qflare.model.ids import DEFAULT_TENANT
from qflare.model.observation import HELLO, RECORD, Observation
from qflare.model.refusal import Refusal
from qflare.model.signal import Signal
from qflare.monitor import parameters
from qflare.monitor.detector import Detector
from qflare.monitor.opinion import load_opinions
from qflare.testing import TurnableClock

pytest.importorskip("river", reason="pip install 'qflare[detect]'")

NOW_S = 1_700_000_040


def fed(minutes, *, has_opinion):
    """A detector after so many honest minutes, and the time it is."""
    detector = Detector(TurnableClock(NOW_S), devices_max=256, marks_max=1024)
    if has_opinion:
        detector.new_opinion = load_opinions()
    generator = random.Random(3)
    for minute in range(minutes):
        for number in range(generator.randrange(20, 30)):
            record = Observation(RECORD, None, DEFAULT_TENANT, b"%032d" % number, generator.randbytes(8), b"sid", 1)
            detector.take(record, NOW_S + 60 * minute)
    return detector, NOW_S + 60 * minutes


def attack(detector, now_s):
    """Two minutes of broken hellos; return the suspicion."""
    for number in range(400):
        detector.take(Observation(HELLO, Refusal.TAG), now_s + number // 200 * 60)
    (suspicion,) = detector.suspicions.take()
    assert Signal.BROKEN_MESSAGES is suspicion.signal
    return suspicion


def test_an_attack_is_more_unusual_than_honest_minutes():
    """After an hour or two honest minutes are usual, and the attack's evidence says how unusual it is."""
    detector, now_s = fed(3 * parameters.OPINION_WINDOW, has_opinion=True)
    honest = detector.fleet_of(DEFAULT_TENANT).unusual
    unusual = attack(detector, now_s).facts["unusual_percent"]
    assert 0 <= honest < unusual <= 100
    assert {} == {each.signal: each for each in detector.suspicions.take()}


def test_what_is_found_does_not_depend_on_it():
    """With and without an opinion the same is suspected, equally often and as gravely."""
    found = [attack(*fed(150, has_opinion=has_opinion)) for has_opinion in (True, False)]
    for name in ("signal", "severity", "count", "score", "first_s"):
        assert getattr(found[0], name) == getattr(found[1], name), name
    assert "unusual_percent" not in found[1].facts


def test_nothing_is_said_before_enough_is_known():
    """A young opinion is none."""
    detector, now_s = fed(parameters.OPINION_WINDOW, has_opinion=True)
    assert "unusual_percent" not in attack(detector, now_s).facts


async def test_a_manager_is_told_to_ask_for_it(tmp_path):
    """With the setting the detector has an opinion, and works as without it."""
    async with managers(make_memory_store(), tmp_path, detection=True, detection_opinion=True) as (manager,):
        edge = await Edge.provision(manager)
        await edge.connect(manager)
        detection = manager._opening.value.detection
        await detection.settle()
        assert detection.detector.fleet_of(DEFAULT_TENANT).opinion is not None
        assert () == await manager.monitor.list_incidents()


async def test_without_the_extra_it_is_refused_by_name(tmp_path, monkeypatch):
    """Who asks for an opinion that cannot be had is told which extra lacks, instead of getting none."""
    monkeypatch.setitem(sys.modules, "river", None)
    with pytest.raises(MissingExtraError, match=r"qflare\[detect\]"):
        async with managers(make_memory_store(), tmp_path, detection=True, detection_opinion=True):
            raise AssertionError
    with pytest.raises(ConfigError, match="detection_opinion"):
        ManagerSettings(detection_opinion="yes")


def test_evidence_with_an_opinion_is_canonical():
    """Percent are whole numbers: the log takes no others."""
    detector, now_s = fed(3 * parameters.OPINION_WINDOW, has_opinion=True)
    assert isinstance(json.loads(attack(detector, now_s).evidence())["unusual_percent"], int)
