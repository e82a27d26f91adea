"""
Every number of the detector, each with its reason; what they lead to is measured in docs/detection.md.

Rates of a device are judged by a CUSUM: a score that rises by one for each observation, falls by `allowed` an hour, and
means something at the thresholds of its ladder.  Rates of a tenant's fleet are judged by the same, a minute at a time,
against what is allowed and an EWMA of what is usual.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from qflare.model.event import EventSeverity
from qflare.model.signal import Signal

WARNING, ERROR, CRITICAL = EventSeverity.WARNING, EventSeverity.ERROR, EventSeverity.CRITICAL

Ladder = tuple[tuple[float, EventSeverity], ...]
"""From which score on which severity, the lowest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceRule:
    """How the rate of one signal of one device is judged."""

    allowed: float
    """Observations an hour that mean nothing, however long they go on."""
    ladder: Ladder


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetRule:
    """How the rate of one signal of a tenant's fleet is judged, a minute at a time."""

    allowed: float
    """Observations a minute that mean nothing."""
    share: float
    """What is allowed besides, for each message that was taken in that minute."""
    ladder: Ladder


DEVICE_RULES: Final[dict[Signal, DeviceRule]] = {
    # Whoever gets here knows tenant and ref, and a good link neither flips bits (TCP) nor makes signatures: an honest
    # device has none. Three within an hour are no accident (a score of 2.5, since it falls between them); thirty are
    # somebody who goes on.
    Signal.FORGED_MESSAGES: DeviceRule(allowed=0.5, ladder=((2.5, WARNING), (30, ERROR))),
    # A flaky link makes a device send again what was taken, a handful at a time: the protocol lets it. The device's own
    # usual rate is allowed besides (SOFT_SLACK).
    Signal.REPLAYS: DeviceRule(allowed=4.0, ladder=((12, WARNING), (60, ERROR))),
    # A device that slept begins with an old announcement once or twice, then fetches the new one; a device whose clock
    # is wrong does so at every message. Not told apart from old messages sent again: both need a look.
    Signal.DEAD_BUCKETS: DeviceRule(allowed=4.0, ladder=((12, WARNING), (100, ERROR))),
    # A device learns of its revocation from nobody (N5), so that it tries again, later and later, up to 300 s apart.
    # That is worth knowing and no attack; forty an hour are more than its back-off allows.
    Signal.USE_AFTER_REVOCATION: DeviceRule(allowed=1.0, ladder=((1.5, WARNING), (40, ERROR))),
    # An honest device uses its newest session alone. One step back may be two records that overtook each other.
    Signal.CLONE: DeviceRule(allowed=0.5, ladder=((2.5, ERROR), (20, CRITICAL))),
    # M2 may be lost again and again on a bad link; the same M1 sent again is not counted.
    Signal.HALF_OPEN: DeviceRule(allowed=6.0, ladder=((20, WARNING), (200, ERROR))),
    # Drawn twice by one device: a virtual machine that was restored, or a random source that is broken.
    Signal.BROKEN_RANDOMNESS: DeviceRule(allowed=0.0, ladder=((1, ERROR),)),
    # A hint, no proof: models of one device may change. Never above WARNING, whatever comes.
    Signal.UPDATE_NORM: DeviceRule(allowed=0.0, ladder=((1, WARNING),)),
}

