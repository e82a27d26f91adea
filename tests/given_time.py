"""Bounds of time that the project promises, asked of the project and not of what else its machine does."""

import time
from pathlib import Path

PRESSURE = Path("/proc/pressure")
SETTLE_S = 2.5
"""The kernel adds up what was waited for every two seconds."""
UNTOLD_S = 30.0
"""What a machine is let off that does not say how long its processes waited."""


class GivenTime:
    """The time since this was made, without that in which a process of this machine waited for a processor or a disk."""

    def __init__(self):
        self._begun = time.monotonic()
        self._stalled_s = stalled_s()

    def is_within(self, bound_s, *, took_s=None):
        """Whether no more than *bound_s* passed (or *took_s*, of something within that time), as told above."""
        took_s = time.monotonic() - self._begun if took_s is None else took_s
        if took_s <= bound_s:
            return True
        # A quiet machine never comes here, so nobody waits for nothing.
        time.sleep(SETTLE_S)
        now = stalled_s()
        return took_s - (UNTOLD_S if now is None or self._stalled_s is None else now - self._stalled_s) <= bound_s


def stalled_s():
    """Seconds in which some process waited although it could have run, since the machine started; None if untold."""
    try:
        lines = [(PRESSURE / what).read_text().partition("\n")[0] for what in ("cpu", "io", "memory")]
        ticks = int(Path("/proc/stat").read_text().split("\n", 1)[0].split()[8])
    except (OSError, IndexError):
        return None
    # Beside these, what a virtual machine was not given: 100 ticks a second, as Linux tells them to everybody.
    return sum(int(line.rpartition("total=")[2]) / 1e6 for line in lines) + ticks / 100
