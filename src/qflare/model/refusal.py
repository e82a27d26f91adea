"""Why a message was refused: told to counters and the log, never to the peer (PROTOCOL N5)."""

from __future__ import annotations

from enum import StrEnum


class Refusal(StrEnum):
    """The true reason of a refusal, in the order in which the checks run."""

    LENGTH = "length"
    TYPE = "type"
    VERSION = "version"
    SUITE = "suite"
    BUCKET = "bucket"
    SEEN = "seen"
    DRAWN_TWICE = "drawn-twice"
    """Another hello with a ciphertext that came before, of a device that proves itself: its random source is broken."""
    TICKET = "ticket"
    EXPIRED = "expired"
    TAG = "tag"
    UNKNOWN_TENANT = "unknown-tenant"
    UNKNOWN_DEVICE = "unknown-device"
    DEVICE_STATE = "device-state"
    KEY_VERSION = "key-version"
    SIGNATURE = "signature"
    ENCAPSULATION_KEY = "encapsulation-key"
    TOKEN = "token"  # noqa: S105 - the name of a reason, no credential
    CONFLICT = "conflict"
    UNKNOWN_SESSION = "unknown-session"
    SESSION_ENDED = "session-ended"
    SESSION_USED_UP = "session-used-up"
    ROTATION_OVERDUE = "rotation-overdue"
    RATE_LIMITED = "rate-limited"
    """More than an operator lets through of this device or its tenant."""
    EPOCH = "epoch"
    REPLAY = "replay"
    NO_REQUEST = "no-request"
    """A reply to a request that nobody made, that was answered, or whose time is over (R6)."""
    TRUNCATED = "truncated"
    SIZE = "size"
    UNEXPECTED = "unexpected"
    OVERLOADED = "overloaded"
    INTERNAL = "internal"
