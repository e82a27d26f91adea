"""Where the build gets liboqs from, and what it says when it cannot."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = str(Path(sys.executable).parent)
CMAKE = shutil.which("cmake", path=os.pathsep.join((SCRIPTS, os.environ["PATH"])))

pytestmark = pytest.mark.skipif(CMAKE is None, reason="no cmake: pip install cmake")


def configure(folder, *definitions, **environment):
    """Run CMake's configure step of the project, without the extension; return exit code and text."""
    command = [CMAKE, "-S", ROOT, "-B", folder, "-DQFLARE_EXTENSION=OFF"]
    if shutil.which("ninja", path=os.pathsep.join((SCRIPTS, os.environ["PATH"]))):
        command += ["-G", "Ninja"]
    inherited = {"PATH": os.pathsep.join((SCRIPTS, os.environ["PATH"])), "HOME": os.environ.get("HOME", "/")}
    if "XDG_CACHE_HOME" in os.environ:
        inherited["XDG_CACHE_HOME"] = os.environ["XDG_CACHE_HOME"]
    result = subprocess.run(
        [*command, *(f"-D{definition}" for definition in definitions)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**inherited, **environment},
    )
    return result.returncode, result.stdout + result.stderr


def bare_path(folder, **scripts):
    """Make a folder of programs that has a compiler and what CMake needs, but no cargo, git or pkg-config."""
    folder.mkdir()
    for name in ("cc", "gcc", "ld", "as", "ar", "ranlib", "ninja", "make", "sh", "nm", "strip"):
        found = shutil.which(name, path=os.pathsep.join((SCRIPTS, os.environ["PATH"])))
        if found:
            (folder / name).symlink_to(found)
    for name, text in scripts.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return str(folder)


@pytest.fixture(scope="module")
def prefix(tmp_path_factory):
    """A liboqs that is there: the one this machine's builds keep."""
    code, text = configure(tmp_path_factory.mktemp("source"), "QFLARE_LIBOQS=source")
    if code != 0:
        pytest.skip("the pinned source of liboqs cannot be had here")
    return Path(re.search(r"liboqs: kept in (\S+)", text)[1])


def test_a_kept_build_is_found_again(prefix, tmp_path):
    """The second build takes what the first one made: nothing is fetched or compiled."""
    code, text = configure(tmp_path / "build", "QFLARE_LIBOQS=source", PATH=bare_path(tmp_path / "bin"))
    assert code == 0, text
    assert f"kept in {prefix}" in text
    assert "fetching" not in text
    assert {"LICENSE.liboqs.txt", "LICENSE.mlkem-native.txt"} <= {path.name for path in (prefix / "licenses").iterdir()}


def test_a_given_root_is_used(prefix, tmp_path):
    """QFLARE_LIBOQS_ROOT names the liboqs to use."""
    code, text = configure(tmp_path, f"QFLARE_LIBOQS_ROOT={prefix}")
    assert code == 0, text
    assert "liboqs: installed, QFLARE_LIBOQS_ROOT" in text


def test_an_installed_cmake_package_comes_first(prefix, tmp_path):
    """A liboqs that CMake finds as a package is used before anything is fetched."""
    code, text = configure(tmp_path, f"CMAKE_PREFIX_PATH={prefix}")
    assert code == 0, text
    assert "liboqs: installed, CMake package" in text


@pytest.mark.skipif(shutil.which("pkg-config") is None, reason="no pkg-config")
def test_pkg_config_is_asked(prefix, tmp_path):
    """A liboqs that only pkg-config knows is used before anything is fetched."""
    (tmp_path / "liboqs.pc").write_text(
        f"prefix={prefix}\nName: liboqs\nDescription: d\nVersion: 0\nCflags: -I${{prefix}}/include\n"
        "Libs: -L${prefix}/lib -loqs\n"
    )
    code, text = configure(tmp_path / "build", "CMAKE_DISABLE_FIND_PACKAGE_liboqs=ON", PKG_CONFIG_PATH=str(tmp_path))
    assert code == 0, text
    assert "liboqs: installed, pkg-config" in text


