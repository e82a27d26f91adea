"""Exports of the log as files: one file, or a folder to which every export adds a part."""

from __future__ import annotations

import os
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, BinaryIO, Final

from qflare.errors import ConfigError, DecodeError, KeyNotFoundError, LogForkError
from qflare.monitor.export import ExportReport, export_log
from qflare.protocol.log import Frontier, frontier_from_nodes, nodes_for_frontier
from qflare.protocol.log_export import RecordKind, decode_frontier, read_records
from qflare.protocol.log_key import open_note

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from qflare.service.auditing import Audit

SUFFIX: Final = ".qflare-log"
_BUFFER_BYTES: Final = 1 << 20


async def write_export(
    audit: Audit, path: Path, *, since: str | None = None, progress: Callable[[int, int], None] | None = None
) -> tuple[Path, ExportReport] | None:
    """
    Write the log to a new file, or add a part to a folder with what it does not have yet.

    Args:
        audit: The log.
        path: A new file, or a folder that stands.
        since: A signed note: only what came after it; for a file.
        progress: Told (entries done, entries in all).

    Returns:
        The file that was written and what it holds; None if the folder has everything that is signed.

    Raises:
        ConfigError: the path cannot be used, or *since* goes with a folder.
        LogForkError: the log is not the one in the folder, or of the note: it was rewritten or shrank.
        DecodeError: the last part in the folder cannot be read, or the note.
        OtherLogError: the note is of another log.
        EvidenceError: as `export_log`.
        KeyNotFoundError: the log has no signed head.
    """
    if not audit.keys:
        raise KeyNotFoundError("the database has no identity yet: a worker makes one when it opens it")
    is_folder = await audit.offload.run(path.is_dir)
    if is_folder and since is not None:
        raise ConfigError("a folder goes on where its last part ended; --since goes with a file")
    start = Frontier()
    if since is not None:
        start = await _frontier_of(audit, since)
    elif is_folder:
        parts = parts_of(path)
        start = await audit.offload.run(partial(_end_of, parts[-1])) if parts else start
        head = await audit.log.latest_checkpoint()
        if parts and head is not None and head.size == start.size and head.root == start.root():
            return None
    target = path / f"{start.size:020d}{SUFFIX}" if is_folder else path
    with new_file(target) as file:
        report = await export_log(
            source=audit.log,
            identities=audit.served,
            keys=audit.keys,
            runner=audit.offload,
            write=file.write,
            start=start,
            progress=progress,
        )
    return target, report


def parts_of(path: Path) -> list[Path]:
    """Return the files of an export in order: itself, or the parts in a folder, which may be none."""
    if not path.is_dir():
        return [path]
    return sorted(each for each in path.iterdir() if each.suffix == SUFFIX)


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """
    Write a new file for its owner alone; it has its name only once it is whole and on the disk.

    Raises:
        ConfigError: it stands already, or cannot be written.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as failure:
        raise ConfigError(f"cannot write {path}: {failure.strerror}") from None
    try:
        if path.exists():
            raise ConfigError(f"{path} stands already: name a new file")
        with os.fdopen(descriptor, "wb", _BUFFER_BYTES) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        try:
            # Unlike a rename it refuses a name that was taken meanwhile.
            os.link(unfinished, path)
        except OSError as failure:
            raise ConfigError(f"cannot write {path}: {failure.strerror}") from None
    finally:
        unfinished.unlink(missing_ok=True)


async def _frontier_of(audit: Audit, note: str) -> Frontier:
    """Return the frontier of the tree that a kept note states, checked against the stored nodes."""
    checkpoint = open_note(note, audit.keys)
    if checkpoint.size > (await audit.log.log_head()).size:
        raise LogForkError(f"the log shrank: the kept head has {checkpoint.size} entries")
    frontier = frontier_from_nodes(checkpoint.size, await audit.log.find_nodes(nodes_for_frontier(checkpoint.size)))
    if frontier.root() != checkpoint.root:
        raise LogForkError(f"the first {checkpoint.size} entries are not those of the head you kept: a fork")
    return frontier


def _end_of(part: Path) -> Frontier:
    """Return the frontier with which a part ends."""
    with part.open("rb") as file:
        for kind, body in read_records(file):
            if kind is RecordKind.END:
                return decode_frontier(body)
    raise DecodeError(f"{part.name} has no end: it is cut short; remove it and export again")
