"""Which keeper of the sealing keys a worker opens, and what it says when that one cannot promise erasure (R8)."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING

from qflare.errors import ConfigError
from qflare.stores.keeper import FileKeeper
from qflare.stores.keeper.address import is_pkcs11

if TYPE_CHECKING:
    from pathlib import Path

    from qflare.manager.settings import ManagerSettings
    from qflare.model.keeper_ports import Keeper

_log = logging.getLogger("qflare.service")


def open_keeper(folder: Path, settings: ManagerSettings) -> Keeper:
    """
    Open the keeper that the settings name; blocks while a token is asked.

    Args:
        folder: Its lasting folder, one for all workers of a database.
        settings: `keeper` and `keeper_dir`.

    Raises:
        ConfigError: a setting or a folder cannot be used.
        KeeperError: the token is gone, or refuses the PIN.
        MissingExtraError: the token's binding is not installed.
    """
    name = settings.keeper
    is_in_token = is_pkcs11(name)
    with contextlib.suppress(FileExistsError):
        try:
            folder.parent.mkdir(mode=0o700)
        except FileNotFoundError:
            raise ConfigError(
                f"the folder {folder.parent.parent} does not exist; create it, or choose another data folder"
            ) from None
        except PermissionError:
            raise ConfigError(
                f"the data folder {folder.parent} cannot be made: permission denied; choose another one"
            ) from None
    keeper: Keeper
    if is_in_token and name is not None:
        from qflare.stores.keeper.pkcs11 import Pkcs11Keeper

        keeper = Pkcs11Keeper(name, folder)
    else:
        keeper = FileKeeper(folder, settings.keeper_dir)
    void = keeper.promise()
    if void is not None:
        _log.warning("%s", void)
    return keeper
