import asyncio
import threading

import pytest

from qflare.errors import OverloadedError
from qflare.manager.offload import Offload
from qflare.secret import SecretBytes


@pytest.fixture
def offload():
    made = Offload(threads=1, jobs_max=2)
    yield made
    made.close()


async def test_work_runs_in_another_thread(offload):
    """Work leaves the loop's thread, and its result and errors come back."""
    assert threading.get_ident() != await offload.run(threading.get_ident)
    with pytest.raises(ZeroDivisionError):
        await offload.run(lambda: 1 // 0)


async def test_late_secret_of_a_cancelled_caller_is_wiped(offload):
    """What a thread returns for a caller that was cancelled is wiped."""
    started, go_on = threading.Event(), threading.Event()
    made = SecretBytes(bytearray(b"secret"))

    def work():
        started.set()
        go_on.wait(60)
        return made

    task = asyncio.create_task(offload.run(work, wipe=SecretBytes.wipe))
    await asyncio.to_thread(started.wait, 60)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert made.equals(b"secret")
    go_on.set()
    await offload.run(lambda: None)
    assert made.equals(bytes(6))


async def test_waiting_job_of_a_cancelled_caller_never_runs(offload):
    """A job that had not begun when its caller was cancelled is dropped."""
    go_on = threading.Event()
    ran = []
    first = asyncio.create_task(offload.run(lambda: go_on.wait(60)))
    await asyncio.sleep(0.01)
    second = asyncio.create_task(offload.run(lambda: ran.append(1)))
    await asyncio.sleep(0.01)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    go_on.set()
    await first
    await offload.run(lambda: None)
    assert [] == ran


async def test_jobs_are_bounded(offload):
    """One job more than the maximum is refused, and there is room again afterwards."""
    go_on = threading.Event()
    jobs = [asyncio.create_task(offload.run(lambda: go_on.wait(60))) for _ in range(2)]
    await asyncio.sleep(0.01)
    with pytest.raises(OverloadedError):
        await offload.run(lambda: None)
    go_on.set()
    await asyncio.gather(*jobs)
    assert 7 == await offload.run(lambda: 7)
