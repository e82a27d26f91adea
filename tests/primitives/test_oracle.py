"""
HKDF, HMAC-SHA-512 and AES key wrap: QFLARE has no code of its own for these.

The sets are run against `cryptography`, which the store and the benchmarks lean on, so that a broken build of it shows
here rather than in a figure or a key that cannot be unwrapped.
"""

import hmac

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, keywrap
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from vector_sets import report, vector_json


def cases(name):
    for group in vector_json(name)["testGroups"]:
        for case in group["tests"]:
            yield group, {key: bytes.fromhex(case[key]) for key in case if key in BYTES_FIELDS}, case


BYTES_FIELDS = {"key", "msg", "tag", "ct", "ikm", "salt", "info", "okm"}


def test_hkdf_sha512():
    """Every wycheproof HKDF-SHA512 output is made, and sizes beyond 255 blocks are refused."""
    ran = 0
    for _, values, case in cases("wycheproof/hkdf_sha512_test.json"):
        if case["result"] == "valid":
            kdf = HKDF(hashes.SHA512(), case["size"], values["salt"], values["info"])
            assert values["okm"] == kdf.derive(values["ikm"]), case["tcId"]
        else:
            with pytest.raises(ValueError, match="larger than"):
                HKDF(hashes.SHA512(), case["size"], values["salt"], values["info"])
        ran += 1
    report("wycheproof/hkdf_sha512_test.json", ran=ran, against="cryptography, which we depend on")


def test_hmac_sha512():
    """Every wycheproof HMAC-SHA512 tag is made, and none of the invalid ones."""
    ran = 0
    for group, values, case in cases("wycheproof/hmac_sha512_test.json"):
        mac = HMAC(values["key"], hashes.SHA512())
        mac.update(values["msg"])
        if group["tagSize"] == 512 and case["result"] == "invalid":
            with pytest.raises(InvalidSignature):
                mac.copy().verify(values["tag"])
        made = mac.finalize()[: group["tagSize"] // 8]
        assert (case["result"] == "valid") == hmac.compare_digest(made, values["tag"]), case["tcId"]
        ran += 1
    report("wycheproof/hmac_sha512_test.json", ran=ran, against="cryptography, which we depend on")


def test_aes_kwp():
    """Every wycheproof AES-KWP wrapping is made and undone, and no invalid one is unwrapped."""
    ran = 0
    for _, values, case in cases("wycheproof/aes_kwp_test.json"):
        if case["result"] == "valid":
            assert values["ct"] == keywrap.aes_key_wrap_with_padding(values["key"], values["msg"]), case["tcId"]
            assert values["msg"] == keywrap.aes_key_unwrap_with_padding(values["key"], values["ct"]), case["tcId"]
        else:
            with pytest.raises(keywrap.InvalidUnwrap):
                keywrap.aes_key_unwrap_with_padding(values["key"], values["ct"])
        ran += 1
    report("wycheproof/aes_kwp_test.json", ran=ran, against="cryptography, which we depend on")
