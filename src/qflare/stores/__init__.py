"""Stores: PostgreSQL behind `model.ports.Store`, files of sealing keys behind `model.ports.Keeper`."""
