"""`qflare audit tail`: the log's last entries, and those that come."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final

import typer

from qflare.cli import options
from qflare.model.event import EventSeverity, SecurityEventType

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from qflare.model.event import AuditEntry
    from qflare.service.security_monitor import SecurityMonitor

_PAGE: Final = 1000
_SEVERITIES: Final = tuple(EventSeverity)
"""From the least to the most severe."""


def tail(
    *,
    lines: Annotated[int, typer.Option("--lines", metavar="N", min=0, max=10_000, help="How many at the start.")] = 20,
    follow: Annotated[bool, typer.Option("--follow", help="Go on with entries as they come.")] = False,
    kinds: Annotated[
        list[SecurityEventType] | None,
        typer.Option("--type", metavar="TYPE", help="Only this event type; may be given several times."),
    ] = None,
    severity: Annotated[
        EventSeverity, typer.Option("--severity", metavar="LEVEL", help="Only this severe and above.")
    ] = EventSeverity.DEBUG,
    device: Annotated[str | None, typer.Option("--device", metavar="NAME", help="Only what is about it.")] = None,
    every: Annotated[
        float, typer.Option("--every", metavar="S", min=0.1, max=3600, help="Seconds between two looks.")
    ] = 1.0,
    tenant: options.Tenant = None,
    dsn: options.Dsn = None,
    data_dir: options.DataDir = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")] = False,
) -> None:
    """Show the last entries of a tenant's log, and with --follow those that come.

    Erased entries have no device any more, and --device leaves them out.
    """
    import asyncio

    wanted = _Filter(kinds=frozenset(kinds or ()), severity=severity, device=device)
    shown = _Shown(as_json=as_json)
    asyncio.run(_run(wanted, shown, lines=lines, every_s=every if follow else None, place=(dsn, data_dir, tenant)))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Filter:
    kinds: frozenset[SecurityEventType]
    severity: EventSeverity
    device: str | None

    def takes(self, entry: AuditEntry) -> bool:
        return (
            (not self.kinds or entry.event_type in self.kinds)
            and _SEVERITIES.index(entry.severity) >= _SEVERITIES.index(self.severity)
            and (self.device is None or entry.device_id == self.device)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shown:
    as_json: bool

    def entries(self, entries: Sequence[AuditEntry]) -> None:
        from qflare.cli.audit_entry import entry_facts, entry_line
        from qflare.cli.output import emit

        for entry in entries:
            emit(entry_facts(entry), as_json=self.as_json, text=entry_line(entry))


async def _run(
    wanted: _Filter,
    shown: _Shown,
    *,
    lines: int,
    every_s: float | None,
    place: tuple[str | None, Path | None, str | None],
) -> None:
    import asyncio

    from qflare.cli.managing import open_monitor
    from qflare.cli.output import say_error
    from qflare.errors import StoreUnavailableError

    dsn, data_dir, tenant = place
    async with open_monitor(dsn, data_dir, tenant=tenant) as monitor:
        end = await monitor.log_size()
        shown.entries(await _last(monitor, wanted, end, lines))
        while every_s is not None:
            try:
                page = await monitor.list_events(first=end, limit=_PAGE)
            except StoreUnavailableError as failure:
                # It comes back, and nothing is lost meanwhile: the next look begins where this one did.
                say_error(type(failure).__name__, str(failure), as_json=shown.as_json)
                page = ()
            shown.entries([entry for entry in page if wanted.takes(entry)])
            end = page[-1].index + 1 if page else end
            if len(page) < _PAGE:
                await asyncio.sleep(every_s)


async def _last(monitor: SecurityMonitor, wanted: _Filter, end: int, lines: int) -> list[AuditEntry]:
    """Return the last *lines* entries below *end* that are wanted, looking back a page at a time."""
    found: list[AuditEntry] = []
    while end > 0 and len(found) < lines:
        first = max(0, end - _PAGE)
        page = await monitor.list_events(first=first, limit=end - first)
        # Other tenants' entries stand between: the page may reach beyond what was looked at before.
        found = [entry for entry in page if entry.index < end and wanted.takes(entry)] + found
        end = first
    return found[len(found) - lines :] if len(found) > lines else found