FLEET_RULES: Final[dict[Signal, FleetRule]] = {
    # Anybody can send bytes that do not open; a scanner sends a few. Honest devices have none.
    Signal.BROKEN_MESSAGES: FleetRule(allowed=2, share=0.001, ladder=((20, WARNING), (2000, ERROR))),
    # A ticket is opaque to its device, so that a damaged one is an accident of storage, or somebody's attempt.
    Signal.BAD_TICKETS: FleetRule(allowed=2, share=0.001, ladder=((20, WARNING), (2000, ERROR))),
    # After an outage a whole fleet wakes with old announcements and tickets: half of what is taken is allowed.
    Signal.DEAD_BUCKETS: FleetRule(allowed=30, share=0.5, ladder=((200, WARNING), (20_000, ERROR))),
    Signal.REPLAYS: FleetRule(allowed=10, share=0.05, ladder=((100, WARNING), (5000, ERROR))),
    Signal.FORGED_MESSAGES: FleetRule(allowed=1, share=0.0, ladder=((15, WARNING), (200, ERROR))),
    # Devices of another server, or removed ones, ask now and then; names are 32 bytes of a hash, so that trying them
    # out finds none.
    Signal.SCAN: FleetRule(allowed=5, share=0.01, ladder=((60, WARNING), (5000, ERROR))),
    # Begun handshakes beyond those finished. A flood costs no memory (H5), so this is about load.
    Signal.HALF_OPEN: FleetRule(allowed=20, share=0.2, ladder=((200, WARNING), (20_000, ERROR))),
    # Tokens have 256 bits: guessing is hopeless, and worth knowing.
    Signal.ENROLMENT_GUESSING: FleetRule(allowed=0.5, share=0.0, ladder=((5, WARNING), (500, ERROR))),
    Signal.USE_AFTER_REVOCATION: FleetRule(allowed=10, share=0.01, ladder=((100, WARNING), (5000, ERROR))),
    Signal.CLONE: FleetRule(allowed=1, share=0.0, ladder=((15, ERROR), (150, CRITICAL))),
    # Of several devices: not one that was restored, but a source that they share.
    Signal.BROKEN_RANDOMNESS: FleetRule(allowed=0, share=0.0, ladder=((1, ERROR), (5, CRITICAL))),
    # Acts of operators, by their weights, a minute. An operator removes a device, or a few; a stolen login removes all.
    Signal.OPERATOR_ACTS: FleetRule(allowed=1, share=0.0, ladder=((20, WARNING), (200, ERROR))),
}
OPERATOR_ACT_WEIGHTS: Final[dict[str, float]] = {
    # What a stolen login would do, in units of one device taken out of service: two of the gravest within ten minutes
    # are worth a look, one of them alone is a day's work.
    "device taken out of service": 1,
    # Once in a bucket's life, and never twice in a row: what is in flight ends.
    "response carried out: turn": 11,
    # A few times a year: whoever holds the keys speaks for the server.
    "server certificate in force": 11,
    "response carried out: rotate-identity": 0,  # the certificate that it brings into force is counted
    # Once, in a ceremony: whoever has the root certifies keys, and without it no certificate follows.
    "root exported": 11,
    "root removed": 11,
    # A few times a year: evidence leaves the database.
    "log entries archived": 11,
    # After a disaster: what came after the copy is gone.
    "database restored": 11,
    # Who may log in: three at a first installation are usual, and a thief makes himself a name.
    "operator added": 5,
    "operator renewed": 5,
    "operator revoked": 5,
    # Once, with a person added before: off it lets one thief do what takes two.
    "two-person control on": 5,
    "two-person control is to end": 5,
    "two-person control off": 11,
    # A few in a server's life.
    "tenant created": 5,
    # What keys live by: changed a few times while a fleet is set up.
    "rotation policy set": 5,
    "rotation policy removed": 5,
    # Rarely more than one a subject: it makes evidence unreadable.
    "log entries erased": 2,
    # Each is one device's, and the device itself is counted where it goes out of service.
    "response carried out: quarantine": 0,
    "response carried out: revoke": 0,
    "response carried out: lift": 1,
    "response carried out: rekey": 1,
    "response carried out: rotate-device": 1,
    "response carried out: limit-device": 1,
    "response carried out: limit-tenant": 5,
    "response carried out: limit-source": 5,
    "response carried out: notify": 0,
    # What was done about an attack is taken back.
    "response undone": 3,
    "response dismissed": 1,
    # Incidents are cleared away in turn by whoever looks after them, and all at once by who hides something.
    "incident acknowledged": 0.2,
    "incident closed": 1,
    "incident open": 0.2,
    # A fleet of hundreds is marked or invited in one go; thousands are worth a look.
    "rotation requested": 0.02,
    "enrolment token issued": 0.02,
    # Steps on the way to what is counted, and what everybody does each morning.
    "response proposed": 0,
    "response confirmed": 0,
    "response needs another operator": 0,
    "operator logged in": 0,
    "operator logged out": 0,
    "server keys deactivated": 0,
    "gap of a restored database": 0,
    # What the detector itself writes about all this.
    "incident opened": 0,
    "incident raised": 0,
    # An application's own entries, and what a later version calls otherwise.
    "another operator act": 0.2,
}
"""What each act of an operator adds to `operator-acts`, by what the log calls it."""
ACTS_READ_MAX: Final = 20_000
"""Entries of the log among which acts are looked for at once, about 10 ms: sessions lie between them."""
ACT_PAGES_MAX: Final = 8
"""Times that is done for a tenant at one look: 2,600 entries a second; the next look goes on."""
ANNOUNCEMENT_RULE: Final = FleetRule(allowed=120, share=4.0, ladder=((2000, WARNING),))
"""Announcements are public and cached by proxies; a device fetches at most one a bucket beside its handshakes. Many
times what is taken is somebody who reads bucket after bucket and never speaks: a scan, of little harm."""

FLEET_ALPHA: Final = 1 / 60
"""Weight of one minute in the EWMA of what is usual: an hour's memory, so that a morning is usual by its end."""
FLEET_SLACK: Final = 2.0
"""Times the usual that is allowed besides."""
FLEET_USUAL_MAX: Final = 4.0
"""Times `allowed` that the usual may come to: who trains the detector slowly gains no more than this."""

SOFT_ALPHA: Final = 1 / 24
"""Weight of one hour in a device's own usual rate of repetitions and stale messages: a day's memory."""
SOFT_SLACK: Final = 2.0
"""Times its own usual rate that a device is allowed besides."""
SOFT_USUAL_MAX: Final = 12.0
"""Most of it, an hour: a device cannot train its own rate beyond one every five minutes."""

