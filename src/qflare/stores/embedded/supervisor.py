"""
The supervisor: one detached process a data folder that runs PostgreSQL as long as anybody uses it.

``python -m qflare.stores.embedded.supervisor DATA_DIR`` detaches and returns at once.  It takes the supervisor's lock
(or leaves, if another one has it), starts the server or takes over one that an earlier supervisor left, starts it
again when it dies, and stops it when it can take the users' lock alone: then the last user has gone.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from typing import TYPE_CHECKING, Final

from qflare.errors import QflareError, StoreUnavailableError
from qflare.stores.embedded.account import Account, choose_account
from qflare.stores.embedded.binaries import Binaries, binaries_for
from qflare.stores.embedded.folder import Folder, open_folder
from qflare.stores.embedded.postmaster import Postmaster, answers, find_postmaster, make_cluster, start_postmaster

if TYPE_CHECKING:
    from qflare.stores.embedded.folder import Lock

_POLL_S: Final = 0.1
_FAILURES_MAX: Final = 40
"""Starts in a row that never answered; with the pause growing to a second that is about half a minute."""
_PAUSE_MAX_S: Final = 1.0
_TRIES: Final = 5


class _Stopping:
    """Set by SIGTERM and SIGINT."""

    def __init__(self) -> None:
        self.is_set = False
        signal.signal(signal.SIGTERM, self._set)
        signal.signal(signal.SIGINT, self._set)

    def _set(self, _number: int, _frame: object) -> None:
        self.is_set = True


def supervise(folder: Folder, users: Lock, *, output: int) -> None:
    """
    Run the server until nobody uses it; the caller holds the supervisor's lock.

    Raises:
        QflareError: it cannot be made or does not come up.
    """
    stopping = _Stopping()
    account = choose_account()
    account.give(folder.root)
    if not (folder.cluster / "PG_VERSION").exists():
        make_cluster(folder, binaries_for(folder.cluster), account, output=output)
    binaries = binaries_for(folder.cluster)
    server = find_postmaster(folder)
    failures = 0
    try:
        while not stopping.is_set and not users.try_exclusive():
            if server is None or not server.is_alive():
                server, failures = _start_again(folder, binaries, account, failures=failures, output=output)
            elif failures and answers(folder):
                failures = 0
            time.sleep(_POLL_S)
    finally:
        if server is not None:
            server.stop()


def _start_again(
    folder: Folder, binaries: Binaries, account: Account, *, failures: int, output: int
) -> tuple[Postmaster, int]:
    if failures >= _FAILURES_MAX:
        raise StoreUnavailableError(f"PostgreSQL does not come up in {folder.root}; see {folder.log}")
    # After a kill -9 the old server's children need a moment until they let go of the shared memory.
    time.sleep(min(_PAUSE_MAX_S, 0.05 * failures))
    found = find_postmaster(folder)
    if found is not None:
        return found, failures + 1
    return start_postmaster(folder, binaries, account, output=output), failures + 1


def _detach() -> None:
    """Leave the starter's session, so that neither its end nor its terminal reaches the server."""
    if os.fork() > 0:
        os._exit(0)
    os.setsid()
    os.chdir("/")


def _take(lock: Lock) -> bool:
    """Take the supervisor's lock, patiently: users who look whether it is taken share it for a moment."""
    for _ in range(_TRIES):
        if lock.try_exclusive():
            return True
        time.sleep(_POLL_S / 5)
    return False


def main(data_dir: str) -> int:
    """Supervise *data_dir*; the exit status is read by nobody, the file supervisor.error is."""
    folder = open_folder(data_dir)
    _detach()
    lock, users = folder.supervisor_lock(), folder.users_lock()
    if not _take(lock):
        return 0
    folder.error.unlink(missing_ok=True)
    output = os.open(folder.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    os.dup2(output, 1)
    os.dup2(output, 2)
    try:
        supervise(folder, users, output=output)
    except QflareError as error:
        _leave_error(folder, str(error))
        return 1
    except OSError as error:
        _leave_error(folder, f"the data folder {folder.root} cannot be used: {error.strerror}")
        return 1
    return 0


def _leave_error(folder: Folder, text: str) -> None:
    # A disk so full that the reason cannot be written: the user then runs into its time limit.
    with contextlib.suppress(OSError):
        folder.error.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
