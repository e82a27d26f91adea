"""
The primitives: stateless, synchronous, one and many; buffers in, `bytes` (public) or `SecretBytes` out.

Import the module of the noun: `kem`, `sig`, `hash`, `kdf`, `aead`, `random`; `rows` and `columns` are the shapes.
"""
