"""What kind of file system a folder lies on: only one in memory forgets what was overwritten."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

_IN_MEMORY: Final = frozenset({"tmpfs", "ramfs"})
_MOUNT_POINT: Final = 4
"""Field of a line in /proc/self/mountinfo (proc(5)); the type follows the lone hyphen."""


def file_system_of(folder: Path) -> str | None:
    """Return the type of the file system that *folder* lies on, such as ``tmpfs``; None if the kernel does not say."""
    device = os.stat(folder).st_dev  # noqa: PTH116 - the device number is what is compared
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return None
    for line in lines:
        before, _, after = line.partition(" - ")
        fields = before.split()
        if len(fields) > _MOUNT_POINT and fields[2] == wanted and after:
            return after.split()[0]
    return None


def has_swap() -> bool:
    """Tell whether memory may be written to a swap device, from which nothing is erased."""
    try:
        return len(Path("/proc/swaps").read_text(encoding="utf-8").splitlines()) > 1
    except OSError:
        return False


def is_in_memory(file_system: str | None) -> bool:
    """Tell whether a file system of that type keeps nothing on a medium."""
    return file_system in _IN_MEMORY
