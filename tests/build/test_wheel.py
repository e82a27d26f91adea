"""The wheel: one file that carries all it needs and works without a compiler."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

USE_IT = """
import sys
sys.path[:0] = [sys.argv[1]]
sys.path.append(sys.argv[2])
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


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Build the wheel as `pip wheel .` does, with the build requirements that are installed."""
    folder = tmp_path_factory.mktemp("wheel")
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    command = [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "--wheel-dir", folder]
    result = subprocess.run(
        [*command, "-C", f"build-dir={folder}/build"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
        env={**os.environ, "PATH": path},
    )
    assert result.returncode == 0, result.stdout + result.stderr
    (path,) = folder.glob("*.whl")
    return path


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


def test_it_works_without_a_compiler(wheel, tmp_path):
    """Unpacked alone beside cffi and cryptography, with no program in reach, it makes keys and signatures."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    packages = next(path for path in sys.path if path.endswith("site-packages"))
    # -S keeps the editable install of the working tree out of the way.
    result = subprocess.run(
        [sys.executable, "-S", "-c", USE_IT, str(tmp_path), packages],
        capture_output=True, text=True, check=False, timeout=60, env={"PATH": ""}, cwd=tmp_path,
    )  # fmt: skip
    assert result.stdout == "works\n", result.stderr


@pytest.mark.skipif(shutil.which("nm") is None, reason="no binutils")
def test_only_the_init_symbol_is_visible(wheel, tmp_path):
    """The extension exports its init function alone, and no symbol of liboqs that another library could meet."""
    with zipfile.ZipFile(wheel) as archive:
        path = archive.extract("qflare/_native/_qflare.abi3.so", tmp_path)
    lines = subprocess.run(["nm", "-D", "--defined-only", path], capture_output=True, text=True, check=True).stdout
    assert [line.split()[-1] for line in lines.splitlines()] == ["PyInit__qflare"]
