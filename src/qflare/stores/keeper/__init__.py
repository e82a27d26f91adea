"""Keepers of the sealing keys, outside the database (PROTOCOL R8)."""

from __future__ import annotations

from qflare.stores.keeper.file import FileKeeper

__all__ = ["FileKeeper"]
