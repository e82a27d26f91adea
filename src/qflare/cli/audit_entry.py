"""How commands show an entry of the log."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qflare.model.event import AuditEntry


def entry_facts(entry: AuditEntry, *, is_sealed: bool = False) -> dict[str, object]:
    """Return an entry for scripts; of one that *is_sealed* nothing that its row stores."""
    return {
        "index": entry.index,
        "event_type": entry.event_type.value,
        "severity": entry.severity.value,
        "device_id": entry.device_id,
        "recorded_at": entry.recorded_at.isoformat(timespec="milliseconds"),
        "leaf_hash": entry.leaf_hash,
        "is_erased": entry.is_erased,
        "data": None if is_sealed else entry.data.decode(),
        **({"is_sealed": True} if is_sealed else {}),
    }


def entry_line(entry: AuditEntry, *, is_sealed: bool = False) -> str:
    """Return an entry as one line for people, in which nothing moves a terminal's cursor or turns the text around."""
    facts = entry_facts(entry, is_sealed=is_sealed)
    said = "(sealed)" if is_sealed else "(erased)" if entry.is_erased else facts["data"]
    line = (
        f"{entry.index:>8}  {facts['recorded_at']}  {facts['severity']:8}  {facts['event_type']:22}"
        f"  {entry.device_id or ''}  {said}"
    )
    return "".join(char if char.isprintable() else f"\\u{ord(char):04x}" for char in line)
