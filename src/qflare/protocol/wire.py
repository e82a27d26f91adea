"""
Widths, types and sizes of everything QFX-1 puts on a wire (docs/protocol.md, N2, N3).

Integers are unsigned and big-endian.  Every message but M4 and the record has one fixed size, so that n messages are
n rows.  A name ending in `_BYTES` is a size, one ending in `_AT` a zero-based offset.
"""

from __future__ import annotations

from typing import Final

from qflare.primitives.aead import TAG_BYTES
from qflare.primitives.kem import CT_BYTES, EK_BYTES
from qflare.primitives.sig import SIG44, SIG87

# --- values -----------------------------------------------------------------------------------------------------------

VERSION: Final = 1
SUITE: Final = 0x0001
"""N4: ML-KEM-1024 and ML-DSA-44, the one suite there is."""

TYPE_M1: Final = 1
TYPE_M2: Final = 2
TYPE_M3: Final = 3
TYPE_M4: Final = 4
TYPE_OFFER: Final = 6
TYPE_ANSWER: Final = 7
TYPE_RECORD: Final = 8
TYPE_ENROL: Final = 9
TYPE_ENROLLED: Final = 10
TYPE_REFUSED: Final = 0x7F

FORM_HELLO: Final = 1
FORM_OFFER: Final = 2

DIRECTION_TO_SERVER: Final = 1
DIRECTION_TO_DEVICE: Final = 2

LIFETIME_MAX: Final = 288
"""Buckets a session lives at most (H4)."""
POLICY_KNOWN: Final = 0
"""Policy flags that are defined: none yet; a device refuses any other bit."""
WIDTH_S_DEFAULT: Final = 300
U16_MAX: Final = 2**16 - 1
U32_MAX: Final = 2**32 - 1
U64_MAX: Final = 2**64 - 1

# --- widths (N2) ------------------------------------------------------------------------------------------------------

HASH_BYTES: Final = 64
"""H: SHA3-512."""
SECRET_BYTES: Final = 64
"""ck1, ck2, chain keys, message keys."""
AEAD_KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
TENANT_BYTES: Final = 16
SID_BYTES: Final = 16
REF_BYTES: Final = 32
SERVER_ID_BYTES: Final = 32
STREAM_ID_BYTES: Final = 16
TOKEN_ID_BYTES: Final = 16
TOKEN_SECRET_BYTES: Final = 32
MAPPING_ID_BYTES: Final = 16
PSK_BYTES: Final = 64
NO_PSK: Final = bytes(PSK_BYTES)
"""What stands for a psk where there is none (H4)."""
FINISHED_BYTES: Final = 32
"""Tags "fin d" and "fin s"."""
PRE_BYTES: Final = 16
"""Tag "pre" (O2)."""

# --- messages (N3) ----------------------------------------------------------------------------------------------------

TICKET_HEADER_BYTES: Final = 1 + 8
"""form, b: also the aad of the ticket."""
TICKET_TERMS_BYTES: Final = SID_BYTES + TENANT_BYTES + REF_BYTES + 4 + 8 + 8 + 8 + 2 + 4
"""What stands before the secret in the plaintext: 98."""
TICKET_HELLO_BYTES: Final = (
    TICKET_HEADER_BYTES + NONCE_BYTES + TICKET_TERMS_BYTES + SECRET_BYTES + HASH_BYTES + TAG_BYTES
)
TICKET_OFFER_BYTES: Final = TICKET_HEADER_BYTES + NONCE_BYTES + TICKET_TERMS_BYTES + 32 + HASH_BYTES + TAG_BYTES

M1_BUCKET_AT: Final = 1 + 1 + 2
M1_EK_AT: Final = M1_BUCKET_AT + 8
M1_CT_AT: Final = M1_EK_AT + EK_BYTES
M1_HEADER_BYTES: Final = M1_CT_AT + CT_BYTES
M1_PLAINTEXT_BYTES: Final = TENANT_BYTES + REF_BYTES + 4 + SIG44.SIG_BYTES
M1_C1_BYTES: Final = M1_PLAINTEXT_BYTES + TAG_BYTES
M1_BYTES: Final = M1_HEADER_BYTES + M1_C1_BYTES

TERMS_BYTES: Final = 8 + 2 + 4
"""start, lifetime, policy: the plaintext of c2."""
M2_CT_AT: Final = 1 + 1 + SID_BYTES
M2_C2_AT: Final = M2_CT_AT + CT_BYTES
M2_C2_BYTES: Final = TERMS_BYTES + TAG_BYTES
M2_TICKET_AT: Final = M2_C2_AT + M2_C2_BYTES
M2_BYTES: Final = M2_TICKET_AT + TICKET_HELLO_BYTES

M3_TICKET_AT: Final = 2
M3_TAG_AT: Final = M3_TICKET_AT + TICKET_HELLO_BYTES
M3_BYTES: Final = M3_TAG_AT + FINISHED_BYTES

