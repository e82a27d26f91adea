"""Whatever bytes come to an address, the answer is the one refusal or a plain 4xx, and the worker goes on."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from manager_world import Edge
from qflare.protocol import wire
from qflare.protocol.envelope import encode_envelope
from service.test_aggregator import REFUSAL, aggregating, agreed, post, shape

SIZES = {
    "enrol": (wire.TYPE_ENROL, wire.ENROL_BYTES),
    "hello": (wire.TYPE_M1, wire.M1_BYTES),
    "offer": (0, 47),
    "confirm": (wire.TYPE_M3, wire.M3_BYTES),
    "record": (wire.TYPE_RECORD, 48 + 16),
}


@st.composite
def bodies(draw, step):
    """Random bytes, and random bytes that begin and end as a message of the step does."""
    kind, size = SIZES[step]
    if draw(st.booleans()):
        return draw(st.binary(max_size=200))
    seed = draw(st.binary(min_size=1, max_size=64))
    filled = (seed * (size // len(seed) + 1))[:size]
    if step == "offer":
        return filled
    message = bytes((kind, wire.VERSION)) + filled[2:]
    if step in {"enrol", "hello"} and draw(st.booleans()):
        message = message[:2] + wire.SUITE_FIELD + message[4:]
    if step == "record":
        return draw(st.sampled_from([b"", b"\0\0\0\0", b"\0\0\0\1a", b"\xff\xff\xff\xff"])) + message
    if step == "confirm" and draw(st.booleans()):
        return message + draw(st.binary(max_size=80))
    return message


@pytest.mark.parametrize("step", SIZES)
async def test_garbage_is_refused_like_everything_else(step, database_dsn, tmp_path):
    """Random and nearly right bodies are refused uniformly; none makes a 500, none stops the worker."""
    async with aggregating(database_dsn, tmp_path) as ((manager,), _, (client,)):

        @settings(
            max_examples=60,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.large_base_example],
            database=None,
        )
        @given(body=bodies(step))
        def collect(body):
            drawn.append(body)

        drawn = []
        collect()
        for body in drawn:
            answer = await post(client, step, body)
            assert shape(answer) == REFUSAL, (answer.status_code, body[:40])
        edge = await Edge.provision(manager)
        await agreed(client, manager, edge)


async def test_every_cut_and_sampled_bit_of_a_record_is_refused(database_dsn, tmp_path):
    """A record over HTTP is taken as it was sealed or not at all; the true one still is, once."""
    async with aggregating(database_dsn, tmp_path) as ((manager,), _, (client,)):
        edge = await Edge.provision(manager)
        sid = await agreed(client, manager, edge)
        body = encode_envelope(b"round 3", edge.seal(sid, b"update", aad=b"round 3"))
        for size in range(0, len(body), 5):
            assert shape(await post(client, "record", body[:size])) == REFUSAL
        for bit in range(0, 8 * len(body), 7):
            altered = bytearray(body)
            altered[bit // 8] ^= 1 << bit % 8
            assert shape(await post(client, "record", bytes(altered))) == REFUSAL, bit
        assert (await post(client, "record", body)).status_code == 200
        assert shape(await post(client, "record", body)) == REFUSAL
