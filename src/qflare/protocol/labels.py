"""
Every label of QFX-1, in one table (docs/protocol.md, N1); a golden test pins it.

No label of Expand is "extract", so that Extract and Expand never share a customisation string.
"""

from __future__ import annotations

from typing import Final

# --- the first part of H ----------------------------------------------------------------------------------------------

HASH_SERVER: Final = b"server"
"""A1: server_id."""
HASH_DEVICE: Final = b"device"
"""H2: ref."""
HASH_WHO: Final = b"who"
"""H9: who, in the leaf."""
HASH_HELLO: Final = b"QFX/1 hello"
"""H1: th1 of a hello."""
HASH_OFFER: Final = b"QFX/1 offer"
"""O1: th1 of an offer."""
HASH_ENROL: Final = b"QFX/1 enrol"
"""E2: th1 of an enrolment."""

HASH_LABELS: Final = (HASH_SERVER, HASH_DEVICE, HASH_WHO, HASH_HELLO, HASH_OFFER, HASH_ENROL)

# --- the label of Expand ("QFX1 " is put in front) --------------------------------------------------------------------

EXPAND_M1: Final = "m1"
"""H2: key of c1."""
EXPAND_M2: Final = "m2"
"""H4: key of c2."""
EXPAND_FINISHED_DEVICE: Final = "fin d"
"""H7, O2: the device's tag."""
EXPAND_FINISHED_SERVER: Final = "fin s"
"""H9: the server's tag."""
EXPAND_PRE: Final = "pre"
"""O2: the tag that is checked before any decapsulation."""
EXPAND_WHO: Final = "who"
"""H9: blinds the device's name in the leaf."""
EXPAND_CHAIN: Final = "chain"
"""H10: the first chain key."""
EXPAND_BUCKET: Final = "bucket"
"""R1: the next chain key."""
EXPAND_KEY: Final = "key"
"""R2: message keys."""
EXPAND_STREAM: Final = "stream"
"""R3: the key of one stream."""
EXPAND_REPLY: Final = "reply"
"""R6: the key of a reply that may come late."""
EXPAND_REKEY: Final = "rekey"
"""R7: the first chain key of the next epoch."""
EXPAND_ENROL: Final = "enr"
"""E2: key of ENROL's c1."""
EXPAND_ENROLLED: Final = "enr d"
"""E3: key of ENROLLED."""
EXPAND_MAP: Final = "map"
"""K1: a mapping's first chain key."""
EXPAND_MAP_KEY: Final = "map key"
"""K2: communication keys."""

EXPAND_LABELS: Final = (
    EXPAND_M1,
    EXPAND_M2,
    EXPAND_FINISHED_DEVICE,
    EXPAND_FINISHED_SERVER,
    EXPAND_PRE,
    EXPAND_WHO,
    EXPAND_CHAIN,
    EXPAND_BUCKET,
    EXPAND_KEY,
    EXPAND_STREAM,
    EXPAND_REPLY,
    EXPAND_REKEY,
    EXPAND_ENROL,
    EXPAND_ENROLLED,
    EXPAND_MAP,
    EXPAND_MAP_KEY,
)

# --- the context string of SIG ----------------------------------------------------------------------------------------

CONTEXT_CERTIFICATE: Final = b"QFX1 crt"
"""A1, under the root (ML-DSA-87)."""
CONTEXT_ANNOUNCEMENT: Final = b"QFX1 ann"
"""A3, under the announce key."""
CONTEXT_DEVICE: Final = b"QFX1 dev"
"""H2, under the device's identity key."""
CONTEXT_ENROL: Final = b"QFX1 enr"
"""E2, under the new identity key."""
CONTEXT_ROTATION: Final = b"QFX1 rot"
"""E4, under the old and the new identity key."""
CONTEXT_MAPPING: Final = b"QFX1 map"
"""K1, under the server key of a mapping."""
CONTEXT_RECEIPT: Final = b""
"""H9, under the log key: C2SP's message, which separates itself."""

SIGNATURE_CONTEXTS: Final = (
    CONTEXT_CERTIFICATE,
    CONTEXT_ANNOUNCEMENT,
    CONTEXT_DEVICE,
    CONTEXT_ENROL,
    CONTEXT_ROTATION,
    CONTEXT_MAPPING,
    CONTEXT_RECEIPT,
)

# --- magics -----------------------------------------------------------------------------------------------------------

MAGIC_CERTIFICATE: Final = b"QFX1-CRT"
MAGIC_ANNOUNCEMENT: Final = b"QFX1-ANN"
MAGIC_MAPPING: Final = b"QFX1-MAP"
MAGIC_LEAF: Final = b"QFX1 LEAF"

MAGICS: Final = (MAGIC_CERTIFICATE, MAGIC_ANNOUNCEMENT, MAGIC_MAPPING, MAGIC_LEAF)

# --- reserved purposes of message keys (R2) ---------------------------------------------------------------------------

PURPOSE_RESERVED_PREFIX: Final = b"qfx."
PURPOSE_RECORD: Final = b"qfx.record"
PURPOSE_CONTROL: Final = b"qfx.control"

PURPOSES: Final = (PURPOSE_RECORD, PURPOSE_CONTROL)
