"""What ends a run of the demo: one error, which says what happened and where to look."""

from __future__ import annotations

from qflare.errors import QflareError


class DemoError(QflareError):
    """The demo cannot go on; the message names what ended or was not as it must be, and the log that says more."""