NORM_ALPHA: Final = 0.1
"""Weight of an update in mean and variance of ln(norm): ten updates' memory, since norms shrink as models settle."""
NORM_WARMUP: Final = 8
"""Updates before anything is said about a device."""
NORM_Z: Final = 6.0
"""Standard deviations from the device's own mean: one in 10^9 if ln(norm) were normal, which it is only nearly."""
NORM_SIGMA_MIN: Final = 0.10
"""Least standard deviation of ln(norm): ten per cent are never far, however even the updates were before."""

OPINION_WINDOW: Final = 60
"""Minutes that the second opinion calls the present: an hour, as the EWMA of fleets."""
OPINION_TREES: Final = 25
"""Its trees: the number of its authors; a minute costs them about half a millisecond."""
OPINION_COUNT_MAX: Final = 1_000_000
"""Count a minute beyond which it sees no more differences of magnitude."""

DEVICES_MAX: Final = 2**18
"""Devices that one worker's detector remembers: 76 bytes each, 19 MiB, taken from the system as they are needed. Where
more are active, the one of four places that was not seen for longest makes room, and is counted."""
MARKS_MAX: Final = 2**17
"""Random marks of each kind that are remembered, 24 bytes each, until another falls in the same place: twice the hellos
that the protocol itself remembers (H3)."""
TENANTS_MAX: Final = 1024
"""Tenants whose fleets are judged apart, about 2 KB each; beyond them they are judged together."""
WAITING_MAX: Final = 65_536
"""Observations that wait for the detector; beyond them the oldest are dropped, and counted."""
SLICE_MAX: Final = 256
"""Observations looked at before the event loop gets its turn: about a millisecond."""
TICK_S: Final = 0.25
"""Time between two looks at what waits: waking for each message would cost more than the look."""
WAKE_AT: Final = 1024
"""Observations at which the detector is woken before that."""
PENDING_MAX: Final = 1024
"""Incidents on their way into the database; beyond them devices are folded into their fleet's incident."""
OPENED_PER_FLUSH: Final = 32
"""Devices of one signal with incidents of their own in one report, for the same reason: who forges messages of ten
thousand devices does not fill the list."""

FLUSH_S: Final = 2.0
"""Time between two reports: long enough to add up, short beside a person's reaction."""
LOOK_S: Final = 60.0
"""Time between two looks at gauges (clocks, keys, the log), jittered by a tenth."""
SAVE_S: Final = 300.0
"""Time between two saves of what is remembered: what a crash loses. At its end a worker saves in any case."""
STATE_AGE_S: Final = 86_400
"""Age at which a device's scores are not saved any more: they are at zero by then."""
STATE_NORMS_AGE_S: Final = 30 * 86_400
"""Age at which the history of a device's norms is not saved any more: rounds may be weeks apart."""
STATE_DEVICES_MAX: Final = 12_000
"""Devices of one tenant that are saved, those with the highest scores first: the row stays below 1 MiB."""

SHARE_DEVICES_MAX: Final = 2048
"""Devices and signals that a worker tells the others of at once, about 140 bytes each; more within two seconds are an
attack on the fleet, whose counts are told in any case."""
SHARE_FLEETS_MAX: Final = 2048
"""Rates of fleets that are told at once, about 75 bytes each; beyond them they are told as the default tenant's."""
SHARE_SESSIONS_MAX: Final = 4096
"""Devices whose newest session is told at once, about 40 bytes each: two thousand handshakes a second."""
SHARE_MARKS_MAX: Final = 2048
"""Keys and ciphertexts of handshakes and enrolments that are told at once, about 150 bytes each: a source that gives
the same twice does so again, so that what is left out in a storm of handshakes is found after it."""
SHARES_READ_MAX: Final = 64
"""Shares of others that are read at once; the next exchange goes on."""
SHARE_KEPT_S: Final = 600
"""Age at which a share is forgotten: twice the time between two saves, so that a worker that starts finds all that was
counted since the state that it recalls, and one that lost the database for minutes misses nothing."""
ENDED_MAX: Final = 4096
"""Handshakes remembered that ended here before the worker with which they were begun has told of them."""

AUDIT_LAG_LADDER: Final[Ladder] = ((2, WARNING), (10, ERROR))
"""Looks in a row at which entries stood that no signed head covered, although one was asked for."""
CLOCK_SKEW_LADDER: Final[Ladder] = ((5.0, WARNING), (60.0, ERROR))
"""Seconds between a worker's clock and the database's, or between two workers' clocks. NTP keeps milliseconds; a ticket
that one worker gives and another takes lives for 60 s."""
CLOCKS_KEPT_S: Final = 180
"""Age at which what a worker said of its clock is forgotten: three looks."""
KEY_AGE_LADDER: Final[Ladder] = ((2, ERROR), (12, CRITICAL))
"""Buckets that a key was kept beyond the end of its time (A4): a turn takes seconds, so two are a fault; after twelve
an hour of traffic can be opened that should not."""
ENTRIES_CHECKED: Final = 200
"""Entries of the log whose hashes are computed again at each look, about 2 ms: the newest, and as many of all others in
turn, which is 288,000 a day; `verify_log` reads all at once."""
TENANTS_LOOKED_AT: Final = 16
"""Tenants looked at in turn, at each look."""
