"""`main`: the only place where an error becomes text and an exit code."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from qflare.cli.exits import ExitCode, code_of
from qflare.cli.interrupts import ended_by_interrupts
from qflare.cli.output import say_error
from qflare.errors import MissingExtraError, QflareError


def main() -> None:
    """Run the command line tool; the console script's entry."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """
    Run one command and return its exit code.

    Everything QFLARE raises becomes one line on stderr; QFLARE_DEBUG=1 shows the traceback as well.
    """
    as_json = "--json" in arguments
    try:
        return _run(arguments)
    except QflareError as error:
        _show_traceback()
        say_error(type(error).__name__, str(error), as_json=as_json)
        return code_of(error)
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        # Whoever read us has gone, such as `head`: nothing is left to tell.
        sys.stderr.close()
        return ExitCode.FAILED
    except OSError as error:
        _show_traceback()
        say_error(type(error).__name__, _os_message(error), as_json=as_json)
        return ExitCode.FAILED
    except Exception as error:  # noqa: BLE001 - a fault of ours is no traceback for an operator either
        _show_traceback()
        text = f"internal error ({type(error).__name__}); run again with QFLARE_DEBUG=1 for the traceback"
        say_error(type(error).__name__, text, as_json=as_json)
        return ExitCode.FAILED


def _run(arguments: Sequence[str]) -> int:
    with ended_by_interrupts():
        try:
            import typer  # noqa: F401 - the base install has no command line
        except ImportError:
            raise MissingExtraError(feature="the command line tool", extra="cli", package="typer") from None
        from qflare.cli.commands import app

    try:
        app(args=list(arguments), prog_name="qflare")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else ExitCode.OK
    except ModuleNotFoundError as missing:
        if not (missing.name or "").startswith("qflare."):
            raise
        package = missing.name or ""
    else:
        return ExitCode.OK
    # The wheel for devices has the commands of a device only.
    raise MissingExtraError(feature="this command", extra="server", package=package)


def _show_traceback() -> None:
    try:
        from qflare.service.config import is_debug
    except ModuleNotFoundError:
        return  # the wheel for devices: no settings to read

    if is_debug():
        import traceback

        traceback.print_exc()


def _os_message(error: OSError) -> str:
    reason = error.strerror or type(error).__name__
    return f"{error.filename}: {reason}" if error.filename else reason
