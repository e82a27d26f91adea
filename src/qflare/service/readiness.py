"""Whether a worker can serve: its database, its live bucket keys and its keeper, each looked at for itself."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from qflare.errors import QflareError
from qflare.secret import SecretBytes
from qflare.service.exchange import Readiness

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from qflare.service.assembly import Engine


async def look_ready(engine: Engine, *, timeout_s: float) -> Readiness:
    """Look at each part for at most *timeout_s* seconds."""
    database, bucket, keeper, turn = await asyncio.gather(
        _sentence("the database", _look_at_database(engine), timeout_s),
        _sentence("the bucket keys", _look_at_buckets(engine), timeout_s),
        _sentence("the keeper", _look_at_keeper(engine), timeout_s),
        _look_at_turn(engine, timeout_s),
    )
    return Readiness(database=database, bucket=bucket, keeper=keeper, turn=turn)


async def _look_at_database(engine: Engine) -> None:
    engine.foundation.marks.require_same()
    await engine.foundation.store.check()


async def _look_at_buckets(engine: Engine) -> None:
    await engine.buckets.refresh()
    engine.buckets.announcement("current")
    engine.buckets.announcement("next")


async def _look_at_keeper(engine: Engine) -> None:
    foundation = engine.foundation
    key = await foundation.offload.run(foundation.keeper.long_term_key, wipe=SecretBytes.wipe)
    key.wipe()


async def _look_at_turn(engine: Engine, timeout_s: float) -> str | None:
    """Say how far the turn is if it is not done in the middle of its bucket, at whose end it loses what is left."""
    buckets, foundation = engine.buckets, engine.foundation
    with buckets.lend() as ring:
        bucket, has_old = ring.current, ring.has(ring.first)
    if not has_old or buckets.seconds_left() > foundation.settings.bucket_width_s / 2:
        return None
    try:
        async with asyncio.timeout(timeout_s):
            progress = await foundation.store.find_turn()
    except (TimeoutError, QflareError):
        # The look at the database says so.
        return None
    if progress is None or progress.bucket < bucket:
        return f"the turn into bucket {bucket} lags: no step of it is done"
    if progress.bucket == bucket and progress.ended_at is None:
        return f"the turn into bucket {bucket} lags: {progress.done} of {progress.ranges} steps are done"
    return None


async def _sentence(what: str, look: Awaitable[None], timeout_s: float) -> str | None:
    try:
        async with asyncio.timeout(timeout_s):
            await look
    except TimeoutError:
        return f"{what} did not answer within {timeout_s:g} s"
    except QflareError as failure:
        return f"{what}: {type(failure).__name__}: {failure}"
    return None
