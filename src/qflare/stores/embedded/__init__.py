"""A real PostgreSQL in a data folder, from the binaries of a wheel: nothing to install or administer by hand."""

from __future__ import annotations

from qflare.stores.embedded.server import EmbeddedServer, open_embedded

__all__ = ["EmbeddedServer", "open_embedded"]
