"""What operators do: told where it is more, or graver, than a day's work, whichever process did it."""

import asyncio
import json

import pytest

from attacks.test_attack_log import unlock
from manager_world import Edge, engine_of, managers
from qflare.errors import UsageError
from qflare.model.event import EventSeverity, SecurityEventType
from qflare.model.incident import IncidentState
from qflare.model.rotation import RotationPolicy
from qflare.model.signal import Signal
from qflare.monitor.parameters import OPERATOR_ACT_WEIGHTS


def detection_of(manager):
    return engine_of(manager).detection


async def look(manager):
    """Look and report; return the incident of operators' acts, if there is one."""
    await detection_of(manager).look()
    await detection_of(manager).settle()
    found = [each for each in await manager.monitor.list_incidents() if each.signal is Signal.OPERATOR_ACTS]
    return found[0] if found else None


async def test_a_days_work_is_nothing(database, tmp_path):
    """A tenant, two operators, a policy, tokens and a closed incident, a device taken out: nothing unusual."""
    async with managers(database, tmp_path, 2, detection=True) as (manager, other):
        assert None is await look(manager)
        await other.create_tenant("second")
        await other.add_operator("anna")
        await other.set_rotation_policy(RotationPolicy(max_age_s=86_400 * 30))
        await asyncio.gather(*(other.issue_enrolment_token(f"d{number}") for number in range(20)))
        await Edge.provision(other, "gone")
        await other.revoke_device("gone", reason="retired")
        assert None is await look(manager)


async def test_what_a_stolen_login_would_do_is_an_unusual_act(database, tmp_path):
    """Two names of its own, the identity rotated, another tenant: an incident that says what was done, and how often."""
    async with managers(database, tmp_path, 2, detection=True) as (manager, other):
        assert None is await look(manager)
        await other.add_operator("mallory")
        await other.renew_operator("mallory", reason="lost")
        await other.rotate_identity(reason="because")
        await other.create_tenant("hideout")
        incident = await look(manager)
        assert EventSeverity.WARNING is incident.severity
        seen = json.loads(incident.evidence)["seen"]
        assert set(seen) <= set(OPERATOR_ACT_WEIGHTS)
        # Told from the act on that makes it too much.
        assert sum(seen.values()) >= 1
        row = detection_of(manager).detector.fleets[incident.tenant_id].rates[Signal.OPERATOR_ACTS]
        assert row.count + row.score >= 5 + 5 + 11 + 5 - 2
        before = row.count + row.score
        await look(manager)
        # What one look has seen no other counts again.
        assert row.count + row.score <= before


async def test_an_early_turn_by_two_operators_and_another_are_unusual(database, tmp_path):
    """An early turn alone is a day's work; with a response undone and incidents closed after it, it is more."""
    async with managers(database, tmp_path, detection=True) as (manager,):
        secrets = [await manager.add_operator(name) for name in ("anna", "ben")]
        assert 2 == len(secrets)
        await Edge.provision(manager, "d")
        asked = await manager.respond("quarantine", by="anna", reason="odd", device_id="d")
        await manager.undo_response(asked.response_id, by="ben", reason="sound")
        assert None is await look(manager)
        detector = detection_of(manager).detector
        rate = next(iter(detector.fleets.values())).rates[Signal.OPERATOR_ACTS]
        before = rate.score + rate.count
        turn = await manager.respond("turn", by="anna", reason="leak")
        await manager.confirm_response(turn.response_id, by="ben")
        incident = await look(manager)
        assert rate.score + rate.count >= before + OPERATOR_ACT_WEIGHTS["response carried out: turn"] - 2
        assert EventSeverity.WARNING is incident.severity
        assert "response carried out: turn" in json.loads(incident.evidence)["seen"]


async def test_incidents_cleared_away_at_once_are_unusual(database, tmp_path):
    """Whoever hides something closes many incidents; what an application logs itself is hardly anything."""
    async with managers(database, tmp_path, detection=True) as (manager,):
        await manager.monitor.log_security_events_many(
            [(SecurityEventType.OPERATOR_ACTION, EventSeverity.INFO, {"what": "coffee"}, None)] * 50
        )
        assert None is await look(manager)
        await manager.monitor.log_security_events_many(
            [
                (
                    SecurityEventType.OPERATOR_ACTION,
                    EventSeverity.INFO,
                    {"what": f"incident {IncidentState.CLOSED}"},
                    None,
                )
            ]
            * 30
        )
        incident = await look(manager)
        assert {"incident closed"} == set(json.loads(incident.evidence)["seen"])


async def test_what_a_rule_does_is_no_operators_act(database, tmp_path):
    """A playbook that carries out responses by itself is bounded elsewhere."""
    async with managers(database, tmp_path, detection=True) as (manager,):
        told = {"what": "response carried out", "action": "rekey", "by": "rule of thumb"}
        told = told | {"by": "rule clones"}
        await manager.monitor.log_security_events_many(
            [(SecurityEventType.OPERATOR_ACTION, EventSeverity.INFO, told, None)] * 50
        )
        assert None is await look(manager)


async def test_nobody_is_named_like_a_rule(database, tmp_path):
    """Under such a name acts would pass for a playbook's, which count as nothing."""
    async with managers(database, tmp_path) as (manager,):
        with pytest.raises(UsageError, match="rule"):
            await manager.add_operator("rule 7")


async def test_an_altered_entry_hides_no_act_behind_it(database_dsn, tmp_path, admin):
    """The row is told by itself; acts before and behind it are looked at all the same, and once."""
    async with managers(database_dsn, tmp_path, detection=True) as (manager,):
        assert None is await look(manager)
        await manager.add_operator("anna")
        await unlock(admin)
        changed = await admin.execute(
            "UPDATE qflare.audit_entry SET severity = 'critical' WHERE log_index = (SELECT max(log_index) FROM "
            "qflare.audit_entry WHERE event_type = 'operator_action')"
        )
        assert changed == "UPDATE 1"
        for name in ("bert", "carl", "dora", "emil"):
            await manager.add_operator(name)
        incident = await look(manager)
        assert incident is not None
        fleet = detection_of(manager).detector.fleets[incident.tenant_id]
        before = fleet.rates[Signal.OPERATOR_ACTS].count
        await look(manager)
        assert fleet.rates[Signal.OPERATOR_ACTS].count <= before


def test_every_act_has_its_weight():
    """None is negative, and no act but those that nobody does alone is nothing; two of the gravest are a warning."""
    assert all(0 <= weight <= 11 for weight in OPERATOR_ACT_WEIGHTS.values())
    assert pytest.approx(11) == max(OPERATOR_ACT_WEIGHTS.values())
