"""
The operations whose times were published, measured in this run: through Python, on this machine, with its database.

Primitives are single calls.  What goes through the manager is measured twice against the run's PostgreSQL: one caller
after another, and 64 callers at once, whose calls the manager gathers into batches; then the time of one is the whole
time divided by the calls.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from typing import TYPE_CHECKING, Final

from qflare.model.event import EventSeverity, SecurityEventType
from qflare.primitives import kem
from qflare.primitives.sig import SIG44
from qflare.protocol.device_keys import DeviceKeys
from qflare.service.demo.published import PUBLISHED_MS
from qflare.service.demo.result import Timing

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from qflare.service.key_manager import QuantumKeyManager

CALLS: Final = 200
"""Single calls behind a median."""
CALLERS: Final = 64
_BURSTS: Final = 8
"""Times that all callers call at once."""
_CLEANUPS: Final = 9
_TENANT: Final = "timings"
_CONTEXT: Final = b"QFX1 demo"
_MESSAGE: Final = bytes(64)
"""What the protocol signs is always a hash of 64 bytes."""
_SINGLE: Final = "single calls through Python"
_ONE_CALLER: Final = "one caller, PostgreSQL included"
_MANY_CALLERS: Final = f"{CALLERS} callers at once, time of one, PostgreSQL included"


def measure_primitives() -> tuple[Timing, ...]:
    """Measure ML-KEM-1024 and ML-DSA-44, one call at a time; blocks for some tenths of a second."""
    keys, signer = kem.generate(), SIG44.generate()
    signature = SIG44.sign(signer.signing_key, _MESSAGE, context=_CONTEXT)
    sealed = kem.encapsulate(keys.encapsulation_key)
    with keys.decapsulation_key, signer.signing_key, sealed.shared_secret:
        return (
            _measure("ML-KEM-1024 key generation", lambda: kem.generate().decapsulation_key.wipe()),  # noqa: PLW0108 - the call is what is measured
            _measure(
                "ML-KEM-1024 encapsulation",
                lambda: kem.encapsulate(keys.encapsulation_key).shared_secret.wipe(),  # noqa: PLW0108 - as above
            ),
            _measure(
                "ML-KEM-1024 decapsulation",
                lambda: kem.decapsulate(keys.decapsulation_key, sealed.ciphertext).wipe(),
            ),
            _measure("ML-DSA-44 signing", lambda: SIG44.sign(signer.signing_key, _MESSAGE, context=_CONTEXT)),
            _measure(
                "ML-DSA-44 verification",
                lambda: SIG44.verify(signer.verification_key, _MESSAGE, signature, context=_CONTEXT),
            ),
        )


async def measure_manager(manager: QuantumKeyManager, sids: Sequence[bytes]) -> tuple[Timing, ...]:
    """
    Measure key storage, session lookup, audit insert and cleanup.

    Args:
        manager: Over the run's database.
        sids: Live sessions of the run, 1 or more.
    """
    # In a tenant of its own: the run's roster stays what it is.
    own = manager.for_tenant(await manager.create_tenant(_TENANT))
    keys = [(pair.verification_key, pair.encapsulation_key) for pair in _public_pairs(4)]

    async def store_key(number: int) -> None:
        verification_key, encapsulation_key = keys[number % len(keys)]
        await own.register_device(
            f"timed-{number}", verification_key=verification_key, encapsulation_key=encapsulation_key
        )

    async def look_up(number: int) -> None:
        await manager.find_session(sids[number % len(sids)])

    async def insert(number: int) -> None:
        await own.monitor.log_security_event(
            SecurityEventType.OPERATOR_ACTION, EventSeverity.INFO, {"what": "timed", "number": number}
        )

    timings: list[Timing] = []
    for operation, work in (("Key storage", store_key), ("Session lookup", look_up), ("Audit insert", insert)):
        timings += [await _measure_many(operation, work), await _measure_one(operation, work, addition=", one caller")]

    async def clean(_number: int) -> None:
        await manager.cleanup_expired_keys_and_sessions()

    timings.append(await _measure_one("Cleanup", clean, calls=_CLEANUPS))
    return tuple(timings)


def summarize(operation: str, seconds: Sequence[float], *, how: str, addition: str = "") -> Timing:
    """Return the median of *seconds* as a timing of *operation*, whose published time is that without *addition*."""
    return Timing(
        operation=operation + addition,
        published_ms=PUBLISHED_MS.get(operation),
        measured_ms=statistics.median(seconds) * 1000,
        how=how,
        samples=len(seconds),
    )


def _measure(operation: str, work: Callable[[], object]) -> Timing:
    work()
    times = []
    for _ in range(CALLS):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return summarize(operation, times, how=_SINGLE)


async def _measure_one(
    operation: str, work: Callable[[int], Awaitable[None]], *, calls: int = CALLS, addition: str = ""
) -> Timing:
    times = []
    for number in range(calls):
        began = time.perf_counter()
        await work(number)
        times.append(time.perf_counter() - began)
    return summarize(operation, times, how=_ONE_CALLER, addition=addition)


async def _measure_many(operation: str, work: Callable[[int], Awaitable[None]]) -> Timing:
    times = []
    for burst in range(_BURSTS):
        began = time.perf_counter()
        # Numbers that the single calls do not use: a name is registered once.
        first = CALLS + burst * CALLERS
        await asyncio.gather(*(work(first + caller) for caller in range(CALLERS)))
        times.append((time.perf_counter() - began) / CALLERS)
    return summarize(operation, times, how=_MANY_CALLERS)


def _public_pairs(count: int) -> list[DeviceKeys]:
    pairs = []
    for _ in range(count):
        with DeviceKeys.generate() as pair:
            pairs.append(pair)
    return pairs
