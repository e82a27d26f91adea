"""
The keeper's high-water marks: how far a database has come, known outside of it.

Whoever restores an older copy of the database cannot restore these with it: they lie with the sealing keys.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulse:
    """How far a database has come, and in which of its lives: accepting a restored copy begins another one."""

    count: int
    life: bytes
    """16 bytes, random."""

    def follows(self, earlier: Pulse) -> bool:
        """Whether a worker that saw *earlier* sees the same database still; each sees its own counts rise."""
        return self.life == earlier.life and self.count > earlier.count


@dataclass(frozen=True, slots=True, kw_only=True)
class HighWaterMark:
    """What must not go back; 0 or empty where nothing is known yet."""

    pulse: int = 0
    """The store's count of seconds in which it was used, as last seen."""
    server_id: str = ""
    """Whose log it is, in hex."""
    log_size: int = 0
    """The largest size of the log that is known to have been signed, and"""
    log_root: bytes = b""
    """its root, 32 bytes."""
    log_reserved: int = 0
    """No larger size was ever signed: raised before a signature, by a stride."""
    serial: int = 0
    """Of the highest certificate that is known to have been in force; none is issued under it again (A1)."""
    is_accepting: bool = False
    """Whether an operator began to accept a restored database and has not finished."""

    def raised(self, other: HighWaterMark) -> HighWaterMark:
        """Return these marks with each raised to *other*'s; another server's log changes nothing."""
        mark = replace(self, pulse=max(self.pulse, other.pulse))
        if not other.server_id or mark.server_id not in {"", other.server_id}:
            return mark
        mark = replace(
            mark,
            server_id=other.server_id,
            log_reserved=max(mark.log_reserved, other.log_reserved, other.log_size),
            serial=max(mark.serial, other.serial),
        )
        if other.log_size > mark.log_size:
            mark = replace(mark, log_size=other.log_size, log_root=other.log_root)
        return mark

    def replaced(self, other: HighWaterMark) -> HighWaterMark:
        """Return *other*, which an operator accepts; what was reserved or issued by the same server does not fall."""
        is_same_server = self.server_id == other.server_id
        return replace(
            other,
            log_reserved=max(other.log_reserved, other.log_size, self.log_reserved if is_same_server else 0),
            serial=max(other.serial, self.serial if is_same_server else 0),
        )
