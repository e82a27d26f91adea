"""
The live page: what one tenant's operators see of their fleet, served on a loopback address of its own.

Everything is rendered here; the browser gets a style sheet, a script and an event stream from the same address, and
nothing from any other.  Devices never reach it: it has its own listener, which is off unless `page_address` is set.
"""

from __future__ import annotations

from qflare.service.page.application import Page
from qflare.service.page.settings import PageSettings

__all__ = ["Page", "PageSettings"]
