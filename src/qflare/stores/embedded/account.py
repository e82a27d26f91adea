"""As whom PostgreSQL runs: it refuses root, so root runs it under another name."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from qflare.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_TRY_TIMEOUT_S: Final = 10.0
_OVERFLOW_ID: Final = 65534
"""What the kernel shows for ids that have no name in a user namespace; not one to run under by choice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """How to start a program as somebody whom PostgreSQL accepts."""

    prefix: tuple[str, ...] = ()
    """Words before the program: `unshare …` under root, whose files stay root's."""
    user_id: int | None = None
    """The user to change to where there are no user namespaces; the data folder becomes that user's."""
    group_id: int | None = None

    def start(self, command: Sequence[str], *, output: int) -> subprocess.Popen[bytes]:
        """Start *command* with both outputs on the descriptor *output*."""
        return subprocess.Popen(  # noqa: S603 - programs of the wheel and unshare, no shell
            [*self.prefix, *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            user=self.user_id,
            group=self.group_id,
            extra_groups=None if self.user_id is None else [],
            umask=0o077,
        )

    def give(self, folder: Path) -> None:
        """Make *folder* the account's own, where that is somebody else."""
        if self.user_id is not None and self.group_id is not None:
            os.chown(folder, self.user_id, self.group_id)


def choose_account() -> Account:
    """
    Return the account to run PostgreSQL under.

    Raises:
        ConfigError: this is root, user namespaces are not allowed, and passwd names nobody to change to.
    """
    if os.geteuid() != 0:
        return Account()
    return namespace_account() or user_account()


def namespace_account() -> Account | None:
    """Return the account that hides root behind another id in a user namespace, None where that is not allowed."""
    unshare = shutil.which("unshare")
    if unshare is None:
        return None
    # initdb looks its user up: the id must stand in passwd.
    entry = next((entry for entry in pwd.getpwall() if entry.pw_uid not in {0, _OVERFLOW_ID}), None)
    if entry is None:
        return None
    prefix = (unshare, "-U", f"--map-user={entry.pw_uid}", f"--map-group={entry.pw_uid}")
    try:
        subprocess.run(  # noqa: S603 - the system's unshare
            [*prefix, "true"], check=True, capture_output=True, timeout=_TRY_TIMEOUT_S
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return Account(prefix=prefix)


def user_account() -> Account:
    """
    Return the account of an unprivileged user of passwd.

    Raises:
        ConfigError: there is none.
    """
    for name in ("postgres", "nobody", "daemon"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(user_id=entry.pw_uid, group_id=entry.pw_gid)
    raise ConfigError(
        "PostgreSQL does not run as root, user namespaces are not allowed here, and there is no user postgres, nobody "
        "or daemon to run it as; start qflare as an ordinary user, or pass the dsn of a server"
    )
