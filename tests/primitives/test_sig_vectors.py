"""ML-DSA-44 and ML-DSA-87 against every official vector at hand, one at a time and in batches."""

import hashlib

import pytest

import vector_sets
from engines import sig_engine  # noqa: F401  # a fixture
from nist_drbg import NistDrbg
from qflare.errors import AuthenticationError, LengthError
from qflare.primitives.random import drawing_from
from qflare.primitives.sig import SIG44, SIG87

unhex = bytes.fromhex

pytestmark = pytest.mark.usefixtures("sig_engine")

DETERMINISTIC = bytes(32)  # FIPS 204, Algorithm 2: the deterministic variant's rnd


def sign(scheme, signing_key, message, *, context, rnd=DETERMINISTIC):
    """Sign with a given rnd."""
    with drawing_from(rnd):
        return scheme.sign(signing_key, message, context=context)


def assert_kat(scheme, cases):
    """Run records of the KAT project: keys from xi, deterministic signatures, verification; single and batch."""
    for case in cases:
        pair = scheme.generate_from_seed(unhex(case["xi"]))
        assert unhex(case["pk"]) == pair.verification_key
        assert pair.signing_key.equals(unhex(case["sk"]))
        message, context = unhex(case["msg"]), unhex(case["ctx"])
        signature = unhex(case["sm"])[: scheme.SIG_BYTES]
        assert unhex(case["sm"])[scheme.SIG_BYTES :] == message
        assert signature == sign(scheme, pair.signing_key, message, context=context)
        scheme.verify(pair.verification_key, message, signature, context=context)
        # The contexts differ by record, so a batch is one record, twice.
        with drawing_from(DETERMINISTIC * 2):
            many = scheme.sign_many(pair.signing_key, [message, message], context=context)
        assert (bytes(2), signature * 2) == (many.status, bytes(many.signatures))
        status = scheme.verify_many(pair.verification_key, [message, b"x" + message], many.signatures, context=context)
        assert status[0] == 0
        assert status[1] != 0
    keys = scheme.generate_from_seeds_many([unhex(case["xi"]) for case in cases])
    assert b"".join(unhex(case["pk"]) for case in cases) == bytes(keys.verification_keys)
    assert keys.signing_keys.equals(b"".join(unhex(case["sk"]) for case in cases))


def test_kat_shared():
    """The deterministic ML-DSA-44 records of the KAT project agree."""
    name = "kat/kat_MLDSA_44_det_pure.rsp.gz"
    cases = vector_sets.records(vector_sets.vector_text(name))
    assert len(cases) == 100
    assert_kat(SIG44, cases)
    vector_sets.report(name, ran=len(cases))


@pytest.mark.parametrize("scheme", [SIG44, SIG87], ids=lambda scheme: scheme.name)
def test_kat_package(scheme):
    """The deterministic records of the KAT project, from the vectors package, agree."""
    name = f"kat_MLDSA_{scheme.parameter_set}_det_pure.rsp"
    cases = vector_sets.records(vector_sets.package_text(f"asymmetric/MLDSA/{name}"))
    assert len(cases) == 100
    assert_kat(scheme, cases)
    vector_sets.report(f"cryptography-vectors {name}", ran=len(cases))


def test_wycheproof_signing():
    """Signatures from seeds are those of Wycheproof, hedged ones with their rnd; bad keys and contexts are refused."""
    name = "wycheproof/mldsa_44_sign_seed_test.json"
    ran, internal = 0, 0
    for group in vector_sets.vector_json(name)["testGroups"]:
        seed = unhex(group["privateSeed"])
        for case in group["tests"]:
            if "msg" not in case:
                # SPEC: FIPS 204, Algorithm 7 with mu given; the library's interface takes messages only.
                assert "Internal" in case["flags"]
                internal += 1
                continue
            ran += 1
            if "IncorrectPrivateKeyLength" in case["flags"]:
                with pytest.raises(LengthError):
                    SIG44.generate_from_seed(seed)
                continue
            pair = SIG44.generate_from_seed(seed)
            context = unhex(case.get("ctx", ""))
            message = unhex(case["msg"])
            if case["result"] == "invalid":
                with pytest.raises(LengthError):
                    SIG44.sign(pair.signing_key, message, context=context)
                continue
            if group.get("publicKey"):
                assert unhex(group["publicKey"]) == pair.verification_key
            rnd = unhex(case.get("rnd", "")) or DETERMINISTIC
            signature = unhex(case["sig"])
            assert signature == sign(SIG44, pair.signing_key, message, context=context, rnd=rnd)
            with drawing_from(rnd * 2):
                many = SIG44.sign_many(pair.signing_key, [message] * 2, context=context)
            assert signature * 2 == bytes(many.signatures)
            SIG44.verify(pair.verification_key, message, signature, context=context)
    assert (78, 8) == (ran, internal)
    vector_sets.report(name, ran=ran, left_out=f"{internal} cases give mu instead of a message (Sign_internal)")


