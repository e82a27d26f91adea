"""How handshakes ended, counted by form, result and true reason: for operators, never for a peer (PROTOCOL N5)."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from qflare.errors import RefusedError
from qflare.manager.failures import reason_of
from qflare.protocol import wire

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qflare.errors import QflareError

_FORMS: Final = {wire.TYPE_M3: "hello", wire.TYPE_ANSWER: "offer"}
UNKNOWN_FORM: Final = "unknown"
NO_REASON: Final = "none"


class Outcomes:
    """The ends of one worker's handshakes; every key comes from a fixed set, whatever peers send."""

    def __init__(self) -> None:
        """Begin with none."""
        self.counts: Counter[tuple[str, str, str]] = Counter()
        """By form (hello, offer, unknown), result (established, repeated, refused, failed) and reason."""

    def stand(self, messages: Sequence[bytes], *, is_repeated: bool) -> None:
        """Count the sessions that stand by *messages*, each M3 or ANSWER: a batch at a time, since they are many."""
        result = "repeated" if is_repeated else "established"
        for kind, form in _FORMS.items():
            count = sum([message[0] == kind for message in messages])
            if count:
                self.counts[form, result, NO_REASON] += count

    def fails(self, message: bytes, failure: QflareError) -> None:
        """Count *failure* of *message*, which may be anything: by its reason if refused, else by its error."""
        form = _FORMS.get(message[0], UNKNOWN_FORM) if message else UNKNOWN_FORM
        if isinstance(failure, RefusedError):
            self.counts[form, "refused", str(failure.reason)] += 1
        else:
            self.counts[form, "failed", reason_of(failure)] += 1
