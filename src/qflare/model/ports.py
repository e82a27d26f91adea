"""
Ports: what `manager`, `monitor` and `service` may ask of a store; those of one noun stand in files of their own.

Every store method is one transaction: a state change and its audit entries commit together or not at all (DESIGN,
decision 7).  A call that is repeated, by the store after a lost connection or by its caller with the same message, keys
or call id, ends once (decision 0031).  Methods that take a `tenant_id` work inside that tenant alone (row-level
security).  All raise `StoreUnavailableError` when the store does not answer in time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from qflare.model.change_ports import ChangeStore
from qflare.model.device_ports import DeviceStore
from qflare.model.erasure_ports import ErasureStore
from qflare.model.identity_ports import IdentityStore
from qflare.model.key_record_ports import KeyRecordStore
from qflare.model.log_ports import LogStore
from qflare.model.monitor_ports import IncidentStore, ShareStore
from qflare.model.operator_ports import OperatorStore
from qflare.model.reply_ports import ReplyStore
from qflare.model.response_ports import ResponseStore
from qflare.model.rotation_ports import RotationStore
from qflare.model.session_ports import SessionStore
from qflare.model.two_person_control import TwoPersonControlStore

if TYPE_CHECKING:
    from qflare.model.mark import Pulse
    from qflare.model.statistics import PoolStatistics


class Store(
    IdentityStore,
    DeviceStore,
    RotationStore,
    SessionStore,
    ReplyStore,
    LogStore,
    KeyRecordStore,
    ChangeStore,
    IncidentStore,
    ShareStore,
    OperatorStore,
    ErasureStore,
    ResponseStore,
    TwoPersonControlStore,
    Protocol,
):
    """All of it; `stores.postgres` does it."""

    async def pulse(self) -> int:
        """Return how often `raise_pulse` was called in this store's life: less in a restored copy."""

    async def raise_pulse(self) -> Pulse:
        """Count on, and return the new count with the life of the database in which it is."""

    async def begin_anew(self, *, bucket: int) -> int:
        """
        End what a restored copy must not bring back, and return how many sessions were live.

        Sessions end, tokens that were not used expire, every live bucket goes with what lies in it, the bucket mark
        rises to *bucket*, and the database begins another life.
        """

    def pool_statistics(self) -> PoolStatistics | None:
        """Return how many connections are in use, None where there are none."""

    async def check(self) -> None:
        """Raise `StoreUnavailableError` or `SchemaMismatchError` if the store cannot be used."""

    async def close(self) -> None:
        """Release what the store opened itself."""
