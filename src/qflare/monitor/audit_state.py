"""
Where a check of the log was interrupted: what it had checked, so that the next run says what it did not read again.

A tag over the whole, under a key that was made for this check alone, tells damage and whatever another hand wrote: who
cannot read the key can make a check begin anew, and never one pass that would not.
"""

from __future__ import annotations

import hmac
import json
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from qflare.errors import DecodeError
from qflare.model.ids import TenantId
from qflare.monitor.headings import Headings
from qflare.protocol.log import SIZE_MAX, Frontier

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qflare.secret import SecretBytes

FORMAT: Final = "qflare-audit-state-3"
BYTES_MAX: Final = 1 << 26


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditState:
    """How far a check has come."""

    scope: str
    """What is checked, and how: another log, other receipts or another depth begin anew."""
    first: int
    """Index of the first entry that the check read."""
    frontier: Frontier
    """Of the entries that were checked."""
    roots: dict[int, bytes]
    """The root at every size that the check decides by and has reached."""
    signed_size: int
    """Entries under the last stored head that was checked."""
    heads: int
    kinds: Counter[str]
    tenants: frozenset[bytes]
    erased: int
    unsaid: dict[int, TenantId]
    """Entries whose key is gone, of which no entry that was read says that they were erased."""
    headings: Headings
    """Under which heading the next sessions stand."""
    checked_at_s: int
    """When it was written, POSIX seconds."""

    def encode(self, key: SecretBytes) -> bytes:
        """Return it as JSON, with HMAC-SHA256 over everything in it under *key*, 32 bytes."""
        facts: dict[str, object] = {
            "format": FORMAT,
            "scope": self.scope,
            "first": self.first,
            "checked": self.frontier.size,
            "frontier": [each.hex() for each in self.frontier.hashes],
            "roots": {str(size): root.hex() for size, root in sorted(self.roots.items())},
            "signed_size": self.signed_size,
            "heads": self.heads,
            "entries": dict(self.kinds),
            "tenants": sorted(each.hex() for each in self.tenants),
            "erased": self.erased,
            "unsaid": {str(index): tenant.hex() for index, tenant in sorted(self.unsaid.items())},
            "heading": None
            if self.headings.tenant_id is None
            else {"tenant": self.headings.tenant_id.hex(), "time_ms": self.headings.recorded_at_ms},
            "headed_from": self.headings.first,
            "checked_at_s": self.checked_at_s,
        }
        return json.dumps(facts | {"hmac": _tag(facts, key)}, sort_keys=True, indent=1).encode() + b"\n"

    @classmethod
    def decode(cls, encoded: bytes, key: SecretBytes) -> AuditState:
        """
        Read it back.

        Raises:
            DecodeError: it is none, damaged, or was not written under *key*.
        """
        problem = DecodeError(
            "the state of an interrupted check is damaged, or was not written by it: remove the file and begin anew"
        )
        try:
            facts = json.loads(encoded)
            tag = facts.pop("hmac")
            if facts["format"] != FORMAT or not hmac.compare_digest(tag.encode(), _tag(facts, key).encode()):
                raise problem
            size = facts["checked"]
            if not 0 <= facts["first"] <= size <= SIZE_MAX:
                raise problem
            return cls(
                scope=facts["scope"],
                first=facts["first"],
                frontier=Frontier(size, tuple(bytes.fromhex(each) for each in facts["frontier"])),
                roots={int(at): bytes.fromhex(root) for at, root in facts["roots"].items()},
                signed_size=facts["signed_size"],
                heads=facts["heads"],
                kinds=Counter(facts["entries"]),
                tenants=frozenset(bytes.fromhex(each) for each in facts["tenants"]),
                erased=facts["erased"],
                unsaid={int(index): TenantId(bytes.fromhex(tenant)) for index, tenant in facts["unsaid"].items()},
                headings=_headings(facts["heading"], facts["headed_from"]),
                checked_at_s=facts["checked_at_s"],
            )
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise problem from None


def _headings(heading: Mapping[str, object] | None, first: int | None) -> Headings:
    headings = Headings(first=first)
    if heading is not None:
        tenant, time_ms = heading["tenant"], heading["time_ms"]
        if not isinstance(tenant, str) or not isinstance(time_ms, int):
            raise TypeError
        headings.tenant_id, headings.recorded_at_ms = TenantId(bytes.fromhex(tenant)), time_ms
    return headings


def _tag(facts: dict[str, object], key: SecretBytes) -> str:
    return hmac.digest(key.view(), json.dumps(facts, sort_keys=True).encode(), "sha256").hex()
