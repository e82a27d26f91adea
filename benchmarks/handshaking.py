"""Complete handshakes, the server's steps counted and the devices' own work made in between."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from server import Cost, Server, good


def handshakes(
    server: Server, form: str, count: int, around: Callable[[], AbstractContextManager] = nullcontext
) -> tuple[Cost, Cost]:
    """Run *count* handshakes as one batch a step, each step *around*; return the cost of both of the server's steps."""
    devices = server.take_devices(count)
    if form == "hello":
        pending = server.hellos(devices)
        with around():
            first, m2s = server.cost_of(server.manager.answer_hellos_many([hello.message for hello in pending]))
        messages = server.finishes(pending, good(m2s), devices)
    else:
        pairs = [(device.device_id, device.encapsulation_key) for device in devices]
        with around():
            first, offers = server.cost_of(server.manager.initiate_temporal_key_exchanges_many(pairs))
        messages = server.answers([offer.offer for offer in good(offers)], devices)
    with around():
        second, done = server.cost_of(server.manager.confirm_many(messages))
    assert all(not one.is_repeated for one in good(done))
    return first, second
