"""What the detector looks for: the names under which incidents are opened (docs/detection.md)."""

from __future__ import annotations

from enum import StrEnum


class Signal(StrEnum):
    """One kind of suspicion; an incident has exactly one."""

    FORGED_MESSAGES = "forged-messages"
    """Messages in a known device's name whose signature or tag does not hold."""
    BROKEN_MESSAGES = "broken-messages"
    """Messages of nobody in particular whose tag does not hold under a live key."""
    BAD_TICKETS = "bad-tickets"
    """Last messages of handshakes whose ticket or tag does not hold."""
    DEAD_BUCKETS = "dead-buckets"
    """Messages for buckets that are gone: clocks that are wrong, or old messages sent again."""
    REPLAYS = "replays"
    """What was taken already, sent again in the same name."""
    BROKEN_RANDOMNESS = "broken-randomness"
    """What is drawn at random came twice: a key, a ciphertext, a stream id."""
    CLONE = "clone"
    """One identity in two places: sessions used in turn, key versions or epochs that diverge."""
    SCAN = "scan"
    """Names tried that no device has, or announcements fetched without handshakes."""
    HALF_OPEN = "half-open"
    """Handshakes begun and not finished."""
    ENROLMENT_GUESSING = "enrolment-guessing"
    """Enrolments whose token does not hold."""
    USE_AFTER_REVOCATION = "use-after-revocation"
    """Messages of devices that were suspended or revoked."""
    OPERATOR_ACTS = "operator-acts"
    """More revocations, tokens or changes by operators than is usual here."""
    AUDIT_LAG = "audit-lag"
    """Entries of the log that no signed head covers for longer than is usual."""
    LOG_ALTERED = "log-altered"
    """A row of the log is not what was hashed."""
    KEY_NOT_DESTROYED = "key-not-destroyed"
    """A bucket's key that should be gone is not."""
    CLOCK_SKEW = "clock-skew"
    """A worker's clock and the database's differ."""
    UPDATE_NORM = "update-norm"
    """An update whose norm is far from its device's own: a hint of poisoning, no proof."""
