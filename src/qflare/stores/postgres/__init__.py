"""The store on PostgreSQL through asyncpg: `open_store` makes one, `install_schema` sets up an empty database."""

from __future__ import annotations

from qflare.stores.postgres.pool import PoolSettings, open_connection, open_pool
from qflare.stores.postgres.schema import check_schema, install_schema, plan_migration
from qflare.stores.postgres.store import PostgresStore, open_store

__all__ = [
    "PoolSettings",
    "PostgresStore",
    "check_schema",
    "install_schema",
    "open_connection",
    "open_pool",
    "open_store",
    "plan_migration",
]
