"""The table of roots of unity in csrc/lanes is what FIPS 203 says."""

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
