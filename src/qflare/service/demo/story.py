"""
Who does what when: forms, processes, the sleeper, the revoked, and who takes part in which round.

Plain arithmetic on the options, so that the same options tell the same story, and the reference run its schedule.
"""

from __future__ import annotations

from dataclasses import dataclass

from qflare.service.demo.options import DemoOptions
from qflare.service.demo.result import Form


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """
    A run's plan.

    Attributes:
        device_ids: In order; even places begin with a hello, odd ones answer an offer.
        rotated: Whose keys are rotated in its session, after somebody copied its state.
        attacked: Whose handshake and updates are recorded and sent again.
        revoked: Who is revoked by the operator at half time.
        sleeper: Who sleeps for some rounds, over bucket turns.
        sleep_first: First round that the sleeper misses, zero-based.
        sleep_end: First round that it takes part in again.
        rotate_round: Round before which the rotation falls.
        revoke_round: Round in which the revocation falls: the update made for it is refused.
        attack_round: Round around which the other attacks fall.
        rounds: How many there are.
    """

    device_ids: tuple[str, ...]
    rotated: str
    attacked: str
    revoked: str
    sleeper: str
    sleep_first: int
    sleep_end: int
    rotate_round: int
    revoke_round: int
    attack_round: int
    rounds: int

    def form_of(self, device_id: str) -> Form:
        """Return which form of handshake a device uses."""
        return Form.HELLO if self.device_ids.index(device_id) % 2 == 0 else Form.OFFER

    def awake_in(self, index: int) -> tuple[str, ...]:
        """Return who is asked for an update in round *index*; the revoked is asked in the round of its revocation."""
        return tuple(
            device_id
            for device_id in self.device_ids
            if not (device_id == self.sleeper and self.sleep_first <= index < self.sleep_end)
            and not (device_id == self.revoked and index > self.revoke_round)
        )

    def averaged_in(self, index: int) -> tuple[str, ...]:
        """Return whose updates round *index* averages."""
        return tuple(
            device_id
            for device_id in self.awake_in(index)
            if not (device_id == self.revoked and index >= self.revoke_round)
        )


def tell_story(options: DemoOptions) -> Story:
    """Return the plan of a run: of twenty rounds the sleeper misses those from the 6th to the 13th."""
    digits = len(str(options.devices - 1))
    device_ids = tuple(f"device-{number:0{max(2, digits)}d}" for number in range(options.devices))
    sleep_first = max(1, options.rounds // 4)
    sleep_end = max(sleep_first + 1, options.rounds * 13 // 20)
    return Story(
        device_ids=device_ids,
        rotated=device_ids[1],
        attacked=device_ids[0],
        revoked=device_ids[2],
        sleeper=device_ids[3],
        sleep_first=sleep_first,
        sleep_end=sleep_end,
        rotate_round=sleep_first,
        revoke_round=options.rounds // 2,
        attack_round=min(options.rounds - 1, max(sleep_end, options.rounds * 3 // 4)),
        rounds=options.rounds,
    )
