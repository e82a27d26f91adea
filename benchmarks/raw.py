"""The raw reference: `raw_liboqs.c` built against the very liboqs that is in the extension, called in this process."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "build" / "bench"
_SOURCE = ROOT / "benchmarks" / "raw_liboqs.c"


class Raw:
    """liboqs's own calls; arguments are writable or readable buffers of numpy."""

    def __init__(self) -> None:
        """Build what is missing and load it."""
        self._library = ctypes.CDLL(str(_built("libraw_liboqs.so", "-shared")))
        self._library.raw_version.restype = ctypes.c_char_p
        self._library.raw_permutations.restype = ctypes.c_uint64
        self._library.raw_start()

    @property
    def version(self) -> str:
        """Return the version of the liboqs that is linked."""
        return self._library.raw_version().decode()

    def keygen(self, ek, dk, count: int) -> None:
        """Write *count* key pairs."""
        _good(self._library.raw_keygen(_at(ek), _at(dk), ctypes.c_size_t(count)))

    def encaps(self, ct, ss, ek, count: int) -> None:
        """Encapsulate to each key."""
        _good(self._library.raw_encaps(_at(ct), _at(ss), _at(ek), ctypes.c_size_t(count)))

    def decaps(self, ss, ct, dk, count: int, *, is_one_key: bool = False) -> None:
        """Decapsulate each ciphertext, with its own key or all with one."""
        step = ctypes.c_size_t(0 if is_one_key else 3168)
        _good(self._library.raw_decaps(_at(ss), _at(ct), _at(dk), step, ctypes.c_size_t(count)))

    def sign(self, sig, sk, text, *, size: int, context: bytes, count: int) -> None:
        """Sign rows of *size* bytes under one key."""
        _good(
            self._library.raw_sign(
                _at(sig),
                _at(sk),
                ctypes.c_size_t(0),
                _at(text),
                ctypes.c_size_t(size),
                context,
                ctypes.c_size_t(len(context)),
                ctypes.c_size_t(count),
            )
        )

    def verify(self, sig, pk, text, *, size: int, context: bytes, count: int, is_one_key: bool = True) -> None:
        """Verify rows of *size* bytes under one key, or each under its own."""
        step = ctypes.c_size_t(0 if is_one_key else 1312)
        _good(
            self._library.raw_verify(
                _at(sig),
                _at(pk),
                step,
                _at(text),
                ctypes.c_size_t(size),
                context,
                ctypes.c_size_t(len(context)),
                ctypes.c_size_t(count),
            )
        )

    def permutations(self, count: int) -> int:
        """Apply Keccak-f[1600] *count* times, to as many states at once as the C core does."""
        return self._library.raw_permutations(ctypes.c_size_t(count))


class PinnedPair:
    """Two raw processes, each pinned to a core of its own."""

    def __init__(self, operation: str, count: int) -> None:
        """Start both and wait until their inputs are made."""
        cores = sorted(os.sched_getaffinity(0))[:2]
        if len(cores) < 2:
            raise RuntimeError("two pinned processes need two cores")
        program = _built("raw_liboqs")
        self._processes = [
            subprocess.Popen(  # noqa: S603 - our own program
                [str(program), operation, str(count), str(core)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
            )
            for core in cores
        ]
        self._await()

    def run(self) -> None:
        """Let both do their operations, and wait for the slower one."""
        for process in self._processes:
            process.stdin.write(b"g")
        self._await()

    def close(self) -> None:
        """End both."""
        for process in self._processes:
            process.stdin.close()
            process.wait(10)
            process.stdout.close()

    def _await(self) -> None:
        for process in self._processes:
            if process.stdout.read(1) != b"r" and process.poll() is not None:
                raise RuntimeError("raw_liboqs ended")


def libraries_in_use() -> tuple[Path, Path, list[str]]:
    """Return our core and the liboqs that the extension was linked with, and the flags that find its headers."""
    for ninja in sorted(ROOT.glob("build/cp*/build.ninja")):
        text = ninja.read_text(encoding="utf-8")
        library = re.search(r"LINK_LIBRARIES = .*?(\S*liboqs\.(?:a|so)\S*)", text)
        headers = re.search(r"INCLUDES = .*?-isystem (\S+)", text)
        core = ninja.parent / "libqflare_core.a"
        if library is not None and core.exists():
            return core, Path(library[1]), [] if headers is None else ["-isystem", headers[1]]
    raise RuntimeError("the build folder does not say which liboqs was used: run `make clean`, then `make bench`")


def _built(name: str, *flags: str) -> Path:
    core, library, headers = libraries_in_use()
    target = FOLDER / name
    newest = max(path.stat().st_mtime for path in (_SOURCE, core, library))
    if target.exists() and target.stat().st_mtime > newest:
        return target
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise RuntimeError("the raw reference needs a C compiler: install gcc")
    FOLDER.mkdir(parents=True, exist_ok=True)
    command = [
        compiler,
        "-std=gnu11",
        "-O3",
        "-fPIC",
        "-fvisibility=default",
        *flags,
        "-I",
        str(ROOT / "csrc"),
        *headers,
        str(_SOURCE),
        str(core),
        str(library),
        "-lpthread",
        "-Wl,-z,defs",
        f"-Wl,-rpath,{library.parent}",
        "-o",
        str(target),
    ]
    subprocess.run(command, check=True)  # noqa: S603 - the compiler
    return target


def _at(array) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def _good(failed: int) -> None:
    if failed:
        raise RuntimeError("liboqs refused what it was given")
