"""`make detection-report`: measures the detector and writes docs/detection.md."""

import asyncio
import time
from pathlib import Path

from qflare.model.event import EventSeverity
from qflare.monitor import parameters

from . import attacks, honest
from .fleet import AWFUL, CALM, FLAKY, OUTAGE, RESTLESS
from .measuring import (
    ATTACK_S,
    BACKGROUND_DEVICES,
    PLANS,
    measure_attack,
    measure_honest,
)
from .recording import open_stage

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "detection.md"
TEXT = Path(__file__).with_name("document.md")
PROFILES = (CALM, FLAKY, AWFUL, RESTLESS, OUTAGE)
DEVICES, DAYS, TRIALS = 1000, 7, 5


async def record_all(opened=None):
    """Play every episode against the real manager, over the memory store or what *opened* opens; return recordings."""
    async with opened or open_stage() as stage:
        return [await stage.record(episode) for episode in (*honest.EPISODES, *attacks.ACTS)]


def honest_table(results):
    """The table of false alarms."""
    lines = [
        "| honest fleet | devices | days | device-years | observations | warnings a device-year | errors a device-year | critical |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for each in results:
        critical = sum(alarm.severity is EventSeverity.CRITICAL for alarm in each.alarms)
        lines.append(
            f"| {each.profile} | {each.devices:,} | {each.days} | {each.device_years:.1f} | {each.observations:,} "
            f"| {each.rate(EventSeverity.WARNING):.2f} | {each.rate(EventSeverity.ERROR):.2f} | {critical} |"
        )
    return "\n".join(lines)


def attack_table(results):
    """The table of attacks."""
    lines = [
        "| attack | against | acts an hour | found as | detection rate | median time to detect |",
        "|---|---|---|---|---|---|",
    ]
    for each in results:
        signals = ", ".join(f"`{signal.value}`" for signal in each.plan.signals)
        against = f"{BACKGROUND_DEVICES} devices in turn" if each.plan.is_spread else "one device, or none by name"
        lines.append(
            f"| {each.plan.act.replace('_', ' ')} | {against} | {each.an_hour:g} | {signals} "
            f"| {each.rate:.0%} of {each.trials} | {_duration(each.median_s)} |"
        )
    return "\n".join(lines)


def acts_list():
    """What each act and each honest episode is, in its own words."""

    def of(functions):
        return "\n".join(f"- *{each.__name__.replace('_', ' ')}*: {each.__doc__.strip()}" for each in functions)

    return of(attacks.ACTS), of(honest.EPISODES)


def _duration(seconds):
    if seconds is None:
        return "not found"
    return f"{seconds} s" if seconds < 600 else f"{seconds / 60:.0f} min"


def rules_tables():
    """The rows of both tables of rules, from the parameters."""
    rules = "\n".join(
        f"| `{signal.value}` | {rule.allowed:g} an hour | {_ladder(rule.ladder)} |"
        for signal, rule in parameters.DEVICE_RULES.items()
    )
    fleet = "\n".join(
        f"| `{signal.value}` | {rule.allowed:g} a minute, and {rule.share:g} for each message taken | {_ladder(rule.ladder)} |"
        for signal, rule in parameters.FLEET_RULES.items()
    )
    return rules, fleet


def write(honest_results, attack_results):
    """Put the document together."""
    acts, episodes = acts_list()
    rules, fleet = rules_tables()
    DOCUMENT.write_text(
        TEXT.read_text()
        .replace("{honest}", honest_table(honest_results))
        .replace("{attacks}", attack_table(attack_results))
        .replace("{acts}", acts)
        .replace("{episodes}", episodes)
        .replace("{device_rules}", rules)
        .replace("{fleet_rules}", fleet)
        .replace("{hours}", f"{ATTACK_S // 3600}")
        .replace("{background}", f"{BACKGROUND_DEVICES}")
    )


def _ladder(ladder):
    return ", ".join(f"{rung:g}: {severity.value}" for rung, severity in ladder)


def main():
    """Measure, and write the document."""
    begun = time.monotonic()
    episodes = asyncio.run(record_all())
    honest_results = []
    for profile in PROFILES:
        honest_results.append(measure_honest(episodes, profile, devices=DEVICES, days=DAYS))
        print(f"{profile.name}: {len(honest_results[-1].alarms)} alarms", flush=True)  # noqa: T201 - a report
    attack_results = []
    for plan in PLANS:
        for an_hour in plan.strengths:
            attack_results.append(measure_attack(episodes, plan, an_hour, trials=TRIALS))
            print(f"{plan.act} at {an_hour:g}: {attack_results[-1].rate:.0%}", flush=True)  # noqa: T201 - a report
    write(honest_results, attack_results)
    print(f"{DOCUMENT} in {time.monotonic() - begun:.0f} s")  # noqa: T201 - a report


if __name__ == "__main__":
    main()