M4_TAG_AT: Final = 1 + 1 + SID_BYTES
M4_RECEIPT_AT: Final = M4_TAG_AT + FINISHED_BYTES
RECEIPT_PATH_AT: Final = 8 + 8 + 8 + 1
RECEIPT_PATH_MAX: Final = 48
RECEIPT_BYTES_MIN: Final = RECEIPT_PATH_AT + SIG44.SIG_BYTES
M4_BYTES_MIN: Final = M4_RECEIPT_AT + RECEIPT_BYTES_MIN
M4_BYTES_MAX: Final = M4_BYTES_MIN + 32 * RECEIPT_PATH_MAX

OFFER_SID_AT: Final = 1 + 1 + 2 + 8 + 8 + 2 + 4
OFFER_CT_AT: Final = OFFER_SID_AT + SID_BYTES
OFFER_TICKET_AT: Final = OFFER_CT_AT + CT_BYTES
OFFER_BYTES: Final = OFFER_TICKET_AT + TICKET_OFFER_BYTES

ANSWER_TICKET_AT: Final = 2
ANSWER_CT_AT: Final = ANSWER_TICKET_AT + TICKET_OFFER_BYTES
ANSWER_PRE_AT: Final = ANSWER_CT_AT + CT_BYTES
ANSWER_TAG_AT: Final = ANSWER_PRE_AT + PRE_BYTES
ANSWER_BYTES: Final = ANSWER_TAG_AT + FINISHED_BYTES

ENROL_CT_AT: Final = 1 + 1 + 2 + 8
ENROL_HEADER_BYTES: Final = ENROL_CT_AT + CT_BYTES
ENROL_PLAINTEXT_BYTES: Final = (
    TENANT_BYTES + TOKEN_ID_BYTES + TOKEN_SECRET_BYTES + SIG44.PK_BYTES + EK_BYTES + SIG44.SIG_BYTES
)
ENROL_C1_BYTES: Final = ENROL_PLAINTEXT_BYTES + TAG_BYTES
ENROL_BYTES: Final = ENROL_HEADER_BYTES + ENROL_C1_BYTES

ENROLLED_CT_AT: Final = 2
ENROLLED_SEALED_AT: Final = ENROLLED_CT_AT + CT_BYTES
ENROLLED_BYTES: Final = ENROLLED_SEALED_AT + 4 + 8 + TAG_BYTES

RECORD_HEADER_BYTES: Final = 1 + 1 + 1 + SID_BYTES + 8 + 4 + 1 + STREAM_ID_BYTES
REPLY_HEADER_BYTES: Final = RECORD_HEADER_BYTES + STREAM_ID_BYTES
"""A reply's header ends with its request's id (R6)."""

REKEY_CT_AT: Final = 1 + 8 + 4
REKEY_BYTES: Final = REKEY_CT_AT + CT_BYTES
REKEYED_BYTES: Final = 1 + 8 + 4

REFUSED_BYTES: Final = 16
REFUSED: Final = bytes((TYPE_REFUSED, VERSION)) + bytes(14)
"""N5: the same for every reason."""

# --- what begins with a magic -----------------------------------------------------------------------------------------

CERTIFICATE_ORIGIN_AT: Final = 8 + 2 + SERVER_ID_BYTES + 8 + 2 * SIG44.PK_BYTES + 8 + 8 + 1
"""Where CERT's log origin begins; the byte before is its length."""
CERTIFICATE_BYTES_MIN: Final = CERTIFICATE_ORIGIN_AT + 1 + SIG87.SIG_BYTES
ORIGIN_BYTES_MAX: Final = 255
OVERLAP_BUCKETS: Final = 2
"""Buckets after the one in which a device followed to a new CERT for which the one before is still good (A1)."""

ANNOUNCEMENT_EK_AT: Final = 8 + 2 + SERVER_ID_BYTES + 4 + 8
ANNOUNCEMENT_BODY_BYTES: Final = ANNOUNCEMENT_EK_AT + EK_BYTES
ANNOUNCEMENT_BYTES: Final = ANNOUNCEMENT_BODY_BYTES + SIG44.SIG_BYTES

MAPPING_CT_AT: Final = 8 + 2 + MAPPING_ID_BYTES + 4 + 8 + 4 + REF_BYTES + 32 + 32
MAPPING_BODY_BYTES: Final = MAPPING_CT_AT + CT_BYTES
MAPPING_BYTES: Final = MAPPING_BODY_BYTES + SIG44.SIG_BYTES

LEAF_BYTES: Final = 9 + 1 + 1 + 2 + SERVER_ID_BYTES + SID_BYTES + 8 + HASH_BYTES + 32


def u16(value: int) -> bytes:
    """Write *value* in 2 bytes."""
    return value.to_bytes(2, "big")


def u32(value: int) -> bytes:
    """Write *value* in 4 bytes."""
    return value.to_bytes(4, "big")


def u64(value: int) -> bytes:
    """Write *value* in 8 bytes."""
    return value.to_bytes(8, "big")


SUITE_FIELD: Final = u16(SUITE)


def is_refused(message: bytes) -> bool:
    """Return whether *message* is the server's refusal (N5)."""
    return message == REFUSED
