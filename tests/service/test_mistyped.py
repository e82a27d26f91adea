"""Every public call of manager and monitor, given things of a wrong kind: an error of the project's own, each time."""

import asyncio
import inspect

import pytest

from manager_world import Edge, managers
from memory_world import make_memory_store
from qflare import QuantumKeyManager, SecurityMonitor
from qflare.errors import QflareError, UsageError

WRONG = (
    *(None, 5, -1, 1.5, True, "x", "\ud800", b"x", bytes(16), object()),
    *([None], [5], ["x"], [(None, None)], [(None, None, None)], [("x", b"x", b"x", 5)], (), ((),), {}, {"x": "y"}),
)
LEFT_OUT = {"open", "close", "until_restored", "at", "beside"}
"""What opens and ends, waits for ever, or makes another."""
CALLS = 90
"""There are at least so many calls with arguments; fewer would mean that they are not found."""


def given(edge, manager, ref, sid):
    """What stands for the other arguments of a call, by their names."""
    return {
        "session_id": sid,
        "device_id": edge.name,
        "device_ids": [edge.name],
        "ref": ref,
        "client_public_key": edge.pair.public_key,
        "tenant": manager.tenant,
        "purpose": "p",
        "key": bytes(64),
        "psk": b"k" * 64,
        "message": bytes(100),
        "messages": [(sid, b"x")],
        "replies": [(sid, bytes(16), b"x")],
        "response": bytes(100),
        "plaintext": b"x",
        "request_id": bytes(16),
        "incident_id": bytes(16),
        "response_id": bytes(16),
        "token_id": bytes(16),
        "name": "name",
        "reason": "why",
        "by": "me",
    }


def calls(owner):
    """The public calls of an object, with their arguments."""
    for name in sorted(set(dir(owner)) - LEFT_OUT):
        is_read = isinstance(inspect.getattr_static(type(owner), name, None), property)
        if not name.startswith("_") and not is_read and callable(getattr(owner, name)):
            yield getattr(owner, name), inspect.signature(getattr(owner, name)).parameters


async def ended(call, arguments):
    """What a call raised, None if nothing."""
    try:
        result = call(**arguments)
        if inspect.isawaitable(result):
            async with asyncio.timeout(60):
                result = await result
        if hasattr(result, "wipe"):
            result.wipe()
    except Exception as failure:  # noqa: BLE001 - looked at by the test
        return failure


async def test_a_wrong_kind_of_argument_is_an_error_of_our_own(tmp_path):
    """Whatever each argument of each call is, nobody gets a bare TypeError from somewhere inside."""
    async with managers(make_memory_store(), tmp_path) as (manager,):
        edge = await Edge.provision(manager)
        sid = (await edge.connect(manager)).sid
        others = given(edge, manager, (await manager.find_device(edge.name)).ref, sid)
        strange, count = [], 0
        for owner in (manager, manager.monitor):
            for call, parameters in calls(owner):
                count += bool(parameters)
                for wrong in parameters:
                    for value in WRONG:
                        arguments = {
                            name: others.get(name)
                            for name, parameter in parameters.items()
                            if name in others or parameter.default is parameter.empty
                        } | {wrong: value}
                        failure = await ended(call, arguments)
                        if failure is not None and not isinstance(failure, QflareError):
                            strange.append((call.__name__, wrong, repr(value)[:40], repr(failure)[:100]))
        assert [] == strange
        assert count >= CALLS


MISTAKES = {
    "requests": (lambda manager: manager.derive_session_keys_many([None]), "SessionKeyRequest"),
    "key": (lambda manager: manager.verify_session_key(bytes(16), None, purpose="p"), "64 bytes"),
    "reason": (lambda manager: manager.revoke_device("d", reason=None), "say why"),
    "jump": (lambda manager: manager.accept_clock_jump("x"), "whole number"),
    "offers": (lambda manager: manager.prepare_offers(None), "a list"),
    "psk": (lambda manager: manager.set_device_psk("d", "text"), "64 bytes"),
    "tenant": (lambda manager: manager.create_tenant(None), "text"),
    "rows": (lambda manager: manager.register_devices_many(["d"]), "verification_key"),
}


@pytest.mark.parametrize("name", MISTAKES)
async def test_the_error_says_what_to_pass(tmp_path, name):
    """What is wanted stands in the message, before anything is looked up."""
    call, said = MISTAKES[name]
    async with managers(make_memory_store(), tmp_path) as (manager,):
        with pytest.raises(QflareError, match=said):
            await call(manager)


@pytest.mark.parametrize("kind", [QuantumKeyManager, SecurityMonitor])
def test_a_tenant_of_a_wrong_kind_is_refused_when_it_is_made(kind):
    """A manager or monitor of no tenant is not made, nor a view of one."""
    with pytest.raises(UsageError, match="tenant must be bytes"):
        kind(tenant=None)
    with pytest.raises(UsageError, match="tenant must be bytes"):
        QuantumKeyManager().for_tenant(None)
