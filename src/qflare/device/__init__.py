"""
The edge side: a device's identity, state, sessions and records; the smallest thing that speaks QFX-1.

Names are reached lazily, so that a device that blocks never loads asyncio and one without HTTP never loads httpx.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from qflare.device.async_device import AsyncDevice
    from qflare.device.device import Device
    from qflare.device.records import Reply, SessionTerms
    from qflare.device.transport import AsyncHttpTransport, AsyncTransport, HttpTransport, Step, Transport

__all__ = [
    "AsyncDevice",
    "AsyncHttpTransport",
    "AsyncTransport",
    "Device",
    "HttpTransport",
    "Reply",
    "SessionTerms",
    "Step",
    "Transport",
]

_MODULES: Final = {
    "AsyncDevice": "qflare.device.async_device",
    "AsyncHttpTransport": "qflare.device.transport",
    "AsyncTransport": "qflare.device.transport",
    "Device": "qflare.device.device",
    "HttpTransport": "qflare.device.transport",
    "Reply": "qflare.device.records",
    "SessionTerms": "qflare.device.records",
    "Step": "qflare.device.transport",
    "Transport": "qflare.device.transport",
}


def __getattr__(name: str) -> object:
    """Load the module of a public name at its first use (PEP 562)."""
    if name not in _MODULES:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    value: object = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value
