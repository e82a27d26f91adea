"""
QFLARE: post-quantum sessions between an aggregation server and its edge devices.

Implements FIPS 203 (ML-KEM-1024) and FIPS 204 (ML-DSA-44, ML-DSA-87) through liboqs, and QFX-1 on them.

Public names are loaded at their first use (PEP 562): `import qflare` brings neither a database driver nor a web
framework, and an edge device needs neither.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from qflare.device.async_device import AsyncDevice
    from qflare.device.device import Device
    from qflare.device.key_mapping import DeviceKeyMapping
    from qflare.errors import (
        AuthenticationError,
        EvidenceError,
        KeyNotFoundError,
        OverloadedError,
        QflareError,
        RefusedError,
        SessionUsedUpError,
        StoreUnavailableError,
        UncoveredError,
        UsageError,
    )
    from qflare.manager.device_keypair import DeviceKeypair
    from qflare.manager.key_mapping import KeyMapping, ServerKeypair
    from qflare.manager.mappings import SecureKeyMapper
    from qflare.manager.policies import RotationPlan
    from qflare.manager.record import OpenedRecord
    from qflare.manager.settings import ManagerSettings
    from qflare.model.event import EventSeverity, LoggedEvent, SecurityEventType
    from qflare.model.ids import DEFAULT_TENANT
    from qflare.model.refusal import Refusal
    from qflare.model.rotation import RotationMark, RotationPolicy, RotationProgress
    from qflare.model.session import Session
    from qflare.model.statistics import KeyStatistics
    from qflare.monitor.audit import LogReport
    from qflare.monitor.dashboard import SecurityDashboard
    from qflare.monitor.held import HeldReceipt
    from qflare.monitor.proof import EventProof
    from qflare.protocol.evidence import Evidence
    from qflare.protocol.rotation import Urgency
    from qflare.secret import SecretBytes
    from qflare.service.aggregator import Aggregator, AggregatorSettings
    from qflare.service.exchange import CompletedExchange, DevicePublicKey, KeyExchange, SessionKeyRequest
    from qflare.service.key_manager import QuantumKeyManager
    from qflare.service.security_monitor import SecurityMonitor
    from qflare.service.versions import About, about

_MODULES: Final = {
    "About": "qflare.service.versions",
    "Aggregator": "qflare.service.aggregator",
    "AggregatorSettings": "qflare.service.aggregator",
    "AsyncDevice": "qflare.device.async_device",
    "AuthenticationError": "qflare.errors",
    "CompletedExchange": "qflare.service.exchange",
    "DEFAULT_TENANT": "qflare.model.ids",
    "Device": "qflare.device.device",
    "DeviceKeyMapping": "qflare.device.key_mapping",
    "DeviceKeypair": "qflare.manager.device_keypair",
    "DevicePublicKey": "qflare.service.exchange",
    "EventProof": "qflare.monitor.proof",
    "EventSeverity": "qflare.model.event",
    "Evidence": "qflare.protocol.evidence",
    "EvidenceError": "qflare.errors",
    "HeldReceipt": "qflare.monitor.held",
    "KeyExchange": "qflare.service.exchange",
    "KeyMapping": "qflare.manager.key_mapping",
    "KeyNotFoundError": "qflare.errors",
    "KeyStatistics": "qflare.model.statistics",
    "LogReport": "qflare.monitor.audit",
    "LoggedEvent": "qflare.model.event",
    "ManagerSettings": "qflare.manager.settings",
    "OpenedRecord": "qflare.manager.record",
    "OverloadedError": "qflare.errors",
    "QflareError": "qflare.errors",
    "QuantumKeyManager": "qflare.service.key_manager",
    "Refusal": "qflare.model.refusal",
    "RefusedError": "qflare.errors",
    "RotationMark": "qflare.model.rotation",
    "RotationPlan": "qflare.manager.policies",
    "RotationPolicy": "qflare.model.rotation",
    "RotationProgress": "qflare.model.rotation",
    "SecretBytes": "qflare.secret",
    "SecureKeyMapper": "qflare.manager.mappings",
    "SecurityDashboard": "qflare.monitor.dashboard",
    "SecurityEventType": "qflare.model.event",
    "SecurityMonitor": "qflare.service.security_monitor",
    "ServerKeypair": "qflare.manager.key_mapping",
    "Session": "qflare.model.session",
    "SessionKeyRequest": "qflare.service.exchange",
    "SessionUsedUpError": "qflare.errors",
    "StoreUnavailableError": "qflare.errors",
    "UncoveredError": "qflare.errors",
    "Urgency": "qflare.protocol.rotation",
    "UsageError": "qflare.errors",
    "about": "qflare.service.versions",
}

__all__ = [
    "DEFAULT_TENANT",
    "About",
    "Aggregator",
    "AggregatorSettings",
    "AsyncDevice",
    "AuthenticationError",
    "CompletedExchange",
    "Device",
    "DeviceKeyMapping",
    "DeviceKeypair",
    "DevicePublicKey",
    "EventProof",
    "EventSeverity",
    "Evidence",
    "EvidenceError",
    "HeldReceipt",
    "KeyExchange",
    "KeyMapping",
    "KeyNotFoundError",
    "KeyStatistics",
    "LogReport",
    "LoggedEvent",
    "ManagerSettings",
    "OpenedRecord",
    "OverloadedError",
    "QflareError",
    "QuantumKeyManager",
    "Refusal",
    "RefusedError",
    "RotationMark",
    "RotationPlan",
    "RotationPolicy",
    "RotationProgress",
    "SecretBytes",
    "SecureKeyMapper",
    "SecurityDashboard",
    "SecurityEventType",
    "SecurityMonitor",
    "ServerKeypair",
    "Session",
    "SessionKeyRequest",
    "SessionUsedUpError",
    "StoreUnavailableError",
    "UncoveredError",
    "Urgency",
    "UsageError",
    "__version__",
    "about",
]

_EXTRAS: Final = {"asyncpg": "server", "starlette": "server", "uvicorn": "server", "httpx": "http"}
"""Packages that a public name may need, and the extra that brings each."""


def __getattr__(name: str) -> object:
    """Load the module of a public name at its first use."""
    if name == "__version__":
        from importlib.metadata import version

        value: object = version("qflare")
    elif name in _MODULES:
        try:
            value = getattr(import_module(_MODULES[name]), name)
        except ModuleNotFoundError as missing:
            package = missing.name or ""
            is_left_out = package.startswith("qflare.")  # by the wheel for devices
            if package not in _EXTRAS and not is_left_out:
                raise
        else:
            package = ""
        if package:
            from qflare.errors import MissingExtraError

            raise MissingExtraError(feature=f"qflare.{name}", extra=_EXTRAS.get(package, "server"), package=package)
    else:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted(__all__)
