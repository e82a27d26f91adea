"""Stores: what keeps rows and sealing keys; PostgreSQL behind `model.ports.Store`, files behind `model.ports.Keeper`."""
