"""Group a batch by tenant: SQL works inside one tenant at a time, C over all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from qflare.model.ids import TenantId

Item = TypeVar("Item")


def by_tenant(items: Iterable[Item], tenant_of: Callable[[Item], TenantId]) -> dict[TenantId, list[Item]]:
    """Return the items of each tenant, in order of arrival."""
    groups: dict[TenantId, list[Item]] = {}
    for item in items:
        groups.setdefault(tenant_of(item), []).append(item)
    return groups
