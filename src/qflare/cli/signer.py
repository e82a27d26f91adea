"""`qflare signer`: the log's key in a process, and a user, of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qflare.cli import options


def signer(
    *,
    socket: Annotated[Path, typer.Option("--socket", metavar="PATH", help="The unix socket to make and serve.")],
    folder: Annotated[
        Path,
        typer.Option("--folder", metavar="DIR", help="Folder of its keys and the last head, this user's alone."),
    ],
    allow_user: Annotated[
        list[str] | None,
        typer.Option("--allow-user", metavar="NAME", help="A user whose workers may ask; else this user's alone."),
    ] = None,
    group: Annotated[
        str | None,
        typer.Option("--group", metavar="NAME", help="Group that may open the socket; else its owner."),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Sign heads of the audit log for workers that do not hold its key.

    Signs a head only if it goes on from the one before. Workers ask it by QFLARE_SIGNER_SOCKET. Runs until SIGTERM.
    """
    import asyncio
    import grp
    import os
    import pwd
    import resource
    import signal

    from qflare.cli.output import emit
    from qflare.clock import SystemClock
    from qflare.errors import ConfigError
    from qflare.service.signer.server import Door, SignerServer
    from qflare.service.signer.state import SignerState

    try:
        users = {pwd.getpwnam(name).pw_uid for name in allow_user or ()} or {os.geteuid()}
        group_id = None if group is None else grp.getgrnam(group).gr_gid
    except KeyError as missing:
        raise ConfigError(f"there is no such user or group: {missing.args[0]}") from None
    # A dump of this process would be the key.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    async def run() -> None:
        stop = asyncio.Event()
        for each in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(each, stop.set)
        server = SignerServer(state, Door(path=socket, users=frozenset(users), group=group_id))
        facts = {"socket": str(socket), "signed_size": state.last.checkpoint.size}
        await server.run(stop, ready=lambda: emit(facts, as_json=as_json))

    state = SignerState(folder, SystemClock())
    try:
        asyncio.run(run())
    finally:
        state.close()
