"""What a finished handshake leaves on the device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from qflare.model.ids import SessionId
    from qflare.protocol.evidence import Evidence
    from qflare.protocol.receipt import LogMark
    from qflare.secret import SecretBytes


@dataclass(frozen=True, slots=True, kw_only=True)
class EstablishedSession:
    """A session whose M4 has verified; owns the chain key."""

    sid: SessionId
    form: int
    start: int
    lifetime: int
    """Buckets; the last is start + lifetime - 1."""
    policy: int
    chain_key: SecretBytes
    """CK_start, 64 bytes (H10)."""
    evidence: Evidence
    log_mark: LogMark
    """The largest (size, root) seen of the log, this one included; stored durably (H9)."""
    hdr_bucket: int

    @property
    def bucket_mark(self) -> int:
        """Return what the device's bucket mark is raised to, if it is lower: hdr.b - 1 (A5)."""
        return max(0, self.hdr_bucket - 1)

    def wipe(self) -> None:
        """Destroy the chain key."""
        self.chain_key.wipe()

    def __enter__(self) -> Self:
        """Lend the session to a block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Destroy the chain key at the end of the block."""
        self.wipe()
