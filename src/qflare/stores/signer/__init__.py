"""The way to a signer of the log's heads: a unix socket."""

from qflare.stores.signer.client import SignerClient

__all__ = ["SignerClient"]
