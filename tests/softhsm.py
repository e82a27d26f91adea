"""A SoftHSM token of the tests' own: its folder, its PIN, and keepers in it."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

MODULES = ("/usr/lib/softhsm/libsofthsm2.so", "/usr/lib64/pkcs11/libsofthsm2.so")
PIN = "4711-canary-pin"


class SoftToken:
    """One initialized token in a folder; `SOFTHSM2_CONF` must name its configuration before the module is loaded."""

    def __init__(self, folder, name="qflare-test"):
        self.folder = folder
        self.name = name
        self.module = next((path for path in MODULES if Path(path).exists()), None)
        self.tokens = folder / "tokens"
        self.tokens.mkdir(mode=0o700)
        self.configuration = folder / "softhsm2.conf"
        self.configuration.write_text(
            f"directories.tokendir = {self.tokens}\nobjectstore.backend = file\nlog.level = ERROR\n"
        )
        self.pin = folder / "pin"
        self.pin.write_text(PIN + "\n")
        self.pin.chmod(0o600)
        subprocess.run(
            ["softhsm2-util", "--init-token", "--free", "--label", name, "--pin", PIN, "--so-pin", "0815-so"],
            env=self.environment(),
            check=True,
            capture_output=True,
            timeout=30,
        )

    def environment(self):
        return os.environ | {"SOFTHSM2_CONF": str(self.configuration)}

    def uri(self, *, pin=None):
        return f"pkcs11:token={self.name}?module-path={self.module}&pin-source=file:{pin or self.pin}"

    def take_away(self):
        self.tokens.rename(self.folder / "away")

    def bring_back(self):
        (self.folder / "away").rename(self.tokens)


def require_softhsm():
    """Skip where SoftHSM or its binding is not installed."""
    pytest.importorskip("pkcs11", reason="needs python-pkcs11: pip install 'qflare[hsm]'")
    if not any(Path(path).exists() for path in MODULES) or shutil.which("softhsm2-util") is None:
        pytest.skip("needs SoftHSM 2: apt-get install softhsm2")


@pytest.fixture(scope="session")
def soft_token(tmp_path_factory):
    """A token for the whole session: a process has one SoftHSM, whose configuration is read when it is loaded."""
    require_softhsm()
    token = SoftToken(tmp_path_factory.mktemp("softhsm"))
    before = os.environ.get("SOFTHSM2_CONF")
    os.environ["SOFTHSM2_CONF"] = str(token.configuration)
    yield token
    if before is None:
        del os.environ["SOFTHSM2_CONF"]
    else:
        os.environ["SOFTHSM2_CONF"] = before
