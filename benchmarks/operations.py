"""The five operations of ML-KEM-1024 and ML-DSA-44, three ways: QFLARE one by one, QFLARE in a batch, raw liboqs."""

from __future__ import annotations

from inputs import CONTEXT, MESSAGE_BYTES, kem_rows, sig_rows
from interleave import Work

from qflare.primitives import kem
from qflare.primitives.engine import Engine
from qflare.primitives.sig import SIG44

NAMES = {
    "keygen": "ML-KEM-1024 key generation",
    "encaps": "ML-KEM-1024 encapsulation",
    "decaps": "ML-KEM-1024 decapsulation",
    "sign": "ML-DSA-44 signing",
    "verify": "ML-DSA-44 verification",
}


def single(operation: str) -> Work:
    """One call through Python does one operation; the fixed messages come one after the other."""
    kems, sigs = kem_rows(64), sig_rows(64)
    ek, dk, ct = bytes(kems.ek[: kem.EK_BYTES]), bytes(kems.dk[: kem.DK_BYTES]), bytes(kems.ct[: kem.CT_BYTES])
    sk, pk, signature = bytes(sigs.sk), bytes(sigs.pk), bytes(sigs.sig[: SIG44.SIG_BYTES])
    if operation == "sign":
        messages = sigs.messages

        def sign_all() -> None:
            for message in messages:
                SIG44.sign(sk, message, context=CONTEXT)

        return Work(sign_all, items=len(messages))
    calls = {
        "keygen": kem.generate,
        "encaps": lambda: kem.encapsulate(ek),
        "decaps": lambda: kem.decapsulate(dk, ct),
        "verify": lambda: SIG44.verify(pk, sigs.messages[0], signature, context=CONTEXT),
    }
    return Work(calls[operation])


def batch(operation: str, count: int, engine: Engine | None = None) -> Work:
    """One call through Python does *count* operations, by *engine* or by what the process chose."""
    kems, sigs = kem_rows(count), sig_rows(count)
    calls = {
        "keygen": lambda: kem.generate_many(count, engine=engine),
        "encaps": lambda: kem.encapsulate_many(kems.ek, engine=engine),
        "decaps": lambda: kem.decapsulate_many(kems.dk, kems.ct, engine=engine),
        "sign": lambda: SIG44.sign_many(sigs.sk, sigs.messages, context=CONTEXT),
        "verify": lambda: SIG44.verify_many(sigs.pk, sigs.messages, sigs.sig, context=CONTEXT, engine=engine),
    }
    return Work(calls[operation], items=count)


def plain(raw, operation: str, count: int) -> Work:
    """Raw liboqs on the same arrays."""
    kems, sigs = kem_rows(count), sig_rows(count)
    calls = {
        "keygen": lambda: raw.keygen(kems.ek_out, kems.dk_out, count),
        "encaps": lambda: raw.encaps(kems.ct_out, kems.ss_out, kems.ek, count),
        "decaps": lambda: raw.decaps(kems.ss_out, kems.ct, kems.dk, count),
        "sign": lambda: raw.sign(sigs.sig_out, sigs.sk, sigs.text, size=MESSAGE_BYTES, context=CONTEXT, count=count),
        "verify": lambda: raw.verify(sigs.sig, sigs.pk, sigs.text, size=MESSAGE_BYTES, context=CONTEXT, count=count),
    }
    return Work(calls[operation], items=count)


def block_s(operation: str) -> float:
    """Seconds a block takes: signing needs many to have a mean."""
    return 0.04 if operation == "sign" else 0.005
