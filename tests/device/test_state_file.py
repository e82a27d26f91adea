"""The state file survives what files go through, and says what is wrong with one that did not."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from qflare.device.state_file import Field, StateFile, decode_state, encode_state
from qflare.errors import ConfigError, DecodeError, StoreError
from qflare.secret import SecretBytes

if TYPE_CHECKING:
    from pathlib import Path


def sample() -> dict[str, Field]:
    """Return one field of each kind, nested."""
    return {
        "number": 2**64 - 1,
        "text": "edge-node-001 é",
        "public": b"\x00\x01",
        "secret": SecretBytes.copy_of(b"k" * 64),
        "nothing": None,
        "many": [1, b"two", "three", {"four": 4}],
    }


def plain(field: Field) -> object:
    """Return *field* with secrets as bytes, so that a test can compare it."""
    match field:
        case SecretBytes():
            return ("secret", field.view().tobytes())
        case list():
            return [plain(item) for item in field]
        case dict():
            return {name: plain(item) for name, item in field.items()}
        case _:
            return field


def test_decode_returns_what_was_encoded() -> None:
    """Every kind of field comes back as it went in."""
    assert plain(sample()) == plain(decode_state(encode_state(sample())))


def test_decode_wipes_the_buffer_it_reads() -> None:
    """No copy of the secrets stays behind in the buffer, whether it decodes or not."""
    good, bad = encode_state(sample()), encode_state(sample())
    bad[20] ^= 1
    decode_state(good)
    with pytest.raises(DecodeError):
        decode_state(bad)
    assert not any(good)
    assert not any(bad)


def test_decode_refuses_every_truncation_and_every_altered_byte() -> None:
    """A file that is cut anywhere or differs in any byte is a DecodeError that names the remedy."""
    whole = bytes(encode_state(sample()))
    for size in range(len(whole)):
        with pytest.raises(DecodeError, match=r"enrol the device|state file"):
            decode_state(bytearray(whole[:size]))
    for index in range(len(whole)):
        altered = bytearray(whole)
        altered[index] ^= 0x40
        with pytest.raises(DecodeError):
            decode_state(altered)


def test_write_replaces_the_file_and_keeps_it_private(tmp_path: Path) -> None:
    """A state file is 0600 from its first byte, and nothing is left beside it but the lock."""
    file = StateFile(tmp_path / "edge.state")
    file.write({"number": 1})
    file.write(sample())
    assert stat.S_IMODE((tmp_path / "edge.state").stat().st_mode) == 0o600
    assert plain(sample()) == plain(file.read())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["edge.state", "edge.state.lock"]
    file.close()


def test_only_one_process_owns_a_state(tmp_path: Path) -> None:
    """A second owner gets an error that says so, and may have the file once the first has closed it."""
    first = StateFile(tmp_path / "edge.state")
    with pytest.raises(ConfigError, match="in use by another process"):
        StateFile(tmp_path / "edge.state")
    first.close()
    StateFile(tmp_path / "edge.state").close()


def test_read_refuses_a_file_that_others_can_read(tmp_path: Path) -> None:
    """A state file with wide permissions is refused with the remedy."""
    path = tmp_path / "edge.state"
    file = StateFile(path)
    file.write(sample())
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        file.read()
    file.close()


def test_read_names_the_remedy_where_there_is_no_state(tmp_path: Path) -> None:
    """A missing file says that the device must be enrolled."""
    file = StateFile(tmp_path / "edge.state")
    with pytest.raises(ConfigError, match="enrol the device first"):
        file.read()
    file.close()


def test_missing_folder_is_a_config_error(tmp_path: Path) -> None:
    """A folder that is not there is named."""
    with pytest.raises(ConfigError, match="absent"):
        StateFile(tmp_path / "absent" / "edge.state")


def test_failed_write_leaves_the_old_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the file cannot be replaced, the old one stands and no half-written file is left."""
    file = StateFile(tmp_path / "edge.state")
    file.write({"number": 1})

    def refuse(_descriptor: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StoreError, match="free some space"):
        file.write({"number": 2})
    monkeypatch.undo()
    assert file.read() == {"number": 1}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["edge.state", "edge.state.lock"]
    file.close()
