"""Every public call that changes something is answered under a signed head, or says why it needs none."""

import asyncio
import inspect

import pytest

from qflare.errors import KeyNotFoundError, UncoveredError
from qflare.secret import SecretBytes
from qflare.service.covered import HEAD, HOW, TOLD_ONCE, covered, covered_many, leave, told_once
from qflare.service.key_manager import QuantumKeyManager
from qflare.service.security_monitor import SecurityMonitor

LOOKS = {
    QuantumKeyManager: {
        "announcement", "check_operator", "current_bucket", "derive_session_key", "derive_session_keys_many", "figures",
        "find_device", "find_enrolment_token", "find_operator", "find_response", "find_secret_id", "find_session",
        "get_device_public_key", "get_device_public_keys_many", "get_identity_report", "get_key_statistics",
        "get_two_person_control", "identity", "list_bucket_keys", "list_device_keys", "list_devices",
        "list_enrolment_tokens", "list_operators", "list_responses", "list_server_keys", "list_sessions",
        "list_tenants", "log_checkpoint", "log_hashes", "log_keys", "plan_response", "plan_rotations", "queue_statistics",
        "readiness", "reserve_statistics", "response_use", "rotation_policy", "rotation_progress", "server_id",
        "until_restored", "verify_session_key",
    },
    SecurityMonitor: {
        "checkpoint", "disclose_event", "find_incident", "get_security_dashboard_data", "identities", "identity",
        "list_events", "list_incidents", "log_size", "open_archived", "plan_device_erasure", "verify_event_integrity",
        "verify_log",
    },
}  # fmt: skip
"""Change nothing, or sign themselves."""
NO_ENTRY = {
    QuantumKeyManager: {
        # Open, close, begin loops of this worker.
        "close", "open", "start_responding",
        # Messages and records: what they change is no entry of the log.
        "answer_hello", "answer_hellos_many", "initiate_temporal_key_exchange", "initiate_temporal_key_exchanges_many",
        "offer_for", "offers_for_many", "open_record", "open_records_many", "prepare_offers", "seal_record",
        "seal_records_many", "seal_replies_many", "seal_reply", "seal_request", "seal_requests_many",
    },
    SecurityMonitor: {"close", "note_update_norms", "open"},
}  # fmt: skip
RECEIPT = {
    QuantumKeyManager: {"complete_key_exchange", "confirm", "confirm_many"},
    SecurityMonitor: {"log_security_event", "log_security_events_many"},
}
"""Answer with a receipt of the entry."""
INSIDE = {QuantumKeyManager: {"answer_control", "answer_enrolment", "answer_enrolments_many"}, SecurityMonitor: set()}
"""Cover in the batch: Rekeys, Rotations and Enrolments of `qflare.manager`."""
BY_MANY = {
    "generate_device_keypair": "generate_device_keypairs_many",
    "register_device": "register_devices_many",
    "rotate_device_keys": "rotate_device_keys_many",
}
"""Calls whose work and answer are another's."""


def public_calls(kind):
    """The awaited calls of a class, by name."""
    return {
        name: call for name, call in inspect.getmembers(kind, inspect.iscoroutinefunction) if not name.startswith("_")
    }


def declared(kind):
    """How each call that says so comes under a head."""
    return {name: how for name, call in public_calls(kind).items() if (how := getattr(call, HOW, None))}


def test_every_call_says_how_its_answer_comes_under_a_head():
    """Looks, calls without an entry, with a receipt, covered inside, by another call, or declared: each in one place."""
    for kind in (QuantumKeyManager, SecurityMonitor):
        calls = public_calls(kind)
        by_many = {name: many for name, many in BY_MANY.items() if name in calls}
        groups = [LOOKS[kind], NO_ENTRY[kind], RECEIPT[kind], INSIDE[kind], set(by_many), set(declared(kind))]
        placed = [name for group in groups for name in group]
        assert sorted(placed) == sorted(calls), set(placed) ^ set(calls)
        for name, many in by_many.items():
            assert many in inspect.unwrap(calls[name]).__code__.co_names
            assert many in declared(kind)


