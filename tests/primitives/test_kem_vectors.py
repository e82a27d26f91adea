"""ML-KEM-1024 against every official vector at hand, one at a time and in batches."""

import hashlib

import pytest

import vector_sets
from nist_drbg import NistDrbg
from qflare._native import about
from qflare._native.lanes import forced_width
from qflare.primitives import kem
from qflare.primitives.engine import Engine
from qflare.primitives.random import drawing_from

unhex = bytes.fromhex

LANES = tuple(width for width in (1, 4, 8) if width <= about.keccak_width())
RELEASES = ("1.1.0.36", "1.1.0.38")


def acvp_cases(release, mode, function=None):
    """Join prompt and expected results of the ML-KEM-1024 groups."""
    prompt = vector_sets.vector_json(f"acvp/acvp_v{release}_{mode}_prompt.json")
    expected = vector_sets.vector_json(f"acvp/acvp_v{release}_{mode}_expectedResults.json")
    results = {(group["tgId"], test["tcId"]): test for group in expected["testGroups"] for test in group["tests"]}
    return [
        {
            **{key: value for key, value in group.items() if key in {"dk", "ek"}},
            **test,
            **results[group["tgId"], test["tcId"]],
        }
        for group in prompt["testGroups"]
        if group["parameterSet"] == "ML-KEM-1024" and group.get("function") == function
        for test in group["tests"]
    ]


def every_engine():
    """Go through liboqs and the lanes at each width of this machine; what the loop's body computes is that engine's."""
    yield Engine.LIBOQS
    for width in LANES:
        with forced_width(width):
            yield Engine.LANES


def assert_keys(seeds, eks, dks):
    """Check keys from seeds by the single and the batch form."""
    for seed, ek, dk in zip(seeds, eks, dks, strict=True):
        pair = kem.generate_from_seed(seed)
        assert ek == pair.encapsulation_key
        assert pair.decapsulation_key.equals(dk)
        kem.check_encapsulation_key(ek)
        kem.check_decapsulation_key(dk)
    for engine in every_engine():
        many = kem.generate_from_seeds_many(b"".join(seeds), engine=engine)
        assert bytes(len(seeds)) == many.status
        assert b"".join(eks) == bytes(many.encapsulation_keys)
        assert many.decapsulation_keys.equals(b"".join(dks))


def assert_encapsulations(eks, ms, cts, secrets):
    """Check encapsulation with given m by the single and the batch form."""
    for ek, m, ct, secret in zip(eks, ms, cts, secrets, strict=True):
        with drawing_from(m):
            one = kem.encapsulate(ek)
        assert ct == one.ciphertext
        assert one.shared_secret.equals(secret)
    for engine in every_engine():
        with drawing_from(b"".join(ms)):
            many = kem.encapsulate_many(eks, engine=engine)
        assert bytes(len(eks)) == many.status
        assert b"".join(cts) == bytes(many.ciphertexts)
        assert many.shared_secrets.equals(b"".join(secrets))


def assert_decapsulations(dks, cts, secrets):
    """Check decapsulation by the single form, the batch form, and the form with one key, with every engine."""
    for dk, ct, secret in zip(dks, cts, secrets, strict=True):
        assert kem.decapsulate(dk, ct).equals(secret)
        assert kem.decapsulate_one_key(dk, ct).equals(secret)
        for engine in every_engine():
            assert kem.decapsulate_one_key(dk, ct, engine=engine).equals(secret)
    for engine in every_engine():
        many = kem.decapsulate_many(dks, cts, engine=engine)
        assert bytes(len(dks)) == many.status
        assert many.shared_secrets.equals(b"".join(secrets))


