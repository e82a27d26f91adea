"""What commands print: for people, or one JSON object for scripts."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence


def emit(facts: Mapping[str, object], *, as_json: bool, text: str | None = None) -> None:
    """
    Print a command's result to stdout.

    Args:
        facts: The result; bytes are written in hex.
        as_json: Whether a script reads it.
        text: What people read; the facts, aligned, if not given.
    """
    if as_json:
        print(json.dumps(facts, sort_keys=True, default=_as_json), flush=True)
    else:
        print(aligned(facts) if text is None else text, flush=True)


def aligned(facts: Mapping[str, object]) -> str:
    """Return *facts* as one line each, values in a column."""
    width = max((len(name) for name in facts), default=0)
    return "\n".join(f"{name.replace('_', ' '):{width}}  {_as_text(value)}" for name, value in facts.items())


def say_error(kind: str, message: str, *, as_json: bool) -> None:
    """Print one line about an error to stderr."""
    # One line, whatever a message holds: scripts and logs read it by lines.
    line = " ".join(message.split()) or kind
    if as_json:
        print(json.dumps({"error": kind, "message": line}, sort_keys=True), file=sys.stderr, flush=True)
    else:
        print(f"qflare: {line}", file=sys.stderr, flush=True)


def _as_json(value: object) -> object:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Mapping):
        return dict(value)
    return str(value)


def _as_text(value: object) -> str:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_as_text(item)}" for name, item in value.items()) or "none"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(_as_text(item) for item in value) or "none"
    if isinstance(value, bool):  # before all else: 1 == True, and one head is not "yes"
        return "yes" if value else "no"
    return "none" if value is None else str(value)