def test_what_is_told_once_asks_for_a_signer_first():
    """A call whose secret is told once refuses before it makes one; each other one does what it does at once."""
    for kind in (QuantumKeyManager, SecurityMonitor):
        for name, how in declared(kind).items():
            body = inspect.unwrap(getattr(kind, name)).__code__.co_names
            asks = "require_signer" in body or "_give_secret" in body
            assert how == (TOLD_ONCE if asks else HEAD), name
    assert "require_signer" in QuantumKeyManager._give_secret.__code__.co_names


class Calls:
    """Calls of every kind over a log whose cover ends as the test says."""

    def __init__(self, end):
        self._end = end

    async def _log(self):
        return self

    async def cover(self):
        await self._end()

    @covered
    async def change(self, *, call_id=None):
        return call_id

    @covered
    async def change_by_itself(self):
        return None

    @covered_many
    async def change_many(self, results, *, call_id=None):  # noqa: ARG002 - named in the error
        return results

    @told_once(SecretBytes.wipe, remedy="make another")
    async def tell(self, secret):
        return secret

    @told_once(SecretBytes.wipe, remedy="make others", is_many=True)
    async def tell_many(self, results):
        return results


def is_wiped(secret):
    with secret.view() as view:
        return not any(view)


async def uncovered():
    raise UncoveredError("no signer")


async def test_what_is_not_covered_is_no_answer_and_no_secret_outlives_it():
    """One call or many, told once or not: done items become errors that name the call, other errors stay, none twice."""
    calls, call_id, absent = Calls(uncovered), b"\x0f" * 16, KeyNotFoundError("none")
    unnamed = "look at what stands before it is repeated: it was given no call id"
    for given, said in (
        ({"call_id": call_id}, f"repeat it with call id {call_id.hex()}, which does nothing twice"),
        ({"call_id": bytearray(call_id)}, f"repeat it with call id {call_id.hex()}, which does nothing twice"),
        # Another one would be another change.
        ({"call_id": None}, unnamed),
        ({}, unnamed),
    ):
        with pytest.raises(UncoveredError, match=f"no signer.*{said}"):
            await calls.change(**given)
    with pytest.raises(UncoveredError, match="repeat it, which does nothing twice") as ended:
        await calls.change_by_itself()
    assert "call id" not in str(ended.value)
    results = await calls.change_many((1, absent, 2), call_id=call_id)
    assert [UncoveredError, KeyNotFoundError, UncoveredError] == [type(each) for each in results]
    assert call_id.hex() in str(results[0])
    # Nothing was done: nobody need wait for a head.
    assert (absent,) == await calls.change_many((absent,))
    one, two, three = [SecretBytes.copy_of(b"secret") for _ in range(3)]
    with pytest.raises(UncoveredError, match="make another: its secret was told to nobody"):
        await calls.tell(one)
    results = await calls.tell_many((two, absent, three))
    assert [UncoveredError, KeyNotFoundError, UncoveredError] == [type(each) for each in results]
    assert [True] * 3 == [is_wiped(each) for each in (one, two, three)]


async def test_a_secret_is_wiped_where_its_caller_left():
    """Cancelled while the head is waited for, the secret goes with the call."""
    secret = SecretBytes.copy_of(b"secret")
    task = asyncio.create_task(Calls(asyncio.Event().wait).tell(secret))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert is_wiped(secret)


def kept(failure):
    """What the frames of an error, and of those that it came from, hold."""
    while failure is not None:
        trace = failure.__traceback__
        while trace is not None:
            if trace.tb_frame.f_code.co_filename.endswith("/covered.py"):
                yield from trace.tb_frame.f_locals.items()
            trace = trace.tb_next
        failure = failure.__context__


class Telling(Calls):
    """Makes a text that is told once."""

    @told_once(leave, remedy="make another")
    async def tell_text(self):
        return "untold"

    @covered
    async def take(self, secret, *, psk):  # noqa: ARG002 - is kept nowhere
        return None


@pytest.mark.parametrize("ended", [UncoveredError, asyncio.CancelledError])
async def test_no_frame_of_the_error_keeps_what_was_not_told(ended):
    """Whoever keeps or shows the error with its traceback has nothing of the secret in it."""

    async def end():
        raise ended("no signer")

    calls = Telling(end)
    with pytest.raises(ended) as told:
        await calls.tell_text()
    with pytest.raises(ended) as taken:
        await calls.take("untold", psk="untold")
    for each in (told, taken):
        held = dict(kept(each.value))
        assert held
        assert not [name for name, value in held.items() if "untold" in repr(value)]
