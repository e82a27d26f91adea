"""What auditors hand to commands: evidence of devices, signed notes, verifier keys and pinned ids, from files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from qflare.errors import ConfigError, DecodeError

if TYPE_CHECKING:
    from qflare.protocol.disclosure import Disclosure
    from qflare.protocol.evidence import Evidence
    from qflare.protocol.log_key import LogKey
    from qflare.protocol.log_proof import LogProof

EVIDENCE_BYTES_MAX: Final = 64 * 2**10
NOTE_BYTES_MAX: Final = 1 << 18


def read_evidence(path: Path) -> Evidence:
    """
    Read a device's evidence.

    Raises:
        ConfigError: the file cannot be read.
        DecodeError: it holds none.
    """
    from qflare.protocol.evidence import Evidence

    try:
        return Evidence.from_json(_read(path, EVIDENCE_BYTES_MAX))
    except DecodeError as failure:
        raise DecodeError(f"{path} holds no evidence: {failure}") from None


def read_disclosure(path: Path) -> Disclosure:
    """
    Read a disclosure; nothing in it is verified.

    Raises:
        ConfigError: the file cannot be read.
        DecodeError: it holds none.
    """
    from qflare.protocol.disclosure import BYTES_MAX, Disclosure

    try:
        return Disclosure.from_json(_read(path, BYTES_MAX + 1))
    except DecodeError as failure:
        raise DecodeError(f"{path} holds no disclosure: {failure}") from None


def read_receipt(path: Path) -> Evidence | LogProof:
    """
    Read what shows an entry: a device's evidence, or a .tlog-proof.

    Raises:
        ConfigError: the file cannot be read.
        DecodeError: it holds neither.
    """
    from qflare.protocol.log_proof import FIRST_LINE, decode_proof

    text = _read(path, NOTE_BYTES_MAX)
    if not text.startswith(FIRST_LINE.encode()):
        return read_evidence(path)
    try:
        return decode_proof(text.decode())
    except (DecodeError, UnicodeDecodeError) as failure:
        raise DecodeError(f"{path} holds no proof: {failure}") from None


def read_note(path: Path) -> str:
    """
    Read a signed note; nothing in it is verified.

    Raises:
        ConfigError: the file cannot be read.
        DecodeError: it is no UTF-8.
    """
    try:
        return _read(path, NOTE_BYTES_MAX).decode()
    except UnicodeDecodeError:
        raise DecodeError(f"{path} holds no signed note") from None


def read_key(text: str) -> LogKey:
    """
    Return a verifier key, given as it is or as the name of a file that holds it.

    Raises:
        ConfigError: the file cannot be read.
        DecodeError: it is no verifier key.
    """
    from qflare.protocol.log_key import LogKey

    if "+" not in text or Path(text).is_file():
        text = _read(Path(text), NOTE_BYTES_MAX).decode(errors="replace")
    return LogKey.decode(text)


def parse_server_id(text: str | None) -> bytes | None:
    """
    Read a pinned server_id.

    Raises:
        ConfigError: it is not 64 hex digits.
    """
    from qflare.protocol.wire import SERVER_ID_BYTES

    if text is None:
        return None
    try:
        server_id = bytes.fromhex(text)
    except ValueError:
        server_id = b""
    if len(server_id) != SERVER_ID_BYTES:
        raise ConfigError(f"--server-id is {2 * SERVER_ID_BYTES} hex digits")
    return server_id


def _read(path: Path, size_max: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(size_max)
    except OSError as failure:
        raise ConfigError(f"cannot read {path}: {failure.strerror}") from None
