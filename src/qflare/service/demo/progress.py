"""
What the demo shows while it runs: a live view on a terminal, plain lines elsewhere, nothing where JSON is asked for.
"""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Final, Protocol, Self, TextIO

from qflare.service.demo.extras import demo_package
from qflare.service.demo.wording import SPACE, named, percent

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

    from qflare.service.demo.result import AttackRecord

_SPARKS: Final = "▁▂▃▄▅▆▇█"
_SPARKS_MAX: Final = 40
_REFRESHES_A_SECOND: Final = 8


class Progress(Protocol):
    """Where a run reports what it is doing; no call fails because of what is shown."""

    def step(self, title: str) -> AbstractContextManager[None]:
        """Show *title* as going on while the block runs, then as done, or as failed if it raises."""

    def note(self, text: str) -> None:
        """Show one line about something that happened, such as a bucket turn."""

    def round_done(self, index: int, *, rounds: int, accuracy: float, devices: int) -> None:
        """Show the accuracy (0 to 1) after round *index* (zero-based) of *rounds*."""

    def attack_done(self, attack: AttackRecord) -> None:
        """Show an attempt and what came of it."""


@contextmanager
def open_progress(*, is_json: bool = False, stream: TextIO | None = None) -> Iterator[Progress]:
    """
    Open the view that fits *stream*: live on a terminal, plain lines elsewhere, silent with *is_json*.

    Args:
        is_json: Whether standard output carries JSON, so that nothing else may.
        stream: Where to show progress; standard output if None.

    Raises:
        MissingExtraError: The stream is a terminal and rich is not installed.
    """
    stream = sys.stdout if stream is None else stream
    if is_json:
        yield SilentProgress()
    elif not stream.isatty():
        yield PlainProgress(stream)
    else:
        view = LiveProgress(stream)
        with view:
            yield view


class SilentProgress:
    """Shows nothing."""

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Run the block."""
        del title
        yield

    def note(self, text: str) -> None:
        """Do nothing."""

    def round_done(self, index: int, *, rounds: int, accuracy: float, devices: int) -> None:
        """Do nothing."""

    def attack_done(self, attack: AttackRecord) -> None:
        """Do nothing."""


class PlainProgress:
    """Writes a line for each thing that happens, for logs and pipes."""

    def __init__(self, stream: TextIO) -> None:
        """Write to *stream*, which stays open."""
        self._stream = stream

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Write when the block begins, and when it ends how."""
        self._line(f"{title} …")
        try:
            yield
        except BaseException:
            self._line(f"{title}: failed")
            raise
        self._line(f"{title}: done")

    def note(self, text: str) -> None:
        """Write the line."""
        self._line(text)

    def round_done(self, index: int, *, rounds: int, accuracy: float, devices: int) -> None:
        """Write the round's accuracy."""
        self._line(f"round {index + 1} of {rounds}: {devices} devices, accuracy {percent(accuracy)}")

    def attack_done(self, attack: AttackRecord) -> None:
        """Write the attempt and what came of it."""
        self._line(f"{named(attack.name, attack.times)}: {_outcome(attack)}")

    def _line(self, text: str) -> None:
        """Write *text*, at once and with plain spaces, so that a log can be searched."""
        self._stream.write(text.replace(SPACE, " ") + "\n")
        self._stream.flush()


class LiveProgress:
    """Steps with a spinner, the accuracy so far and a table of attempts, redrawn in place on a terminal."""

    def __init__(self, stream: TextIO) -> None:
        """Prepare a view on *stream*, a terminal; it draws between ``__enter__`` and ``__exit__``."""
        with demo_package("rich", feature="the demo's live view"):
            from rich.console import Console
            from rich.live import Live
            from rich.spinner import Spinner
        self._console = Console(file=stream, highlight=False)
        self._spinner_type = Spinner
        self._running: list[Spinner] = []
        self._accuracies: list[float] = []
        self._training = ""
        self._attacks: list[AttackRecord] = []
        self._live = Live(
            console=self._console,
            refresh_per_second=_REFRESHES_A_SECOND,
            get_renderable=self._render,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def __enter__(self) -> Self:
        """Begin to draw."""
        self._live.__enter__()
        return self

    def __exit__(self, *details: object) -> None:
        """Draw once more and leave the last picture standing."""
        self._running.clear()
        self._live.refresh()
        self._live.stop()

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Show a spinner while the block runs, then a line above the live part that says how it ended."""
        spinner = self._spinner_type("dots", text=_plain(title), style="cyan")
        self._running.append(spinner)
        try:
            yield
        except BaseException:
            self._running.remove(spinner)
            self._print("✕", "red", title)
            raise
        self._running.remove(spinner)
        self._print("✓", "cyan", title)

    def note(self, text: str) -> None:
        """Show the line above the live part."""
        self._print("·", "dim", text, style="dim")

    def round_done(self, index: int, *, rounds: int, accuracy: float, devices: int) -> None:
        """Redraw the line of accuracy."""
        self._accuracies.append(accuracy)
        self._training = f"round {index + 1}/{rounds}, {devices} devices, accuracy {percent(accuracy)}"

    def attack_done(self, attack: AttackRecord) -> None:
        """Add a row to the table of attempts."""
        self._attacks.append(attack)

    def _print(self, mark: str, mark_style: str, text: str, *, style: str = "") -> None:
        """Write a line that stays, above the live part."""
        line = _plain(f"{mark} ", mark_style)
        line.append(text, style=style)
        self._console.print(line)

    def _render(self) -> RenderableType:
        """Return the live part: what is running, the accuracy line, the attempts so far."""
        from rich.console import Group

        parts: list[RenderableType] = list(self._running)
        if self._accuracies:
            line = _plain("  " + spark_line(self._accuracies) + " ", "cyan")
            line.append(self._training)
            parts.append(line)
        if self._attacks:
            parts.append(self._attack_table())
        return Group(*parts)

    def _attack_table(self) -> Table:
        """Return the attempts so far as a table."""
        from rich import box
        from rich.table import Table

        table = Table(box=box.SIMPLE_HEAD, header_style="dim", pad_edge=False)
        for heading in ("", "attempt", "reason counted", "log entry"):
            table.add_column(heading)
        for attack in self._attacks:
            table.add_row(
                _plain("✓", "cyan") if attack.is_refused_and_logged else _plain("✕", "red"),
                _plain(named(attack.name, attack.times)),
                _plain(attack.reason or "none"),
                _plain("none" if attack.entry_index is None else f"#{attack.entry_index}"),
            )
        return table


def spark_line(shares: list[float]) -> str:
    """Return the last 40 of *shares* (0 to 1) as a line of bars, one character each."""
    top = len(_SPARKS) - 1
    return "".join(_SPARKS[round(min(max(share, 0.0), 1.0) * top)] for share in shares[-_SPARKS_MAX:])


def _outcome(attack: AttackRecord) -> str:
    """Return what came of an attempt in a few words."""
    answer = "refused" if attack.is_refused else "NOT REFUSED"
    is_counted = attack.reason is not None and attack.counted == attack.times
    counted = f"counted as {attack.reason}" if is_counted else "NOT COUNTED"
    logged = "NOT LOGGED" if attack.entry_index is None else f"log entry {attack.entry_index}"
    return f"{answer}, {counted}, {logged}"


def _plain(text: str, style: str = "") -> Text:
    """Return *text* for rich, its brackets taken as they are."""
    from rich.text import Text

    return Text(text, style=style)
