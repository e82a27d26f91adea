"""The wheel: one file that carries all it needs and works without a compiler."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

AT_HOME = """
import sys
sys.path[:0] = [sys.argv[1]]
sys.path.append(sys.argv[2])
"""

USE_IT = """
import qflare, importlib.resources
from qflare.primitives import kem, sig
from qflare.primitives.about import native_about
assert qflare.__file__.startswith(sys.argv[1]), qflare.__file__
assert native_about().extension.startswith(sys.argv[1])
pair = kem.generate()
made = kem.encapsulate(pair.encapsulation_key)
assert kem.decapsulate(pair.decapsulation_key, made.ciphertext).equals(made.shared_secret)
keys = sig.SIG44.generate()
sig.SIG44.verify(keys.verification_key, b"m", sig.SIG44.sign(keys.signing_key, b"m", context=b""), context=b"")
assert (importlib.resources.files("qflare") / "database").is_dir()
print("works")
"""

USE_DEVICE = """
import importlib, pkgutil
import qflare
assert qflare.__file__.startswith(sys.argv[1]), qflare.__file__
for floor in ("_native", "primitives", "protocol", "model", "device"):
    package = importlib.import_module(f"qflare.{floor}")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"qflare.{floor}.{module.name}")
for name in ("Device", "AsyncDevice", "DeviceKeyMapping", "Evidence", "SecretBytes", "Refusal", "QflareError"):
    getattr(qflare, name)
print("works")
"""


def build(folder, **environment):
    """Build a wheel as `pip wheel .` does, with the build requirements that are installed."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    command = [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "--wheel-dir", folder]
    result = subprocess.run(
        [*command, "-C", f"build-dir={folder}/build"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
        env={**os.environ, "PATH": path, **environment},
    )
    assert result.returncode == 0, result.stdout + result.stderr
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel that is published."""
    return build(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def device_wheel(tmp_path_factory):
    """The wheel for devices: the same without the server and the demo."""
    return build(tmp_path_factory.mktemp("device-wheel"), QFLARE_WHEEL="device")


def test_it_is_one_abi3_wheel_of_small_size(wheel):
    """The wheel serves every Python from 3.11 on, and its C part stays within what an edge device is promised."""
    assert wheel.name.startswith("qflare-0.1.0-cp311-abi3-")
    with zipfile.ZipFile(wheel) as archive:
        (extension,) = [info for info in archive.infolist() if info.filename.endswith(".so")]
    assert extension.filename == "qflare/_native/_qflare.abi3.so"
    assert extension.compress_size < 400_000


def test_it_carries_licences_types_and_sql(wheel):
    """Our licence, those of what is inside, the types marker and the SQL files travel with the code."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = archive.read("qflare-0.1.0.dist-info/METADATA").decode()
        about_liboqs = [name for name in names if "/licenses/liboqs/" in name]
    assert "qflare/py.typed" in names
    assert "qflare-0.1.0.dist-info/licenses/LICENSE" in names
    assert "License-Expression: Apache-2.0" in metadata
    on_disk = {f"qflare/{path.relative_to(ROOT)}" for path in (ROOT / "database").rglob("*.sql")}
    assert on_disk <= names
    origin = subprocess.run(
        [sys.executable, "-c", "from qflare.primitives.about import native_about as a; print(a().liboqs_origin)"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    # A liboqs that was installed by someone else is linked as they built it, and brings its licence itself.
    if origin.stdout.startswith("built from"):
        assert {f"LICENSE.{part}.txt" for part in ("liboqs", "mlkem-native", "pqcrystals-dilithium", "brg_endian")} <= {
            Path(name).name for name in about_liboqs
        }


def test_base_requirements_are_two(wheel):
    """An edge device installs cffi and cryptography, nothing else."""
    with zipfile.ZipFile(wheel) as archive:
        metadata = archive.read("qflare-0.1.0.dist-info/METADATA").decode()
    required = [line for line in metadata.splitlines() if line.startswith("Requires-Dist:") and "extra ==" not in line]
    assert [line.split()[1].split(">")[0] for line in required] == ["cffi", "cryptography"]


def run_unpacked(wheel, folder, program, *arguments):
    """Run *program* where the wheel is unpacked alone, beside cffi and cryptography, with no program in reach."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    packages = next(path for path in sys.path if path.endswith("site-packages"))
    # -S keeps the editable install of the working tree out of the way.
    return subprocess.run(
        [sys.executable, "-S", "-c", AT_HOME + program, str(folder), packages, *arguments],
        capture_output=True, text=True, check=False, timeout=60, env={"PATH": ""}, cwd=folder,
    )  # fmt: skip


def test_it_works_without_a_compiler(wheel, tmp_path):
    """Unpacked alone, it makes keys and signatures."""
    result = run_unpacked(wheel, tmp_path, USE_IT)
    assert result.stdout == "works\n", result.stderr


def test_the_wheel_for_devices_is_small(device_wheel):
    """What a device is sent is at most 400 KB and has no server in it."""
    with zipfile.ZipFile(device_wheel) as archive:
        parts = {name.split("/")[1] for name in archive.namelist() if name.startswith("qflare/")}
    assert device_wheel.stat().st_size <= 400_000
    assert {"_native", "primitives", "protocol", "model", "device", "cli", "py.typed"} <= parts
    assert not parts & {"service", "manager", "monitor", "stores", "testing", "database"}


def test_the_wheel_for_devices_has_all_a_device_imports(device_wheel, tmp_path):
    """Every module in it that needs no extra can be imported, and the device's public names are there."""
    result = run_unpacked(device_wheel, tmp_path, USE_DEVICE)
    assert result.stdout == "works\n", result.stderr


def test_the_wheel_for_devices_says_what_it_lacks(device_wheel, tmp_path):
    """A name or a command of the server is refused with the remedy."""
    result = run_unpacked(device_wheel, tmp_path, "import qflare\nqflare.QuantumKeyManager")
    assert "QuantumKeyManager needs qflare.service, which the wheel for devices leaves out" in result.stderr
    program = "import sys\nfrom qflare.cli.main import run\nsys.exit(run(sys.argv[3:]))"
    for command in (("doctor",), ("serve", "--port", "1"), ("audit", "verify", "--deep"), ("tokens", "list")):
        result = run_unpacked(device_wheel, tmp_path, program, *command)
        assert result.returncode == 2, result.stderr
        assert "which the wheel for devices leaves out: install the whole wheel" in result.stderr
        assert "Traceback" not in result.stderr
    result = run_unpacked(device_wheel, tmp_path, program, "device", "show", "--state", "missing.state")
    assert "leaves out" not in result.stderr
    assert result.returncode == 2, result.stderr


@pytest.mark.skipif(shutil.which("nm") is None, reason="no binutils")
def test_only_the_init_symbol_is_visible(wheel, tmp_path):
    """The extension exports its init function alone, and no symbol of liboqs that another library could meet."""
    with zipfile.ZipFile(wheel) as archive:
        path = archive.extract("qflare/_native/_qflare.abi3.so", tmp_path)
    lines = subprocess.run(["nm", "-D", "--defined-only", path], capture_output=True, text=True, check=True).stdout
    assert [line.split()[-1] for line in lines.splitlines()] == ["PyInit__qflare"]
