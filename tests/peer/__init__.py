"""
A second, small implementation of QFX-1, written from docs/protocol.md alone.

It shares no code with ``src/`` and needs only `cryptography`, `pycryptodome`
(KMAC256) and hashlib. It is an oracle for tests: readable, both roles, no
batches, no storage, no protection of secrets in memory. Never run it in production.
"""
