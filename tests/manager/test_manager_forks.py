"""A process that is forked from a worker: it holds none of the keys that have an end."""

import asyncio
import os

import pytest

from manager_world import Edge, engine_of, managers
from qflare.errors import QflareError
from qflare.manager.forks import wipe_after_fork


def in_child(claim):
    """Say what *claim* says in a forked child."""
    child = os.fork()
    if not child:
        status = 2
        try:
            status = 0 if claim() else 1
        finally:
            os._exit(status)
    return child


async def ended(child):
    _, status = await asyncio.to_thread(os.waitpid, child, 0)
    return os.waitstatus_to_exitcode(status)


def secrets_of(buckets):
    return [
        secret.view()
        for live in buckets._live.values()
        for secret in (live.keys.decapsulation_key, live.keys.ticket_key, live.kek)
    ]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
async def test_a_forked_child_has_no_key_that_has_an_end(database, tmp_path):
    """Keys of buckets, chains and the identity are zeros in the child, lent ones too; the parent goes on with its own."""
    async with managers(database, tmp_path) as (manager,):
        edge = await Edge.provision(manager)
        session = await edge.connect(manager)
        with await manager.derive_session_key(session.sid, "before") as key:
            assert any(key.view())
        engine = engine_of(manager)
        buckets, rows = engine.buckets, engine.sessions._rows
        with buckets.lend() as ring:
            secrets = secrets_of(buckets)
            blocks = [block.memory for block in rows._blocks.values()]
            with engine.foundation.identity.lend() as keys:
                secrets += [keys.announce.view(), keys.log.view()]
            assert (3 * len(ring.keyring) + 2, 1) == (len(secrets), len(blocks))
            assert all(any(secret) for secret in [*secrets, *blocks])
            child = in_child(
                lambda: (
                    not any(any(secret) for secret in [*secrets, *blocks])
                    and len(buckets._live) == len(engine.sessions) == 0
                )
            )
            assert 0 == await ended(child)
            assert all(any(secret) for secret in [*secrets, *blocks])
        with await manager.derive_session_key(session.sid, "after") as key:
            assert any(key.view())
        await edge.connect(manager)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
async def test_a_retired_key_that_a_batch_still_uses_is_wiped_in_the_child(database, tmp_path):
    """A key whose bucket is over is kept for the batch that has it, in the parent alone."""
    async with managers(database, tmp_path) as (manager,):
        buckets = engine_of(manager).buckets
        with buckets.lend() as ring:
            lent = ring.kek(ring.current)
            live = buckets._live.pop(ring.current)
            live.is_retired = True
            live.release()
            assert any(lent.view())
            assert 0 == await ended(in_child(lambda: not any(lent.view())))
            assert any(lent.view())
            buckets._live[ring.current] = live
            live.is_retired = False


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
async def test_a_manager_is_no_use_in_a_forked_child(database, tmp_path):
    """A child that calls the manager it inherited is told so, and the parent's goes on."""
    async with managers(database, tmp_path) as (manager,):

        def is_refused():
            asyncio.events._set_running_loop(None)
            try:
                asyncio.run(manager.current_bucket())
            except QflareError as failure:
                return "make one for each" in str(failure)
            return False

        assert 0 == await ended(in_child(is_refused))
        assert await manager.current_bucket()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
async def test_what_is_gone_is_not_called():
    """Whoever registered and is collected is no hindrance to a fork."""

    class Owner:
        def wipe(self):
            raise AssertionError

    owner = Owner()
    wipe_after_fork(owner.wipe)
    del owner
    assert 0 == await ended(in_child(lambda: True))
