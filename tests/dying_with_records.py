"""A worker in a process of its own that takes one record of a device, or asks one, and dies at a point on the way."""

import asyncio

from dying import around, die
from manager_world import TurnedClock, make_manager
from qflare.manager.rekeys import Rekeys
from qflare.protocol.record import KIND_CONTROL, KIND_REQUEST
from qflare.stores.postgres import PostgresStore

REKEY_POINTS = {
    "record about to be accepted": (lambda: around(PostgresStore, "accept_streams", before=die), False),
    "record accepted": (lambda: around(PostgresStore, "accept_streams", after=die), False),
    "next epoch sealed": (lambda: around(Rekeys, "_claim", after=die), False),
    "rekey about to be committed": (lambda: around(PostgresStore, "rekey_session", before=die), False),
    "rekey committed": (lambda: around(PostgresStore, "rekey_session", after=die), True),
    "answer sealed": (lambda: around(Rekeys, "answer", after=die), True),
}
"""Where a worker that answers REKEY dies, and whether the epoch stands then."""

REQUEST_POINTS = {
    "request about to be accepted": lambda: around(PostgresStore, "accept_requests", before=die),
    "request accepted": lambda: around(PostgresStore, "accept_requests", after=die),
    "reply key found": lambda: around(PostgresStore, "find_reply_keys", after=die),
    "reply key about to be taken": lambda: around(PostgresStore, "take_reply_keys", before=die),
    "reply key taken": lambda: around(PostgresStore, "take_reply_keys", after=die),
}
"""Where a worker that takes a device's request and replies dies."""

REPLY_POINTS = {
    "reply key found": (lambda: around(PostgresStore, "find_reply_keys", after=die), False),
    "reply key about to be taken": (lambda: around(PostgresStore, "take_reply_keys", before=die), False),
    "reply key taken": (lambda: around(PostgresStore, "take_reply_keys", after=die), True),
}
"""Where a worker that takes a device's reply dies, and whether the reply is taken then."""

ASK_POINTS = {
    "reply key about to be saved": (lambda: around(PostgresStore, "save_reply_keys", before=die), 0),
    "reply key saved": (lambda: around(PostgresStore, "save_reply_keys", after=die), 1),
}
"""Where a worker that asks a device dies, and how many keys of replies wait then."""

_INSTALL = {
    **{("rekey", point): install for point, (install, _) in REKEY_POINTS.items()},
    **{("request", point): install for point, install in REQUEST_POINTS.items()},
    **{("reply", point): install for point, (install, _) in REPLY_POINTS.items()},
    **{("ask", point): install for point, (install, _) in ASK_POINTS.items()},
}


def carry_and_die(dsn, folder, now_s, point, record):
    """Take a record, answer what it asks, and die at a point; with no point, go on to the end."""
    if point is not None:
        _INSTALL[point]()
    asyncio.run(_carry(dsn, folder, now_s, record))


def ask_and_die(dsn, folder, now_s, point, sid):
    """Ask the device of a session, and die at a point."""
    _INSTALL[point]()
    asyncio.run(_ask(dsn, folder, now_s, sid))


async def _carry(dsn, folder, now_s, record):
    manager = make_manager(dsn, folder, clock=TurnedClock(now_s))
    await manager.open()
    with await manager.open_record(record) as opened:
        if opened.header.kind == KIND_CONTROL:
            await manager.answer_control(opened)
        elif opened.header.kind == KIND_REQUEST:
            await manager.seal_reply(opened.session.sid, opened.request_id, b"from one that dies")
    await manager.close()


async def _ask(dsn, folder, now_s, sid):
    manager = make_manager(dsn, folder, clock=TurnedClock(now_s))
    await manager.open()
    await manager.seal_request(sid, b"?")
    await manager.close()
