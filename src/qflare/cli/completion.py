"""
`qflare completion`: the script with which a shell completes commands and options.

The script holds every word itself, so that pressing Tab starts no Python.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Annotated, TypeAlias

import typer


class Shell(StrEnum):
    """Shells that the script can be for."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


Words: TypeAlias = Mapping[tuple[str, ...], tuple[Sequence[str], Sequence[str]]]
"""Of each command by its path: the commands below it, and its options."""


def completion(
    shell: Annotated[Shell, typer.Argument(metavar="bash|zsh|fish", help="The shell.")],
) -> None:
    """Print a shell's completion script; source it, or put it where the shell looks."""
    from qflare.cli.commands import app

    words = dict(_walk(typer.main.get_command(app), ()))
    if shell is Shell.FISH:
        print(_fish(words), flush=True)
    elif shell is Shell.ZSH:
        print(f"autoload -Uz compinit bashcompinit && compinit && bashcompinit\n{_bash(words)}", flush=True)
    else:
        print(_bash(words), flush=True)


def _walk(
    command: object, path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], tuple[Sequence[str], Sequence[str]]]]:
    commands: Mapping[str, object] = getattr(command, "commands", {})
    parameters: Sequence[object] = getattr(command, "params", ())
    options: list[str] = ["--help"]
    for parameter in parameters:
        names: Sequence[str] = getattr(parameter, "opts", ())
        options += [name for name in names if name.startswith("--")]
    yield path, (sorted(commands), sorted(options))
    for name, inner in commands.items():
        yield from _walk(inner, (*path, name))


def _bash(words: Words) -> str:
    known = "|".join(f'"{" ".join(path)}"' for path in words if path)
    cases = "\n".join(
        f'        "{" ".join(path)}") words="{" ".join([*commands, *options])}" ;;'
        for path, (commands, options) in words.items()
    )
    return f"""\
_qflare() {{
    local word="${{COMP_WORDS[COMP_CWORD]}}" path="" next="" words="" place
    for ((place = 1; place < COMP_CWORD; place++)); do
        next="${{path:+$path }}${{COMP_WORDS[place]}}"
        case "$next" in
            {known}) path="$next" ;;
            -*) ;;
            *) if [ -z "$path" ]; then COMPREPLY=(); return; fi ;;
        esac
    done
    case "$path" in
{cases}
    esac
    COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o default -F _qflare qflare"""


def _fish(words: Words) -> str:
    lines = []
    for path, (commands, options) in words.items():
        seen = [f"__fish_seen_subcommand_from {name}" for name in path]
        if commands:
            below = f"not __fish_seen_subcommand_from {' '.join(commands)}"
            condition = "; and ".join([*seen, below])
            lines.append(f"complete -c qflare -f -n '{condition}' -a '{' '.join(commands)}'")
        lines += [
            f"complete -c qflare -n '{'; and '.join(seen) or 'true'}' -l {name.removeprefix('--')}" for name in options
        ]
    return "\n".join(lines)
