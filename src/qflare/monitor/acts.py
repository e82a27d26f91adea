"""What operators do, as the log tells it: each act by the name under which `parameters` weighs it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from qflare.model.event import SecurityEventType
from qflare.model.response import RULE_PREFIX
from qflare.monitor.parameters import OPERATOR_ACT_WEIGHTS

if TYPE_CHECKING:
    from qflare.model.event import AuditEntry

ACT_TYPES: Final = (SecurityEventType.OPERATOR_ACTION, SecurityEventType.TOKEN_ISSUED)
"""
Types of the entries that are acts.

Devices out of service, certificates and tenants are read where they stand: entries of the first two have types that
every device's own rotations have too, and a new tenant's is in its own log.
"""
_BY_ACTION: Final = "response carried out"
_OTHER: Final = "another operator act"


def act_of(entry: AuditEntry) -> str | None:
    """
    Return what an entry of `ACT_TYPES` tells of, by a name of `OPERATOR_ACT_WEIGHTS`.

    None where no person acted, but a rule of the playbook, and where the entry is sealed or erased.
    """
    if entry.event_type is SecurityEventType.TOKEN_ISSUED:
        return "enrolment token issued"
    try:
        data = json.loads(entry.data)
    except (ValueError, RecursionError):
        return None
    if not isinstance(data, dict) or not data:
        return None
    what, by = data.get("what"), data.get("by")
    if isinstance(by, str) and by.startswith(RULE_PREFIX):
        return None
    act = f"{what}: {data.get('action')}" if what == _BY_ACTION else what
    return act if isinstance(act, str) and act in OPERATOR_ACT_WEIGHTS else _OTHER
