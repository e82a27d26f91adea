"""What no vector file proves: the hint encoding of FIPS 204, Algorithm 21, and the norm bounds of verification."""

import pytest
from plain_mldsa import SETS, sign

from engines import sig_engine  # noqa: F401  # a fixture
from qflare.errors import AuthenticationError
from qflare.primitives.random import drawing_from
from qflare.primitives.sig import SIG44, SIG87

pytestmark = pytest.mark.usefixtures("sig_engine")

SCHEMES = pytest.mark.parametrize("scheme", [SIG44, SIG87], ids=lambda scheme: scheme.name)


class Signed:
    """A key, a message, and a signature taken apart at its hints."""

    def __init__(self, scheme, number=0):
        self.scheme = scheme
        p = SETS[scheme.parameter_set]
        self.omega, self.k = p.omega, p.k
        self.pair = scheme.generate_from_seed(bytes([number]) * 32)
        self.message = b"message %d" % number
        with drawing_from(bytes(32)):
            self.signature = scheme.sign(self.pair.signing_key, self.message, context=b"")
        self.hints_at = scheme.SIG_BYTES - p.omega - p.k

    @property
    def positions(self):
        return list(self.signature[self.hints_at : self.hints_at + self.omega])

    @property
    def counts(self):
        return list(self.signature[self.hints_at + self.omega :])

    def accepts(self, positions, counts):
        altered = self.signature[: self.hints_at] + bytes(positions) + bytes(counts)
        assert len(altered) == self.scheme.SIG_BYTES
        status = self.scheme.verify_many(self.pair.verification_key, [self.message], altered, context=b"")
        try:
            self.scheme.verify(self.pair.verification_key, self.message, altered, context=b"")
        except AuthenticationError:
            assert status[0] != 0
            return False
        assert status[0] == 0
        return True


@SCHEMES
def test_hint_positions_out_of_order_are_refused(scheme):
    """Two positions of one polynomial swapped name the same hints, and are refused all the same (step 9)."""
    signed = Signed(scheme)
    positions, counts = signed.positions, signed.counts
    assert signed.accepts(positions, counts)
    tried = 0
    for first, last in zip([0, *counts[:-1]], counts, strict=True):
        for at in range(first, last - 1):
            swapped = positions.copy()
            swapped[at], swapped[at + 1] = swapped[at + 1], swapped[at]
            assert not signed.accepts(swapped, counts)
            tried += 1
    assert tried > 10


@SCHEMES
def test_repeated_hint_positions_are_refused(scheme):
    """A position given twice names the same hints, and is refused (step 9)."""
    signed = Signed(scheme)
    positions, counts = signed.positions, signed.counts
    total = counts[-1]
    assert total < signed.omega
    assert counts[-2] < total
    repeated = positions.copy()
    repeated[total] = positions[total - 1]
    assert not signed.accepts(repeated, [*counts[:-1], total + 1])


@SCHEMES
def test_hint_padding_must_be_zero(scheme):
    """Any byte behind the last position that is not zero is refused (step 16)."""
    signed = Signed(scheme)
    positions, counts = signed.positions, signed.counts
    assert counts[-1] < signed.omega
    for at in range(counts[-1], signed.omega):
        for value in (1, 0x80, 0xFF):
            assert not signed.accepts([*positions[:at], value, *positions[at + 1 :]], counts)


@SCHEMES
def test_hint_counts_must_not_fall_or_exceed_omega(scheme):
    """The running counts must never fall, nor pass omega (step 4)."""
    signed = Signed(scheme)
    positions, counts = signed.positions, signed.counts
    for at in range(signed.k):
        for value in (signed.omega + 1, 0xFF):
            assert not signed.accepts(positions, [*counts[:at], value, *counts[at + 1 :]])
        if at and counts[at - 1]:
            assert not signed.accepts(positions, [*counts[:at], counts[at - 1] - 1, *counts[at + 1 :]])


@SCHEMES
def test_plain_signer_is_the_standard_s(scheme):
    """The plain implementation that the next test rests on gives byte for byte the library's signatures."""
    for number in range(2):
        signed = Signed(scheme, number)
        secret = bytes(signed.pair.signing_key.view())
        assert signed.signature == sign(scheme.parameter_set, secret, signed.message, b"")


@SCHEMES
def test_a_z_outside_its_bound_is_refused(scheme):
    """A signature whose equation holds but whose z reaches gamma1 - beta is refused: the bound alone decides."""
    signed = Signed(scheme)
    secret = bytes(signed.pair.signing_key.view())
    for number in range(3):
        rnd = bytes([number]) * 32
        honest = sign(scheme.parameter_set, secret, signed.message, b"ctx", rnd=rnd)
        scheme.verify(signed.pair.verification_key, signed.message, honest, context=b"ctx")
        oversized = sign(
            scheme.parameter_set, secret, signed.message, b"ctx", rnd=rnd, acceptable=lambda excess: excess >= 0
        )
        with pytest.raises(AuthenticationError):
            scheme.verify(signed.pair.verification_key, signed.message, oversized, context=b"ctx")


# rnd values whose first z has a norm of exactly gamma1 - beta - 1 (accepted) and gamma1 - beta (refused); found by trying.
@pytest.mark.parametrize(
    ("scheme", "excess", "number"),
    [(SIG44, -1, 304), (SIG44, 0, 3111), (SIG87, -1, 377), (SIG87, 0, 4858)],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_the_bound_of_z_is_exact(scheme, excess, number):
    """The largest norm the standard allows is accepted, and one more is refused."""
    signed = Signed(scheme)
    secret, rnd = bytes(signed.pair.signing_key.view()), number.to_bytes(32, "big")
    signature = sign(
        scheme.parameter_set, secret, signed.message, b"ctx", rnd=rnd, acceptable=lambda found: found == excess
    )
    status = scheme.verify_many(signed.pair.verification_key, [signed.message], signature, context=b"ctx")
    assert (excess >= 0) == (status[0] != 0)
