"""The PostgreSQL server process: made, found again, watched and stopped."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from qflare.errors import StoreUnavailableError
from qflare.stores.embedded.folder import PORT, SUPERUSER, Folder

if TYPE_CHECKING:
    from qflare.stores.embedded.account import Account
    from qflare.stores.embedded.binaries import Binaries

INITDB_TIMEOUT_S: Final = 120.0
STOP_TIMEOUT_S: Final = 30.0
_POLL_S: Final = 0.05

# Durable, on a socket alone, and silent about values: a statement's errors go to who sent it, not into the log, since
# they repeat parts of it ("log" is above "error" in PostgreSQL's order).
_SETTINGS: Final = {
    "listen_addresses": "",
    "port": str(PORT),
    "unix_socket_permissions": "0700",
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "restart_after_crash": "on",
    "max_connections": "100",
    "jit": "off",
    "wal_level": "replica",
    "max_wal_size": "2GB",
    "log_destination": "stderr",
    "logging_collector": "off",
    "log_min_messages": "log",
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
    "log_parameter_max_length": "0",
    "log_parameter_max_length_on_error": "0",
    "log_checkpoints": "off",
}

_BUFFERS_MB: Final = (128, 512)
"""From PostgreSQL's own default to what a million sessions' turn gains from; more makes emptying partitions slower."""
_BUFFERS_SHARE: Final = 16


def _buffers_mb() -> int:
    """Return the size of PostgreSQL's cache: a share of the machine's memory, of which only what is used is taken."""
    memory_mb = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20
    least, most = _BUFFERS_MB
    return max(least, min(most, memory_mb // _BUFFERS_SHARE))


class Postmaster:
    """The server of one cluster: a child of this process, or one that an earlier supervisor left running."""

    def __init__(self, folder: Folder, *, process_id: int, child: subprocess.Popen[bytes] | None = None) -> None:
        self._folder = folder
        self._child = child
        self.process_id = process_id

    def is_alive(self) -> bool:
        """Tell whether the process runs; a child that ended is collected."""
        if self._child is not None:
            return self._child.poll() is None
        return runs_cluster(self.process_id, self._folder)

    def stop(self) -> None:
        """Stop the server: SIGINT, the fast shutdown that ends idle clients, at last SIGQUIT and SIGKILL."""
        for number, timeout_s in ((signal.SIGINT, STOP_TIMEOUT_S), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0)):
            if not self.is_alive():
                return
            os.kill(self.process_id, number)
            end = time.monotonic() + timeout_s
            while self.is_alive() and time.monotonic() < end:
                time.sleep(_POLL_S)


def runs_cluster(process_id: int, folder: Folder) -> bool:
    """Tell whether a process is a PostgreSQL of this cluster, not another one that got its number."""
    try:
        # A postmaster works in its cluster's folder.
        if Path(f"/proc/{process_id}/cwd").resolve(strict=True) != folder.cluster.resolve():
            return False
        state = Path(f"/proc/{process_id}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    return state.rpartition(")")[2].split()[0] not in {"Z", "X"}


def answers(folder: Folder) -> bool:
    """Tell whether somebody accepts connections on the socket; a file named postmaster.pid proves nothing."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(1.0)
        try:
            connection.connect(os.fsencode(folder.socket))
        except OSError:
            return False
        return True


def find_postmaster(folder: Folder) -> Postmaster | None:
    """Return the server that runs on this cluster already, and remove the mark of one that does not."""
    mark = folder.cluster / "postmaster.pid"
    try:
        process_id = int(mark.read_text(encoding="ascii", errors="replace").split("\n", 1)[0])
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        process_id = 0
    if process_id > 0 and runs_cluster(process_id, folder):
        return Postmaster(folder, process_id=process_id)
    # Another process may have the number by now, and PostgreSQL would then refuse to start; the socket has a mark too.
    mark.unlink(missing_ok=True)
    folder.socket.with_name(f"{folder.socket.name}.lock").unlink(missing_ok=True)
    return None


def make_cluster(folder: Folder, binaries: Binaries, account: Account, *, output: int) -> None:
    """
    Make the cluster beside its place and move it there when it is whole.

    Raises:
        StoreUnavailableError: initdb failed; the log says why.
    """
    unfinished = folder.root / "postgres.unfinished"
    if unfinished.exists():
        shutil.rmtree(unfinished)
    unfinished.mkdir(mode=0o700)
    account.give(unfinished)
    process = account.start(
        [
            binaries.initdb,
            f"--pgdata={unfinished}",
            f"--username={SUPERUSER}",
            "--auth=trust",  # whoever reaches the socket is this account: its folder is 0700
            "--encoding=UTF8",
            "--locale=C",
            "--data-checksums",
        ],
        output=output,
    )
    try:
        status = process.wait(INITDB_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        status = -1
    if status != 0:
        raise StoreUnavailableError(f"initdb failed in {folder.root}; see {folder.log} (is the disk full?)")
    unfinished.rename(folder.cluster)


def start_postmaster(folder: Folder, binaries: Binaries, account: Account, *, output: int) -> Postmaster:
    """Start the server on its cluster; whether it comes up shows on its socket."""
    folder.make_socket_folder()
    account.give(folder.socket_folder)
    given = _SETTINGS | {"shared_buffers": f"{_buffers_mb()}MB"}
    settings = [word for name, value in given.items() for word in ("-c", f"{name}={value}")]
    child = account.start(
        [binaries.postgres, "-D", str(folder.cluster), "-k", str(folder.socket_folder), *settings], output=output
    )
    return Postmaster(folder, process_id=child.pid, child=child)