@pytest.mark.parametrize("release", RELEASES)
def test_acvp_key_generation(release):
    """Keys from d and z are those of NIST's ACVP server."""
    cases = acvp_cases(release, "keyGen")
    assert len(cases) == 25
    assert_keys(
        [unhex(case["d"]) + unhex(case["z"]) for case in cases],
        [unhex(case["ek"]) for case in cases],
        [unhex(case["dk"]) for case in cases],
    )
    vector_sets.report(f"acvp/ {release} ML-KEM-1024 keyGen", ran=len(cases))


@pytest.mark.parametrize("release", RELEASES)
def test_acvp_encapsulation(release):
    """Ciphertexts and secrets from ek and m are those of NIST's ACVP server."""
    cases = acvp_cases(release, "encapDecap", "encapsulation")
    assert len(cases) == 25
    assert_encapsulations(*([unhex(case[key]) for case in cases] for key in ("ek", "m", "c", "k")))
    vector_sets.report(f"acvp/ {release} ML-KEM-1024 encapsulation", ran=len(cases))


@pytest.mark.parametrize("release", RELEASES)
def test_acvp_decapsulation(release):
    """Secrets from valid and modified ciphertexts are those of NIST's ACVP server."""
    cases = acvp_cases(release, "encapDecap", "decapsulation")
    assert len(cases) == 10
    assert_decapsulations(*([unhex(case[key]) for case in cases] for key in ("dk", "c", "k")))
    secrets = kem.decapsulate_one_key(unhex(cases[0]["dk"]), [unhex(case["c"]) for case in cases])
    assert secrets.equals(b"".join(unhex(case["k"]) for case in cases))
    vector_sets.report(f"acvp/ {release} ML-KEM-1024 decapsulation", ran=len(cases))


def assert_kat(cases):
    """Run records of the KAT project: keys, encapsulation, decapsulation, implicit rejection."""
    dks = [unhex(case["sk"]) for case in cases]
    eks = [unhex(case["pk"]) for case in cases]
    assert_keys([unhex(case["d"]) + unhex(case["z"]) for case in cases], eks, dks)
    cts, secrets = ([unhex(case[key]) for case in cases] for key in ("ct", "ss"))
    assert_encapsulations(eks, [unhex(case["msg"]) for case in cases], cts, secrets)
    assert_decapsulations(dks, cts, secrets)
    assert_decapsulations(dks, *([unhex(case[key]) for case in cases] for key in ("ct_n", "ss_n")))


def test_kat_shared():
    """The first 200 records of the KAT project agree, invalid ciphertexts included."""
    cases = vector_sets.records(vector_sets.vector_text("kat/kat_MLKEM_1024_first200.rsp.gz"))
    assert len(cases) == 200
    assert_kat(cases)
    vector_sets.report("kat/kat_MLKEM_1024_first200.rsp.gz", ran=len(cases))


def test_kat_package():
    """All records of the KAT project, from the vectors package, agree."""
    cases = vector_sets.records(vector_sets.package_text("asymmetric/MLKEM/kat_MLKEM_1024.rsp"))
    assert len(cases) == 1000
    assert_kat(cases)
    vector_sets.report("cryptography-vectors kat_MLKEM_1024.rsp", ran=len(cases))


def test_cctv_comparison_covers_the_whole_ciphertext():
    """A ciphertext that equals its re-encryption up to a zero byte is rejected (no strcmp)."""
    name = "cctv/ML-KEM-1024-strcmp.txt"
    (case,) = vector_sets.records(vector_sets.vector_text(name))
    assert_decapsulations([unhex(case["dk"])], [unhex(case["c"])], [unhex(case["K"])])
    vector_sets.report(name, ran=1)


def test_wycheproof_key_generation():
    """Keys from seeds are those of Wycheproof."""
    name = "wycheproof/mlkem_1024_keygen_seed_test.json"
    cases = [test for group in vector_sets.vector_json(name)["testGroups"] for test in group["tests"]]
    assert len(cases) == 100
    assert {"valid"} == {case["result"] for case in cases}
    assert_keys(*([unhex(case[key]) for case in cases] for key in ("seed", "ek", "dk")))
    vector_sets.report(name, ran=len(cases))


