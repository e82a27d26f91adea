"""The memory store beyond the contract: its clock, its limits, and what keeps it out of production."""

import subprocess
import sys
import warnings
from datetime import timedelta
from os import urandom

import pytest

from memory_world import make_memory_store
from qflare import QuantumKeyManager, SecurityMonitor
from qflare.errors import UsageError
from qflare.model.ids import DEFAULT_TENANT
from qflare.model.rotation import DueKey, RotationPolicy, RotationReason
from qflare.testing import MemoryStore, TestingOnlyWarning, TurnableClock
from store_records import new_device, new_event, register

T = DEFAULT_TENANT
APART = """
import asyncio, os, sys, warnings

class NoDriver:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "asyncpg":
            raise ModuleNotFoundError(name, name=name)

sys.meta_path.insert(0, NoDriver())
warnings.simplefilter("ignore")
from qflare.errors import UsageError
from qflare.testing import MemoryStore, memory_manager

async def work():
    async with memory_manager() as manager:
        await manager.generate_device_keypair("d")

asyncio.run(work())
store = MemoryStore()
child = os.fork()
if child == 0:
    try:
        asyncio.run(store.log_head())
    except UsageError as error:
        os._exit(7 if "one process" in str(error) else 8)
    os._exit(9)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_making_one_warns():
    """A memory store says at once that it is for tests alone."""
    with pytest.warns(TestingOnlyWarning, match="for tests alone"):
        MemoryStore()


def test_it_needs_no_driver_and_stays_in_its_process():
    """A manager over it works without any database driver; in a forked process it is refused."""
    done = subprocess.run([sys.executable, "-I", "-c", APART], capture_output=True, text=True, check=False, timeout=120)
    assert (0, "7") == (done.returncode, done.stdout.strip()), done.stderr


async def test_no_public_constructor_takes_it(tmp_path):
    """Neither the key manager nor the monitor opens over a memory store: only `qflare.testing` does."""
    for opened in (QuantumKeyManager, SecurityMonitor):
        with pytest.raises(UsageError, match="pass a dsn"):
            async with opened(make_memory_store(), data_dir=tmp_path):
                pass


def test_import_qflare_does_not_load_it():
    """`import qflare` and the command line's modules leave the module alone."""
    program = "import qflare, qflare.cli.main, qflare.service.serve, sys; print('qflare.testing' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "False" == done.stdout.strip()


async def test_policies_mark_as_its_clock_turns():
    """With the clock turned keys come of age, the share a minute holds, marks become overdue and end with a rotation."""
    clock = TurnableClock()
    store = make_memory_store(clock)
    devices = await register(store, 3)
    policy = RotationPolicy(max_records=1, minute_ppm=400_000, grace_s=3600)
    await store.save_rotation_policy(T, policy, event=new_event())

    async def mark():
        page = await store.list_rotatable_keys(T, after=b"", limit=9)
        due = [DueKey(key=key, reason=RotationReason.RECORDS, due_s=page.now_s) for key in page.keys]
        return sum(await store.mark_rotations(T, due, events=[new_event() for _ in due]))

    marks = []
    for seconds in (0, 3599, 1, 30, 31, 61):
        clock.turn(seconds)
        marks.append(await mark())
    assert [0, 0, 1, 0, 1, 1] == marks
    assert 3 + 1 + 3 == (await store.log_head()).size
    clock.turn(3600)
    progress = await store.count_rotations(T)
    assert (3, 2, 0, 0) == (progress.waiting, progress.overdue, progress.rotated, progress.marked_last_minute)
    found = await store.find_rotation_marks(T, [device.ref for device in devices])
    assert 2 == sum(mark.is_overdue for mark in found.values())
    await store.rotate_device_keys(T, new_device(devices[0].device_id), key_version=2, event=new_event())
    assert (2, 1) == ((after := await store.count_rotations(T)).waiting, after.rotated)
    assert {device.ref for device in devices[1:]} == set(
        await store.find_rotation_marks(T, [device.ref for device in devices])
    )


async def test_what_it_remembers_ends_with_its_clock():
    """Changes and call ids are forgotten a day later, and not before."""
    clock = TurnableClock()
    store = make_memory_store(clock)
    (device,) = await register(store)
    change = urandom(16)
    await store.append_events(T, [new_event()], call_ids=[change])
    mark = (await store.list_changes(None, limit=9)).mark
    await store.set_device_psk(T, device.ref, urandom(93), psk_version=1, event=new_event())
    clock.turn(timedelta(days=1).total_seconds())
    assert await store.forget_calls()
    assert 0 == await store.drop_changes()
    assert (1,) == (await store.append_events(T, [new_event()], call_ids=[change])).indexes
    clock.turn(timedelta(days=1).total_seconds())
    assert await store.forget_calls()
    assert 1 == await store.drop_changes()
    assert () == (await store.list_changes(mark, limit=9)).changes
    assert (3,) == (await store.append_events(T, [new_event()], call_ids=[change])).indexes


def test_warnings_of_it_can_be_allowed_by_name():
    """The line of the page for pytest's settings is one that the filter takes."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", category=TestingOnlyWarning)
        MemoryStore()
