"""
Fleets over long times: episodes that were recorded from the real protocol, played again for many devices.

Each playing gets the device's own name, and sessions and random values of its own; what belongs together in the
recording belongs together in the playing.  Nothing else of an observation is changed, and none is made up.
"""

import hashlib
import heapq
import math
import random
from dataclasses import dataclass

from qflare.model.ids import DEFAULT_TENANT

from .recording import START_S

DAY_S = 86_400


def ref_of(number):
    """The name of a device of the fleet."""
    return hashlib.sha256(b"fleet %d" % number).digest()


@dataclass(frozen=True, slots=True)
class Profile:
    """How often an honest device does what, a day."""

    name: str
    daily: dict
    """Playings a day, by name of the episode."""
    outage_s: int | None = None
    """When the whole fleet wakes with announcements of before."""


_CALM = {
    "session": 3.0,
    "offered_session": 0.5,
    "reboot": 0.2,
    "asleep_for_hours": 0.3,
    "asleep_for_days": 0.1,
    "care_of_keys": 0.05,
    "burst": 0.1,
    "drifting_clock": 0.1,
    "lost_m2": 0.05,
    "lost_m4": 0.05,
    "stale_announcement": 0.05,
    "overtaken": 0.01,
}
CALM = Profile("calm", _CALM)
FLAKY = Profile(
    "flaky links",
    _CALM
    | {
        "lost_m2": 1.0,
        "lost_every_m2": 0.5,
        "lost_m4": 1.0,
        "lost_answers_to_records": 1.0,
        "doubled_by_the_network": 0.5,
        "stale_announcement": 0.5,
        "late_m3": 0.5,
        "another_answer_to_one_offer": 0.1,
        "overtaken": 0.05,
    },
)
AWFUL = Profile(
    "links that lose or double something every two hours",
    _CALM | {"lost_every_m2": 4.0, "doubled_by_the_network": 4.0, "lost_m2": 2.0, "stale_announcement": 2.0},
)
RESTLESS = Profile("restless: reboots, sleep, bursts", _CALM | {"reboot": 4.0, "asleep_for_days": 1.0, "burst": 2.0})
OUTAGE = Profile("calm, with an outage for all", _CALM, outage_s=3 * DAY_S)


class Player:
    """Plays episodes for devices, in order of time."""

    def __init__(self, episodes, seed):
        self.episodes = {episode.name: episode for episode in episodes}
        self.random = random.Random(seed)
        self._sessions = 0

    def play(self, name, at_s, refs):
        """Observations of one playing: (time, observation); *refs* stand for the devices of the recording, in order."""
        episode = self.episodes[name]
        names, drawn = {}, {}
        numbers = sorted({each.number for _, each in episode.seen if each.number})
        ranks = {number: self._sessions + place for place, number in enumerate(numbers, 1)}
        self._sessions += len(numbers)
        played = []
        for offset_s, each in episode.seen:
            ref = each.ref
            if ref is not None:
                if ref not in names:
                    names[ref] = refs[len(names) % len(refs)]
                ref = names[ref]
            played.append(
                (
                    at_s + offset_s,
                    each._replace(
                        tenant_id=None if each.tenant_id is None else DEFAULT_TENANT,
                        ref=ref,
                        mark=self._fresh(drawn, each.mark),
                        other=self._fresh(drawn, each.other),
                        number=ranks[each.number] if each.number else 0,
                    ),
                )
            )
        return played

    def honest(self, profile, *, devices, seconds, begin_s=START_S):
        """Everything that a fleet does in that time, in order."""
        playings = []
        names, rates = zip(*profile.daily.items(), strict=True)
        total = sum(rates)
        for number in range(devices):
            at_s = begin_s
            outage_s = None if profile.outage_s is None else begin_s + profile.outage_s
            while True:
                at_s += int(self.random.expovariate(total / DAY_S)) + 1
                if outage_s is not None and at_s >= outage_s:
                    # All within ten minutes, with the announcement of before.
                    at_s = outage_s + int(self.random.uniform(0, 600))
                    playings.append((at_s, number, "stale_announcement"))
                    at_s += self.episodes["stale_announcement"].span_s
                    outage_s = None
                    continue
                if at_s >= begin_s + seconds:
                    break
                (name,) = self.random.choices(names, rates)
                playings.append((at_s, number, name))
                # A device does one thing after the other.
                at_s += self.episodes[name].span_s + 1
        playings.sort()
        return self._merged((at_s, name, (ref_of(number),)) for at_s, number, name in playings)

    def attack(self, name, *, an_hour, seconds, begin_s, targets):
        """One act again and again, at random times, against devices of *targets* in turn."""
        count = max(1, math.ceil(an_hour * seconds / 3600))
        times = sorted(self.random.uniform(0, seconds) for _ in range(count))
        acts = (
            (begin_s + int(at), name, (ref_of(targets[n % len(targets)]), ref_of(targets[(n + 1) % len(targets)])))
            for n, at in enumerate(times)
        )
        return self._merged(acts)

    def _merged(self, playings):
        """Play in order of beginning, and give out in order of time."""
        waiting, number = [], 0
        for at_s, name, refs in playings:
            while waiting and waiting[0][0] <= at_s:
                due_s, _, observation = heapq.heappop(waiting)
                yield due_s, observation
            for due_s, observation in self.play(name, at_s, refs):
                number += 1
                heapq.heappush(waiting, (due_s, number, observation))
        while waiting:
            due_s, _, observation = heapq.heappop(waiting)
            yield due_s, observation

    def _fresh(self, drawn, value):
        if not value:
            return value
        if value not in drawn:
            drawn[value] = self.random.randbytes(len(value))
        return drawn[value]