def test_a_root_without_liboqs_is_refused(tmp_path):
    """A wrong QFLARE_LIBOQS_ROOT is an error that names it and the remedy, not a search elsewhere."""
    code, text = configure(tmp_path / "build", f"QFLARE_LIBOQS_ROOT={tmp_path}")
    assert code != 0
    told = " ".join(text.split())
    assert f"QFLARE_LIBOQS_ROOT={tmp_path} holds no liboqs" in told
    assert "Correct the path" in told


def test_a_liboqs_that_lacks_a_scheme_is_refused(tmp_path):
    """What a liboqs lacks is found by trying, and named."""
    (tmp_path / "include/oqs").mkdir(parents=True)
    (tmp_path / "include/oqs/oqs.h").write_text(
        '#include <stdint.h>\n#include <stddef.h>\n#define OQS_VERSION_TEXT "9.9.9"\n'
    )
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib/liboqs.a").write_bytes(b"!<arch>\n")
    code, text = configure(tmp_path / "build", f"QFLARE_LIBOQS_ROOT={tmp_path}")
    assert code != 0
    told = " ".join(text.split())
    for name in ("ML-KEM-1024", "ML-DSA-44 with context strings", "ML-DSA-87", "OQS_randombytes_custom_algorithm"):
        assert name in told


def test_nothing_possible_is_one_error_with_the_ways_out(tmp_path):
    """Without an installed liboqs, cargo, git and cache, one error says what was tried and what to do."""
    code, text = configure(
        tmp_path / "build",
        "CMAKE_DISABLE_FIND_PACKAGE_liboqs=ON",
        "CMAKE_FIND_USE_CMAKE_SYSTEM_PATH=OFF",  # programs in PATH only, not in /usr/bin too
        PATH=bare_path(tmp_path / "bin"),
        XDG_CACHE_HOME=str(tmp_path / "cache"),
    )
    assert code != 0
    assert text.count("CMake Error") == 1
    told = " ".join(text.split())
    for part in (
        "could not get it. Tried:",
        "CMake package liboqs: not found",
        "pkg-config: not installed",
        "cargo is not installed",
        "git is not installed",
        "Ways out",
        "QFLARE_LIBOQS_ROOT=/path/to/prefix",
    ):
        assert part in told


@pytest.mark.parametrize("has_own", [False, True])
def test_a_cargo_of_rustups_finds_its_toolchains_under_another_home(tmp_path, has_own):
    """They are told where they lie, beside that cargo's folder, unless HOME has some of its own."""
    (tmp_path / "user/.cargo").mkdir(parents=True)
    (tmp_path / "user/.rustup").mkdir()
    (tmp_path / "home/.rustup").mkdir(parents=True)  # as rustup makes it at its first call
    if has_own:
        (tmp_path / "home/.rustup/toolchains").mkdir()
    tell = '#!/bin/sh\necho "toolchains at <${RUSTUP_HOME-none}>" >&2\nexit 1\n'
    code, text = configure(
        tmp_path / "build",
        "QFLARE_LIBOQS=source",
        PATH=bare_path(tmp_path / "user/.cargo/bin", cargo=tell, git="#!/bin/sh\nexit 1\n"),
        HOME=str(tmp_path / "home"),
        XDG_CACHE_HOME=str(tmp_path / "cache"),
    )
    assert code != 0
    told = "none" if has_own else str(tmp_path / "user/.rustup")
    assert f"toolchains at <{told}>" in " ".join(text.split())


def test_a_package_with_another_hash_is_refused(tmp_path):
    """Source that is not byte for byte the pinned one is not built, whoever delivers it."""
    cargo = (
        "#!/bin/sh\nset -e\nd=$CARGO_HOME/registry/cache/some\n/bin/mkdir -p $d\n"
        "echo other > $d/oqs-sys-0.11.0+liboqs-0.13.0.crate\n"
    )
    git = '#!/bin/sh\nfor last; do :; done\n/bin/mkdir -p "$last/src"\necho other > "$last/CMakeLists.txt"\n'
    code, text = configure(
        tmp_path / "build",
        "QFLARE_LIBOQS=source",
        PATH=bare_path(tmp_path / "bin", cargo=cargo, git=git),
        XDG_CACHE_HOME=str(tmp_path / "cache"),
    )
    assert code != 0
    told = " ".join(text.split())
    assert "the crate: the package's SHA-256 is" in told
    assert "git: the checkout's sources have SHA-256" in told
    assert told.count("refused") >= 2
    assert not list((tmp_path / "cache").rglob("*.a"))
