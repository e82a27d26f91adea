"""The detection corpus over PostgreSQL: what is measured over the memory store (docs/detection.md) holds there too."""

from collections import Counter

from detection import report
from detection.fleet import CALM
from detection.measuring import PLANS, measure_attack, measure_honest
from detection.recording import open_database_stage
from qflare.model.observation import ANNOUNCEMENT


def heard(episode):
    """What was seen, without when: how often each step was taken or refused, and whether it named a device."""
    return Counter(
        (each.step, each.reason, each.tenant_id is None, each.ref is None, bool(each.mark))
        for _, each in episode.seen
        if each.step != ANNOUNCEMENT
    )


async def test_an_honest_fleet_and_each_attack_over_postgresql(database_dsn, tmp_path):
    """Each episode is to the detector what it is over the memory store; the honest raise nothing, attacks are found."""
    recorded = await report.record_all(open_database_stage(database_dsn, tmp_path))
    in_memory = {episode.name: heard(episode) for episode in await report.record_all()}
    assert in_memory == {episode.name: heard(episode) for episode in recorded}
    honest = measure_honest(recorded, CALM, devices=200, days=1)
    assert honest.observations > 2000
    assert () == honest.alarms
    for plan in PLANS:
        if not plan.is_spread:
            # The second strength is the first that is found at once over the memory store.
            an_hour = plan.strengths[:2][-1]
            assert 1.0 == measure_attack(recorded, plan, an_hour, trials=1).rate, plan
