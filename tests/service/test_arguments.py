"""What a caller passes by mistake: an error of its own, and nothing for those who call at the same time."""

import asyncio

import pytest

from manager_world import Edge, managers
from qflare.errors import QflareError

MISTAKES = {
    "bucket": lambda manager, sid: manager.derive_session_key(sid, "p", bucket="1"),
    "bucket of bytes": lambda manager, sid: manager.derive_session_key(sid, "p", bucket=b"1"),
    "purpose": lambda manager, sid: manager.derive_session_key(sid, None),
    "session": lambda manager, _: manager.derive_session_key(10**12, "p"),
    "direction": lambda manager, sid: manager.derive_session_key(sid, "p", direction=True),
    "direction of a float": lambda manager, sid: manager.derive_session_key(sid, "p", direction=1.0),
    "plaintext": lambda manager, sid: manager.seal_record(sid, None),
    "plaintext of text": lambda manager, sid: manager.seal_record(sid, "text"),
    "plaintexts": lambda manager, sid: manager.seal_records_many([(sid, b"x"), (sid, 5)]),
    "associated data": lambda manager, sid: manager.seal_record(sid, b"x", aad="text"),
    "no associated data": lambda manager, _: manager.open_record(b"x" * 100, aad=None),
    "kind": lambda manager, sid: manager.seal_record(sid, b"x", kind=True),
    "reply lifetime": lambda manager, sid: manager.seal_request(sid, b"x", reply_lifetime=1.5),
    "request": lambda manager, sid: manager.seal_request(sid, None),
    "reply": lambda manager, sid: manager.seal_reply(sid, bytes(16), None),
}


async def test_a_callers_mistake_is_its_own_alone(database_dsn, tmp_path):
    """Each mistake is an error that says so, beside calls in the same batch that get what they asked for."""
    async with managers(database_dsn, tmp_path) as (manager,):
        edge = await Edge.provision(manager)
        sid = (await edge.connect(manager)).sid
        async with asyncio.timeout(60):
            for name, mistake in MISTAKES.items():
                failed, key, record, opened = await asyncio.gather(
                    mistake(manager, sid),
                    manager.derive_session_key(sid, "p"),
                    manager.seal_record(sid, b"to the device"),
                    manager.open_record(edge.seal(sid, b"to the server")),
                    return_exceptions=True,
                )
                assert isinstance(failed, QflareError), (name, failed)
                assert any(key.view()), name
                assert len(record) > len(b"to the device"), name
                assert opened.plaintext.equals(b"to the server"), name


@pytest.mark.parametrize("buffer", [bytearray(b"abcd"), memoryview(b"abcd"), memoryview(b"abcd").cast("H")])
async def test_any_buffer_is_sealed_as_its_bytes(database_dsn, tmp_path, buffer):
    """A message may lie in whatever buffer; it counts and is sealed by its bytes."""
    async with managers(database_dsn, tmp_path) as (manager,):
        edge = await Edge.provision(manager)
        sid = (await edge.connect(manager)).sid
        assert len(await manager.seal_record(sid, b"abcd")) == len(await manager.seal_record(sid, buffer))
