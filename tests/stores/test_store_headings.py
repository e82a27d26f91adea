"""Headings as the store writes them: for its callers, and for workers of the version before, which know none."""

import re

import asyncpg
import pytest

from earlier_worker import confirm_before
from qflare.errors import UsageError
from qflare.model.event import SecurityEventType, SessionRun
from qflare.model.ids import DEFAULT_TENANT
from qflare.monitor.proof import check_entry
from qflare.protocol.heading import session_heading
from qflare.protocol.log import Frontier
from qflare.stores.postgres.columns import as_time, split_frontier
from qflare.stores.postgres.definition import migrations
from store_records import BUCKET, NOW_S, confirm, heading, new_claim, new_event, publish, register

pytestmark = pytest.mark.contract


async def test_a_heading_stands_before_the_sessions_of_one_transaction(store):
    """Every session of a batch is under the heading that was given, and none of another batch or tenant is."""
    await publish(store)
    devices = await register(store, 3)
    assert SessionRun(1001, (), None) == await store.find_run(DEFAULT_TENANT, 1000)
    batches = [[new_claim(device) for device in devices[:count]] for count in (1, 3)]
    for claims in batches:
        given = heading()
        outcomes, append = await store.confirm_sessions(
            DEFAULT_TENANT, claims, now_s=NOW_S, live_bucket=BUCKET - 1, heading=given
        )
        assert (given.leaf_hash, *(claim.leaf_hash for claim in claims)) == append.leaf_hashes
        for outcome in outcomes:
            found = await store.find_run(DEFAULT_TENANT, outcome.log_index)
            assert (append.first_index, given.leaf_hash) == (found.first, found.head.leaf_hash)
            place = outcome.log_index - found.first
            assert (given.leaf_data, *(claim.leaf_data for claim in claims[:place])) == found.leaves
    # What repeats a handshake makes no session, and no heading.
    size = (await store.log_head()).size
    outcomes, append = await store.confirm_sessions(
        DEFAULT_TENANT, batches[0], now_s=NOW_S, live_bucket=BUCKET - 1, heading=heading()
    )
    assert (["repeated"], None, size) == (
        [outcome.result for outcome in outcomes],
        append,
        (await store.log_head()).size,
    )


async def test_sessions_stand_under_no_other_event(store):
    """What is no heading, or one of another time, is refused before anything is written."""
    await publish(store)
    (device,) = await register(store)
    size = (await store.log_head()).size
    for bad in (new_event(), session_heading(DEFAULT_TENANT, NOW_S + 1)):
        with pytest.raises(UsageError, match="heading"):
            await store.confirm_sessions(
                DEFAULT_TENANT, [new_claim(device)], now_s=NOW_S, live_bucket=BUCKET - 1, heading=bad
            )
    assert size == (await store.log_head()).size


async def test_the_database_writes_headings_for_workers_of_the_version_before(store, admin):
    """What version 33 and those before call makes a heading too, and tells of the log as if it had stood before the leaves given."""
    await publish(store)
    devices = await register(store, 5)
    await confirm(store, new_claim(devices[0]))
    for count in (1, 2, 4):
        claims = [new_claim(device) for device in devices[:count]]
        row = await confirm_before(admin, claims)
        assert ["created"] * count == row["results"]
        made = await store.find_entry(DEFAULT_TENANT, row["first_index"] - 1)
        check_entry(made)
        assert (SecurityEventType.SESSION_HEADING, as_time(NOW_S)) == (made.event_type, made.recorded_at)
        grown, _ = Frontier(row["first_index"], split_frontier(row["old_frontier"])).append(
            [its.leaf_hash for its in claims]
        )
        head = await store.log_head()
        assert (grown.size, grown.hashes) == (head.size, head.frontier)
        assert [row["first_index"] + number for number in range(count)] == row["log_indexes"]


async def test_a_call_of_the_version_before_that_was_under_way_comes_again(store, admin):
    """A confirmation that began before the migration and ends after the first heading leaves no session without one."""
    texts = [
        each.text for each in migrations() if "FUNCTION qflare.confirm_sessions(" in each.text and each.version < 34
    ]
    body = re.search(r"CREATE OR REPLACE FUNCTION qflare\.confirm_sessions\(.*?\n\$\$;\n", texts[-1], re.DOTALL)[0]
    await admin.execute(body.replace("qflare.confirm_sessions(", "qflare.confirm_before("))
    await publish(store)
    devices = await register(store, 3)
    # Nothing is headed yet: such a session is one from before headings.
    assert ["created"] == (await confirm_before(admin, [new_claim(devices[0])], "qflare.confirm_before"))["results"]
    await confirm(store, new_claim(devices[1]))
    size = (await store.log_head()).size
    with pytest.raises(asyncpg.SerializationError):
        await confirm_before(admin, [new_claim(devices[2])], "qflare.confirm_before")
    assert size == (await store.log_head()).size
    assert ["created"] == (await confirm_before(admin, [new_claim(devices[2])]))["results"]
