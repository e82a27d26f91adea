"""
Which observations prove that their device did what it is accused of, and which anybody can cause in its name.

An incident names the device whose name stood in the messages.  Most of what is refused was not authentic: whoever knows
a device's ref, or has seen a session id pass by, can send such messages in its name.  And what is authentic may be sent
again, held back or reordered by whoever carries it.  So a rule may act against a device by itself only on observations
that nobody but the holder of the device's keys can cause, however much else is piled on top of them (docs/security.md).
"""

from __future__ import annotations

import json
from typing import Final

PROVEN: Final = {
    "hello drawn twice": "two hellos with one ephemeral key, each signed by the device",
    "confirm drawn twice": "one ciphertext in two sessions, each under a tag of the device",
    "record drawn twice": "one stream id in two sessions, each record sealed by the device",
    "control key-version": "a rotation from a key version that is past, inside a session of the device",
    "control conflict": "a second rekey in the place of one that stands, inside a session of the device",
    "control signature": "a rotation whose signature does not hold, inside a session of the device",
    "norm far from the device's own": "an update that the device sealed; that it is bad is a guess",
}
"""By what the detector says it saw: why only the device can have caused it."""


def count_proven(evidence: bytes) -> int:
    """
    Return how many of the observations in an incident's evidence only its device can have caused.

    Args:
        evidence: Canonical JSON as the detector wrote it; what cannot be read proves nothing.
    """
    try:
        facts: object = json.loads(evidence)
    except ValueError:
        return 0
    seen: object = facts.get("seen") if isinstance(facts, dict) else None
    if not isinstance(seen, dict):
        return 0
    counts = [count for what, count in seen.items() if what in PROVEN and type(count) is int]
    return sum(count for count in counts if count > 0)
