"""The tables of roots of unity in csrc/lanes are what FIPS 203 and FIPS 204 say."""

import re
from pathlib import Path

Q, R = 3329, 2**16


def test_zetas():
    """Each entry is zeta^BitRev7(k) in Montgomery form, centred, and that times q^-1, both of 16 bits."""
    text = (Path(__file__).parents[2] / "csrc/lanes/zetas.h").read_text(encoding="utf-8")
    found = [(int(a), int(b)) for a, b in re.findall(r"ZETA\((-?\d+), (-?\d+)\)", text)]
    powers = [pow(17, int(format(k, "07b")[::-1], 2), Q) for k in range(128)]
    assert [power * R % Q for power in powers] == [zeta % Q for zeta, _ in found]
    assert all(2 * abs(zeta) < Q for zeta, _ in found)
    assert [zeta * pow(Q, -1, R) % R for zeta, _ in found] == [product % R for _, product in found]
    assert all(-R // 2 <= product < R // 2 for _, product in found)


def test_zetas_of_mldsa():
    """Each entry is zeta^BitRev8(k) in Montgomery form, centred."""
    text = (Path(__file__).parents[2] / "csrc/lanes/mldsa_zetas.h").read_text(encoding="utf-8")
    found = [int(number) for number in re.findall(r"-?\d+", text.split("= {")[1])]
    modulus = 8380417
    powers = [pow(1753, int(format(k, "08b")[::-1], 2), modulus) for k in range(256)]
    assert [power * 2**32 % modulus for power in powers] == [zeta % modulus for zeta in found]
    assert all(2 * abs(zeta) < modulus for zeta in found)
