"""The file of a keeper's high-water marks: a few numbers as JSON, in the keeper's lasting folder."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Final

from qflare.errors import KeeperError
from qflare.model.mark import HighWaterMark
from qflare.stores.keeper.files import read_file, replace_file

if TYPE_CHECKING:
    from pathlib import Path

NAME: Final = "high-water"
_ROOT_BYTES: Final = 32


def read_marks(folder: Path) -> HighWaterMark:
    """
    Return the marks in *folder*, all zero where there are none yet.

    Raises:
        KeeperError: the file is damaged, or not this user's alone.
    """
    path = folder / NAME
    content = read_file(path)
    if content is None:
        return HighWaterMark()
    try:
        mark = _decode(json.loads(content))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        mark = None
    if mark is None:
        raise KeeperError(
            f"{path} is damaged: it holds the marks that tell an older copy of the database; restore it from its "
            "backup, or remove it and accept the database as it is with  qflare restore --accept"
        )
    return mark


def write_marks(folder: Path, mark: HighWaterMark) -> None:
    """Put *mark* into the place of the file, durably; the caller holds the folder's lock."""
    values = dataclasses.asdict(mark) | {"log_root": mark.log_root.hex()}
    replace_file(folder / NAME, json.dumps(values, sort_keys=True).encode())


def _decode(values: dict[str, object]) -> HighWaterMark | None:
    """Return the marks, None where a value cannot be one."""
    # A file of before has no serial.
    values = {"serial": 0} | values
    if sorted(values) != sorted(field.name for field in dataclasses.fields(HighWaterMark)):
        return None
    pulse, size, reserved, serial = (values[name] for name in ("pulse", "log_size", "log_reserved", "serial"))
    server_id, root, is_accepting = (values[name] for name in ("server_id", "log_root", "is_accepting"))
    if not (isinstance(pulse, int) and isinstance(size, int) and isinstance(reserved, int) and isinstance(serial, int)):
        return None
    if not (isinstance(server_id, str) and isinstance(root, str) and isinstance(is_accepting, bool)):
        return None
    log_root = bytes.fromhex(root)
    if min(pulse, size, serial) < 0 or size > reserved or len(log_root) != (_ROOT_BYTES if size else 0):
        return None
    return HighWaterMark(
        pulse=pulse,
        server_id=server_id,
        log_size=size,
        log_root=log_root,
        log_reserved=reserved,
        serial=serial,
        is_accepting=is_accepting,
    )