@pytest.mark.parametrize("scheme", [SIG44, SIG87], ids=lambda scheme: scheme.name)
@pytest.mark.parametrize(("kind", "count"), [("single", 1), ("all", 100)])
def test_liboqs_kat_program(scheme, kind, count):
    """The output of liboqs's own KAT program, rebuilt through our API, has the published digest."""
    expected = vector_sets.vector_json("kat/liboqs_kats_sig.json")[scheme.name][kind]
    outer = NistDrbg(bytes(range(48)))
    blocks = []
    for index in range(count):
        seed = outer.draw(48)
        message = outer.draw(33 * (index + 1))
        inner = NistDrbg(seed)
        pair = scheme.generate_from_seed(inner.draw(32))
        signature = sign(scheme, pair.signing_key, message, context=b"", rnd=inner.draw(32))
        scheme.verify(pair.verification_key, message, signature, context=b"")
        blocks.append(
            f"count = {index}\nseed = {seed.hex().upper()}\nmlen = {len(message)}\nmsg = {message.hex().upper()}\n"
            f"pk = {pair.verification_key.hex().upper()}\nsk = {pair.signing_key.view().hex().upper()}\n"
            f"smlen = {len(signature + message)}\nsm = {(signature + message).hex().upper()}\n"
        )
    assert expected == hashlib.sha256("\n".join(blocks).encode()).hexdigest()
    vector_sets.report(f"kat/liboqs_kats_sig.json {scheme.name} {kind}", ran=count)


@pytest.mark.parametrize(
    ("scheme", "rounds", "expected"),
    [
        (SIG44, 100, "d51148e1f9f4fa1a723a6cf42e25f2a99eb5c1b378b3d2dbbd561b1203beeae4"),
        # C2SP/CCTV, ML-DSA/accumulated/README.md, like the one above.
        (SIG44, 10_000, "e7fd21f6a59bcba60d65adc44404bb29a7c00e5d8d3ec06a732c00a306a7d143"),
        (SIG87, 100, "8c3ad714777622b8f21ce31bb35f71394f23bc0fcf3c78ace5d608990f3b061b"),
    ],
    ids=["44-100", "44-10000", "87-100"],
)
def test_accumulated_hash(scheme, rounds, expected):
    """The accumulated hash over random keys and deterministic signatures is the published one (C2SP/CCTV procedure)."""
    seeds = hashlib.shake_128().digest(rounds * 32)
    keys = scheme.generate_from_seeds_many(seeds)
    messages = [b""] * rounds
    with drawing_from(DETERMINISTIC * rounds):
        signed = scheme.sign_many(keys.signing_keys, messages, context=b"")
    assert bytes(rounds) == keys.status == signed.status
    assert bytes(rounds) == scheme.verify_many(keys.verification_keys, messages, signed.signatures, context=b"")
    whole = hashlib.shake_128()
    for index in range(rounds):
        whole.update(keys.verification_keys[index * scheme.PK_BYTES : (index + 1) * scheme.PK_BYTES])
        whole.update(signed.signatures[index * scheme.SIG_BYTES : (index + 1) * scheme.SIG_BYTES])
    assert expected == whole.hexdigest(32)
    vector_sets.report(f"accumulated {scheme.name}, {rounds} rounds", ran=rounds)


def test_accumulated_hash_one_by_one():
    """The accumulated hash of 100 rounds comes out of the single calls too."""
    stream = hashlib.shake_128().digest(100 * 32)
    whole = hashlib.shake_128()
    for index in range(100):
        pair = SIG44.generate_from_seed(stream[index * 32 : (index + 1) * 32])
        signature = sign(SIG44, pair.signing_key, b"", context=b"")
        SIG44.verify(pair.verification_key, b"", signature, context=b"")
        with pytest.raises(AuthenticationError):
            SIG44.verify(pair.verification_key, b"", signature, context=b"x")
        whole.update(pair.verification_key)
        whole.update(signature)
    assert whole.hexdigest(32) == "d51148e1f9f4fa1a723a6cf42e25f2a99eb5c1b378b3d2dbbd561b1203beeae4"
