"""
ML-DSA signing written plainly from FIPS 204: slow, variable time, for tests only.

It shares no code with what it checks, and it can be told to make signatures whose z is *outside* its bound, which no
honest signer does: the one way to see that a verifier looks at the bound.
"""

from dataclasses import dataclass
from hashlib import shake_128, shake_256

import numpy as np

Q = 8380417
D = 13


@dataclass(frozen=True)
class Parameters:
    """FIPS 204, Table 1; eta is 2 in both sets that are here."""

    k: int
    l: int  # noqa: E741  # the standard's letter
    tau: int
    beta: int
    gamma1_bits: int
    gamma2: int
    omega: int
    c_tilde_bytes: int


SETS = {
    44: Parameters(4, 4, 39, 78, 17, (Q - 1) // 88, 80, 32),
    87: Parameters(8, 7, 60, 120, 19, (Q - 1) // 32, 75, 64),
}

ZETAS = [pow(1753, int(f"{index:08b}"[::-1], 2), Q) for index in range(256)]


def ntt(poly):
    """Algorithm 41."""
    w, m, length = [int(value) for value in poly], 0, 128
    while length >= 1:
        for start in range(0, 256, 2 * length):
            m += 1
            for j in range(start, start + length):
                t = ZETAS[m] * w[j + length] % Q
                w[j + length], w[j] = (w[j] - t) % Q, (w[j] + t) % Q
        length //= 2
    return np.array(w, dtype=np.int64)


def inverse_ntt(poly):
    """Algorithm 42."""
    w, m, length = [int(value) for value in poly], 256, 1
    while length < 256:
        for start in range(0, 256, 2 * length):
            m -= 1
            for j in range(start, start + length):
                t = w[j]
                w[j], w[j + length] = (t + w[j + length]) % Q, -ZETAS[m] * (t - w[j + length]) % Q
        length *= 2
    return np.array([value * 8347681 % Q for value in w], dtype=np.int64)


def multiply(a, b):
    """Multiply in Z_q[X]/(X^256 + 1); one factor has small coefficients, so 64 bits hold the sums."""
    full = np.convolve(a, b)
    low, high = full[:256], np.append(full[256:], 0)
    return (low - high) % Q


def expand_a(rho, p):
    """Algorithm 32: the matrix, in the NTT domain."""

    def entry(row, column):
        stream, found, at = shake_128(rho + bytes((column, row))).digest(2000), [], 0
        while len(found) < 256:
            value = int.from_bytes(stream[at : at + 3], "little") & 0x7FFFFF
            at += 3
            if value < Q:
                found.append(value)
        return np.array(found, dtype=np.int64)

    return [[entry(row, column) for column in range(p.l)] for row in range(p.k)]


def unpack(data, bits):
    """Read little-endian integers of *bits* bits."""
    whole, mask = int.from_bytes(data, "little"), (1 << bits) - 1
    return np.array([whole >> (bits * index) & mask for index in range(len(data) * 8 // bits)], dtype=np.int64)


def pack(values, bits):
    """Write little-endian integers of *bits* bits."""
    return sum(int(value) << (bits * index) for index, value in enumerate(values)).to_bytes(
        len(values) * bits // 8, "little"
    )


def centered(poly):
    """Map to the representatives around zero."""
    return (poly + Q // 2) % Q - Q // 2


def decompose(poly, gamma2):
    """Algorithm 36, for a whole polynomial."""
    r = poly % Q
    low = (r + gamma2 - 1) % (2 * gamma2) - gamma2 + 1  # r mod± 2 gamma2, in (-gamma2, gamma2]
    wraps = r - low == Q - 1
    return np.where(wraps, 0, (r - low) // (2 * gamma2)), np.where(wraps, low - 1, low)


def sample_in_ball(seed, tau):
    """Algorithm 29."""
    stream = shake_256(seed).digest(1000)
    signs, at, c = int.from_bytes(stream[:8], "little"), 8, np.zeros(256, dtype=np.int64)
    for i in range(256 - tau, 256):
        while stream[at] > i:
            at += 1
        j = stream[at]
        at += 1
        c[i], c[j] = c[j], 1 - 2 * (signs >> (i + tau - 256) & 1)
    return c


def sign(parameter_set, sk, message, context, *, rnd=bytes(32), acceptable=None):
    """
    Algorithm 7 with Algorithm 2's message: the signature that *rnd* gives.

    *acceptable* replaces the norm bound of step 23: it says of the norm of z, less gamma1 - beta, whether it will do.
    """
    acceptable = acceptable or (lambda excess: excess < 0)
    p = SETS[parameter_set]
    gamma1 = 1 << p.gamma1_bits
    rho, key, tr, rest = sk[:32], sk[32:64], sk[64:128], sk[128:]
    small = [2 - unpack(rest[96 * index : 96 * (index + 1)], 3) for index in range(p.l + p.k)]
    s1, s2, rest = small[: p.l], small[p.l :], rest[96 * (p.l + p.k) :]
    t0 = [(1 << (D - 1)) - unpack(rest[416 * index : 416 * (index + 1)], 13) for index in range(p.k)]
    matrix = expand_a(rho, p)
    mu = shake_256(tr + bytes((0, len(context))) + context + message).digest(64)
    rho2 = shake_256(key + rnd + mu).digest(64)
    width = 32 * (p.gamma1_bits + 1)
    for kappa in range(0, 2000 * p.l, p.l):
        seeds = [rho2 + (kappa + index).to_bytes(2, "little") for index in range(p.l)]
        y = [gamma1 - unpack(shake_256(seed).digest(width), p.gamma1_bits + 1) for seed in seeds]
        y_hat = [ntt(poly % Q) for poly in y]
        w = [inverse_ntt(sum(a * b % Q for a, b in zip(row, y_hat, strict=True)) % Q) for row in matrix]
        w1 = [decompose(poly, p.gamma2)[0] for poly in w]
        w1_bits = 6 if parameter_set == 44 else 4
        c_tilde = shake_256(mu + b"".join(pack(poly, w1_bits) for poly in w1)).digest(p.c_tilde_bytes)
        c = sample_in_ball(c_tilde, p.tau)
        z = [centered(a + multiply(c, b)) for a, b in zip(y, s1, strict=True)]
        rest_w = [(a - multiply(c, b)) % Q for a, b in zip(w, s2, strict=True)]
        r0 = max(abs(decompose(poly, p.gamma2)[1]).max() for poly in rest_w)
        norm = max(abs(poly).max() for poly in z)
        encodable = max(poly.max() for poly in z) <= gamma1 and min(poly.min() for poly in z) > -gamma1
        if not acceptable(norm - (gamma1 - p.beta)) or not encodable or r0 >= p.gamma2 - p.beta:
            continue
        ct0 = [multiply(c, poly) for poly in t0]
        if max(abs(centered(poly)).max() for poly in ct0) >= p.gamma2:
            continue
        hints = [
            np.flatnonzero(decompose(a + b, p.gamma2)[0] != decompose(a, p.gamma2)[0])
            for a, b in zip(rest_w, ct0, strict=True)
        ]
        if sum(map(len, hints)) > p.omega:
            continue
        positions = [int(at) for hint in hints for at in hint]
        counts = [sum(map(len, hints[: index + 1])) for index in range(p.k)]
        encoded_hints = bytes(positions + [0] * (p.omega - len(positions)) + counts)
        return c_tilde + b"".join(pack(gamma1 - poly, p.gamma1_bits + 1) for poly in z) + encoded_hints
    raise AssertionError("no signature found")