@pytest.mark.parametrize(("kind", "count"), [("single", 1), ("all", 100)])
def test_liboqs_kat_program(kind, count):
    """The output of liboqs's own KAT program, rebuilt through our API, has the published digest."""
    expected = vector_sets.vector_json("kat/liboqs_kats_kem.json")["ML-KEM-1024"][kind]
    outer = NistDrbg(bytes(range(48)))
    blocks = []
    for index in range(count):
        seed = outer.draw(48)
        inner = NistDrbg(seed)
        pair = kem.generate_from_seed(inner.draw(64))
        with drawing_from(inner.draw(32)):
            made = kem.encapsulate(pair.encapsulation_key)
        values = {
            "seed": seed,
            "pk": pair.encapsulation_key,
            "sk": pair.decapsulation_key.view(),
            "ct": made.ciphertext,
            "ss": made.shared_secret.view(),
        }
        lines = "".join(f"{key} = {value.hex().upper()}\n" for key, value in values.items())
        blocks.append(f"count = {index}\n{lines}")
    assert expected == hashlib.sha256("\n".join(blocks).encode()).hexdigest()
    vector_sets.report(f"kat/liboqs_kats_kem.json ML-KEM-1024 {kind}", ran=count)


@pytest.mark.parametrize(
    ("rounds", "expected"),
    [
        (100, "c3ffe9ebecfa479c142656cbfbc6417efa05b77e994fe538eef4daed166363df"),
        (1000, "df23d235ef494a38b2de2deda2704bb1312dd88ef6987ec4fc6f08fe5963ed7f"),
    ],
)
@pytest.mark.parametrize("form", ["single", "batch"])
def test_accumulated_hash(rounds, expected, form):
    """The accumulated hash over random keys, encapsulations and rejections is the published one (C2SP/CCTV procedure)."""
    size = 32 + 32 + 32 + kem.CT_BYTES
    stream = hashlib.shake_128().digest(rounds * size)
    rows = [stream[index * size : (index + 1) * size] for index in range(rounds)]
    seeds, ms, wrong = [row[:64] for row in rows], [row[64:96] for row in rows], [row[96:] for row in rows]
    whole = hashlib.shake_128()
    if form == "batch":
        pairs = kem.generate_from_seeds_many(seeds)
        with drawing_from(b"".join(ms)):
            made = kem.encapsulate_many(pairs.encapsulation_keys)
        good = kem.decapsulate_many(pairs.decapsulation_keys, made.ciphertexts).shared_secrets
        rejected = kem.decapsulate_many(pairs.decapsulation_keys, wrong).shared_secrets
        assert made.shared_secrets.equals(good)
        columns = (
            (pairs.encapsulation_keys, kem.EK_BYTES),
            (pairs.decapsulation_keys.view(), kem.DK_BYTES),
            (made.ciphertexts, kem.CT_BYTES),
            (good.view(), kem.SS_BYTES),
            (rejected.view(), kem.SS_BYTES),
        )
        for index in range(rounds):
            for column, width in columns:
                whole.update(column[index * width : (index + 1) * width])
    else:
        for seed, m, ct in zip(seeds, ms, wrong, strict=True):
            pair = kem.generate_from_seed(seed)
            with drawing_from(m):
                made = kem.encapsulate(pair.encapsulation_key)
            assert kem.decapsulate(pair.decapsulation_key, made.ciphertext).equals(made.shared_secret)
            whole.update(pair.encapsulation_key)
            whole.update(pair.decapsulation_key.view())
            whole.update(made.ciphertext)
            whole.update(made.shared_secret.view())
            whole.update(kem.decapsulate(pair.decapsulation_key, ct).view())
    assert expected == whole.hexdigest(32)
    vector_sets.report(f"accumulated ML-KEM-1024, {rounds} rounds, {form}", ran=rounds)
