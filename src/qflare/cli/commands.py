"""The commands by name; each loads its own half of QFLARE only when it runs."""

from __future__ import annotations

from importlib import import_module
from typing import Annotated, Final

import typer

from qflare.errors import MissingExtraError

app = typer.Typer(
    name="qflare",
    help="Post-quantum session keys for federated-learning aggregation servers.",
    epilog="Exit codes: 0 done, 1 failed, 2 usage, 3 refused, 4 unavailable, 5 evidence, 130 interrupted.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # the same text everywhere, and a shell that starts at once
    pretty_exceptions_enable=False,  # main.py tells errors, and no traceback shows locals
)


def _version(value: bool) -> None:  # noqa: FBT001 - typer's signature
    if value:
        from importlib.metadata import version

        print(f"qflare {version('qflare')}")
        raise typer.Exit


@app.callback()
def _root(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """Post-quantum session keys for federated-learning aggregation servers."""


_COMMANDS: Final = (
    ("serve", "serve", "serve"),
    ("signer", "signer", "signer"),
    ("enrol", "enrol", "enrol"),
    ("token", "tokens", "app"),
    ("tokens", "issued", "app"),
    ("devices", "roster", "app"),
    ("sessions", "sessions", "app"),
    ("keys", "keys", "app"),
    ("tenants", "tenants", "app"),
    ("operator", "two_persons", "app"),
    ("policy", "policy", "app"),
    ("identity", "identity", "app"),
    ("incident", "responses", "app"),
    ("device", "devices", "app"),
    ("demo", "demo", "demo"),
    ("migrate", "migrate", "migrate"),
    ("backup", "backup", "backup"),
    ("restore", "backup", "restore"),
    ("doctor", "doctor", "doctor"),
    ("audit", "audit", "app"),
    ("bench", "bench", "app"),
    ("dashboards", "dashboards", "dashboards"),
    ("completion", "completion", "completion"),
)
"""Name, module, and what in it: a command, or a group's `app`. In the order of the help."""


def _add(name: str, module: str, what: str) -> None:
    """Add one command or group; where the wheel for devices leaves it out, one that says so."""
    package = f"qflare.cli.{module}"
    try:
        found = getattr(import_module(package), what)
    except ModuleNotFoundError as missing:
        if missing.name != package:
            raise
        _add_left_out(name, package)
        return
    if isinstance(found, typer.Typer):
        app.add_typer(found)
    else:
        app.command(name)(found)


def _add_left_out(name: str, package: str) -> None:
    @app.command(name, context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
    def command() -> None:
        """Not in the wheel for devices: the whole wheel has it."""
        raise MissingExtraError(feature="this command", extra="server", package=package)


for _command in _COMMANDS:
    _add(*_command)
