"""Post-quantum session keys for federated-learning aggregation servers."""
