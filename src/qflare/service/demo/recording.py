"""
A device's way to the servers: over one worker or the other, keeping what went over the wire for those who attack it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qflare.device.transport import Step

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qflare.device.transport import Transport


class RecordingTransport:
    """
    `Transport` over several workers; the device's owner says which one carries the next messages.

    The transports under it are shared by many devices and closed by whoever made them.
    """

    def __init__(self, workers: Sequence[Transport]) -> None:
        """Carry over the first of *workers* until told otherwise."""
        self._workers = workers
        self.worker = 0
        """Index of the worker that carries the next message."""
        self.sent: dict[Step, bytes] = {}
        """The last message of each step, as it was sent."""
        self.answers: dict[Step, bytes] = {}
        """The last answer of each step, as it came."""
        self.last: Step | None = None
        """The step that was answered last."""

    def exchange(self, step: Step, message: bytes | bytearray) -> bytes:
        """Return the worker's answer to *message*."""
        self.sent[step] = bytes(message)
        answer = self._workers[self.worker].exchange(step, message)
        self.answers[step], self.last = answer, step
        return answer

    def close(self) -> None:
        """Leave the shared transports open."""
