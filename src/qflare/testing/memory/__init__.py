"""The store in memory: the ports of `model.ports` on dictionaries, one file a noun as in `stores.postgres`."""
