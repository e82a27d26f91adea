"""
QFX-1, the session protocol: bytes in, bytes out; no socket, no clock, no database.

Every step works on a batch, and carries the id it has in docs/protocol.md.
"""
