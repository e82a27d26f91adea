"""What the C core says about itself."""

import re
import subprocess
import sys

from qflare.primitives.about import native_about


def test_facts_are_there():
    """The version, origin and self-test of the loaded liboqs are told, and every known answer was right."""
    about = native_about()
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", about.liboqs_version)
    assert about.liboqs_origin.startswith(("installed", "built from"))
    assert {"keypair_derand", "encaps_derand", "decaps_checks_key"} == set(about.liboqs_features)
    assert {"ML-KEM-1024", "ML-DSA-44", "ML-DSA-87", "random source"} <= set(about.self_test)
    assert all(about.self_test.values())
    assert about.keccak_width in {1, 4, 8}
    assert about.extension.endswith(".so")


def test_a_missing_extension_is_a_clear_error_at_import():
    """Without the C core the import fails with the remedy; nothing stands in for it."""
    code = (
        "import sys; sys.modules['qflare._native._qflare'] = None\n"
        "from qflare.errors import SelfTestError\n"
        "try:\n    import qflare.primitives.kem\n"
        "except SelfTestError as error:\n    print(isinstance(error, ImportError), error)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    assert result.stdout.startswith("True the C core of QFLARE cannot be loaded")
    assert "pip install ." in result.stdout
