"""Keys, ciphertexts and messages that raw liboqs and QFLARE are both given, in the same memory."""

from __future__ import annotations

from functools import cache

import numpy as np

from qflare.primitives import kem
from qflare.primitives.sig import SIG44

CONTEXT = b"bench"
MESSAGE_BYTES = 128


class KemRows:
    """n key pairs with a ciphertext each, and room for outputs."""

    def __init__(self, count: int) -> None:
        pairs = kem.generate_many(count)
        self.ek = as_array(pairs.encapsulation_keys)
        self.dk = as_array(pairs.decapsulation_keys.view())
        self.ct = as_array(kem.encapsulate_many(self.ek).ciphertexts)
        self.one_key_ct = as_array(kem.encapsulate_many(np.tile(self.ek[: kem.EK_BYTES], count)).ciphertexts)
        self.ek_out, self.dk_out = np.zeros_like(self.ek), np.zeros_like(self.dk)
        self.ct_out, self.ss_out = np.zeros_like(self.ct), np.zeros(count * 32, np.uint8)
        self.count = count


class SigRows:
    """n fixed messages under one key, signed, and room for signatures."""

    def __init__(self, count: int) -> None:
        pair = SIG44.generate()
        self.pk, self.sk = as_array(pair.verification_key), as_array(pair.signing_key.view())
        text = np.random.default_rng(44).integers(0, 256, count * MESSAGE_BYTES, np.uint8)
        self.text = text
        self.messages = [text[row * MESSAGE_BYTES : (row + 1) * MESSAGE_BYTES].tobytes() for row in range(count)]
        self.sig = as_array(SIG44.sign_many(self.sk, self.messages, context=CONTEXT).signatures)
        self.sig_out = np.zeros_like(self.sig)
        self.count = count


def as_array(buffer) -> np.ndarray:
    """Lay *buffer* out as bytes that both sides can be given."""
    return np.frombuffer(bytearray(buffer), np.uint8)


@cache
def kem_rows(count: int) -> KemRows:
    return KemRows(count)


@cache
def sig_rows(count: int) -> SigRows:
    return SigRows(count)
