"""
The C border: the only package that touches the extension `qflare._native._qflare`.

Loading it installs our random source in liboqs and runs the known-answer tests once.  A missing extension or a liboqs
that fails them is an error here, at import: nothing falls back to anything else.
"""

from __future__ import annotations

from typing import Final

from qflare.errors import SelfTestError

try:
    from qflare._native._qflare import ffi as _ffi
    from qflare._native._qflare import lib as _lib
except ImportError as cause:
    _message = (
        f"the C core of QFLARE cannot be loaded ({cause}); "
        "install QFLARE from a wheel for this platform, or build it with  pip install .  in its source tree"
    )
    raise SelfTestError(_message) from None


def _self_test() -> dict[str, bool]:
    """
    Run the known-answer tests.

    Raises:
        SelfTestError: the liboqs at hand does not give the standards' answers.
    """
    report = _ffi.new("qfl_selftest_report *")
    status = _lib.qfl_selftest(report)
    results = {
        "ML-KEM-1024": bool(report.kem),
        "ML-DSA-44": bool(report.sig44),
        "ML-DSA-87": bool(report.sig87),
        "random source": bool(report.random_used),
        "ML-DSA-44 key from seed": bool(report.seeded_sig44),
        "ML-DSA-87 key from seed": bool(report.seeded_sig87),
    }
    # Keys from seeds are a convenience that a liboqs may lack (DESIGN, decision 4); the rest is required.
    failed = [name for name, good in results.items() if not good and not name.endswith("key from seed")]
    if status != 0 or failed:
        version = _ffi.string(_lib.qfl_liboqs_version()).decode()
        message = (
            f"liboqs {version} failed the self-test at load: {', '.join(failed) or 'it did not run'}; "
            "rebuild QFLARE against another liboqs, or without one to let the build fetch the tested version"
        )
        raise SelfTestError(message)
    return results


_lib.qfl_random_install()
SELF_TEST: Final = _self_test()
"""What the known-answer tests at load found, by name."""
