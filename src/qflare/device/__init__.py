"""The edge side: a device's identity, state, sessions and records; the smallest thing that speaks QFX-1."""
