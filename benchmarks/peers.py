"""The same five operations of other libraries, where they are installed; key objects are made ahead and used again."""

from __future__ import annotations

import ctypes
import ctypes.util
import itertools
import os
import warnings
from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM1024PrivateKey
from inputs import CONTEXT, sig_rows
from interleave import Work


def _signing(sign: Callable[[bytes], object]) -> Work:
    """The fixed messages in turn: all of them a call would take a slow peer half a second."""
    messages = itertools.cycle(sig_rows(64).messages)
    return Work(lambda: sign(next(messages)))


def _of_cryptography() -> dict[str, Work]:
    kem_key, sig_key = MLKEM1024PrivateKey.generate(), MLDSA44PrivateKey.generate()
    kem_public, sig_public = kem_key.public_key(), sig_key.public_key()
    _, ciphertext = kem_public.encapsulate()
    message = sig_rows(64).messages[0]
    signature = sig_key.sign(message, CONTEXT)
    return {
        "keygen": Work(lambda: MLKEM1024PrivateKey.generate().public_key().public_bytes_raw()),
        "encaps": Work(kem_public.encapsulate),
        "decaps": Work(lambda: kem_key.decapsulate(ciphertext)),
        "sign": _signing(lambda message: sig_key.sign(message, CONTEXT)),
        "verify": Work(lambda: sig_public.verify(signature, message, CONTEXT)),
    }


def _of_pqcrypto() -> dict[str, Work]:
    kem, sig = import_module("pqcrypto.kem.ml_kem_1024"), import_module("pqcrypto.sign.ml_dsa_44")
    ek, dk = kem.keygen()
    ciphertext, _ = kem.encaps(ek)
    pk, sk = sig.keygen()
    message = sig_rows(64).messages[0]
    signature = sig.sign(sk, message)
    return {
        "keygen": Work(kem.keygen),
        "encaps": Work(lambda: kem.encaps(ek)),
        "decaps": Work(lambda: kem.decaps(dk, ciphertext)),
        "sign": _signing(lambda message: sig.sign(sk, message)),
        "verify": Work(lambda: sig.verify(pk, message, signature)),
    }


def _of_liboqs_python() -> dict[str, Work]:
    oqs = import_module("oqs")
    kem, sig = oqs.KeyEncapsulation("ML-KEM-1024"), oqs.Signature("ML-DSA-44")
    ek, pk = kem.generate_keypair(), sig.generate_keypair()
    ciphertext, _ = kem.encap_secret(ek)
    message = sig_rows(64).messages[0]
    signature = sig.sign(message)
    maker = oqs.KeyEncapsulation("ML-KEM-1024")
    return {
        "keygen": Work(maker.generate_keypair),
        "encaps": Work(lambda: kem.encap_secret(ek)),
        "decaps": Work(lambda: kem.decap_secret(ciphertext)),
        "sign": _signing(sig.sign),
        "verify": Work(lambda: sig.verify(message, signature, pk)),
    }


_MAKERS = {"cryptography": _of_cryptography, "pqcrypto": _of_pqcrypto, "liboqs-python": _of_liboqs_python}
NAMES = tuple(_MAKERS)


@cache
def works(peer: str) -> dict[str, Work]:
    """Return the operations of a *peer* that is at hand."""
    return _MAKERS[peer]()


@cache
def absence(peer: str) -> str:
    """Say why *peer* cannot be measured; empty if it can."""
    try:
        version(peer)
    except PackageNotFoundError:
        return "not installed"
    if peer != "liboqs-python":
        return ""
    # WHY before the import: `import oqs` without the library would clone and build one.
    if not any(map(_loads, _library_names())):
        return "installed, but the shared library of liboqs is not at hand"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of a library of another version, which the table says too
        try:
            import_module("oqs")
        except (AttributeError, ImportError) as failure:
            return f"installed, but does not work with the liboqs at hand: {failure}"
    return ""


def said_of(peer: str) -> str:
    """Return what the table says of *peer*: its version, or why it is not measured."""
    absent = absence(peer)
    if absent:
        return f"{peer} not measured ({absent})"
    library = f" over liboqs {import_module('oqs').oqs_version()}" if peer == "liboqs-python" else ""
    return f"{peer} {version(peer)}{library}"


def _library_names() -> list[str]:
    """Return what `import oqs` would load, in its order."""
    folder = Path(os.environ.get("OQS_INSTALL_PATH", Path.home() / "_oqs"))
    found = [ctypes.util.find_library("liboqs"), ctypes.util.find_library("oqs")]
    return [name for name in found if name] + [str(folder / part / "liboqs.so") for part in ("lib", "lib64")]


def _loads(name: str) -> bool:
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True
