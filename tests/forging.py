"""Messages in a device's name that are not its own."""

from dataclasses import replace

import pytest

from qflare.errors import RefusedError
from qflare.protocol.hello_device import start_hello


async def refused(awaitable):
    """Await what must be refused."""
    with pytest.raises(RefusedError):
        await awaitable


async def forged_hello(manager, edge, forger):
    """Return a hello in *edge*'s name with *forger*'s key."""
    announcement = await edge.announcement(manager)
    device = replace(edge.device, signing_key=forger.device.signing_key)
    return start_hello(device, announcement).message
