"""
The demo from beginning to end: processes started, acts played, everything checked, everything ended.

`run_demo` is all that callers need.  The operator is this process; servers and devices are processes of their own.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, TypeVar

from qflare.service.demo import learning
from qflare.service.demo.attacks import Attacker
from qflare.service.demo.child import Child, start_child
from qflare.service.demo.coordinator import Coordinator
from qflare.service.demo.crew import start_crew
from qflare.service.demo.data import DigitsSplit, load_digits_data, split_digits, write_shard
from qflare.service.demo.enrolment import connect_all, enrol_devices
from qflare.service.demo.extras import demo_package
from qflare.service.demo.failure import DemoError
from qflare.service.demo.finding import assemble
from qflare.service.demo.journal import Journal
from qflare.service.demo.options import DemoOptions
from qflare.service.demo.output import Output
from qflare.service.demo.progress import SilentProgress
from qflare.service.demo.report import write_report
from qflare.service.demo.result import AuditCheck, DemoResult, EventKind
from qflare.service.demo.servers import start_servers
from qflare.service.demo.stage import Stage, Tally
from qflare.service.demo.story import Story, tell_story
from qflare.service.demo.surroundings import list_components, look_at_machine
from qflare.service.demo.timings import measure_manager, measure_primitives, summarize
from qflare.service.demo.training import TrainedRound, train
from qflare.service.demo.wording import count

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

    from qflare.service.demo.progress import Progress
    from qflare.service.demo.result import Timing

T = TypeVar("T")

_AUDIT_TIMEOUT_S: Final = 120.0
_POLL_S: Final = 0.1
_OUTSIDE: Final = "qflare.service.demo.outside"


def run_demo(options: DemoOptions | None = None, progress: Progress | None = None) -> DemoResult:
    """
    Run the demo and write its report.

    Args:
        options: Size and place; the defaults if None.
        progress: What shows how it goes; nobody if None.

    Returns:
        What was found; whether all of it held is `DemoResult.is_successful`.

    Raises:
        ConfigError: the folder cannot be used, or another run uses it.
        DemoError: a process ended, or a step did not do what it must; nothing is left running.
        MissingExtraError: a package of `qflare[demo]` is not installed.
    """
    options = options or DemoOptions()
    with demo_package("threadpoolctl"):
        from threadpoolctl import threadpool_limits
    # One thread and so one order of sums here too, whatever imported numpy first (see `learning`).
    with Output(options.folder) as output, threadpool_limits(limits=1):
        try:
            return asyncio.run(_run(options, output, progress or SilentProgress()))
        except asyncio.CancelledError:
            raise DemoError("the run was ended by a signal; nothing of it is left running") from None


async def _run(options: DemoOptions, output: Output, progress: Progress) -> DemoResult:
    started_at = datetime.now(UTC)
    journal, story, tally = Journal(), tell_story(options), Tally()
    children: list[Child] = []
    async with AsyncExitStack() as stack:
        stack.enter_context(_ended_by_sigterm())
        stage = await _set_up(
            options, output, progress=progress, story=story, journal=journal, children=children, stack=stack
        )
        trained = await _guard(_play(stage, tally), children)
        with progress.step("The same schedule, trained without QFLARE"):
            reference = await asyncio.to_thread(
                learning.reference_run,
                [each.device_ids for each in trained],
                stage.split.shards,
                stage.split.test,
                seed=options.seed,
            )
        with progress.step("The operations whose times were published, measured"):
            timings = await _measure(stage, tally)
        with progress.step("The detector's incidents about the attempts"):
            await stage.attacker.find_incidents()
        check = await _verify(stage, children)
        await journal.find_turns(stage.manager.monitor)
        components = await list_components(stage.dsn)
        devices = await stage.manager.list_devices(limit=len(story.device_ids))
        with progress.step("Everything ends"):
            await _end(children)
        result = assemble(
            stage,
            tally,
            started_at=started_at,
            trained=trained,
            reference=reference,
            audit=check,
            timings=timings,
            roster=devices,
            machine=look_at_machine(),
            components=components,
        )
        with progress.step("The report is written"):
            await asyncio.to_thread(write_report, result, output.folder)
        if stage.page_url is not None:
            from qflare.service.demo.watching import until_seen

            await until_seen(stage.page_url, progress)
    return result


async def _set_up(
    options: DemoOptions,
    output: Output,
    *,
    progress: Progress,
    story: Story,
    journal: Journal,
    children: list[Child],
    stack: AsyncExitStack,
) -> Stage:
    """Start the database, the servers and the devices, and split the data meanwhile."""
    # Imported here, so that a missing extra is said before anything is started, and by the part that lacks it.
    from qflare.manager.settings import ManagerSettings
    from qflare.service.key_manager import QuantumKeyManager
    from qflare.stores.embedded import open_embedded

    splitting = asyncio.get_running_loop().create_task(asyncio.to_thread(_split, options, output, story))
    stack.push_async_callback(_settle, splitting)
    # The last thing that happens, whatever came before: the database has ended and its bucket keys are gone.
    stack.push_async_callback(asyncio.to_thread, output.leave_data)
    with progress.step("PostgreSQL starts"):
        server = await stack.enter_async_context(await open_embedded(output.data))
        manager = await stack.enter_async_context(
            QuantumKeyManager(server.dsn, data_dir=output.data, config=ManagerSettings(bucket_width_s=options.width_s))
        )
        output.identity.write_bytes(await manager.identity())
    page_url = None
    if options.is_watched:
        from qflare.service.demo.watching import watched

        page_url = await stack.enter_async_context(watched(manager, progress))
    coordinator = await stack.enter_async_context(Coordinator())
    # Pushed last of what the children use, so that they end before it does, however the run ends.
    stack.push_async_callback(_end, children)
    with progress.step("Two server workers over it start"):
        servers = await start_servers(
            output, dsn=server.dsn, coordinator=coordinator.path, width_s=options.width_s, children=children
        )
        stack.push_async_callback(servers.close)
    with progress.step(f"{options.processes} device processes for {options.devices} devices start"):
        split = await splitting
        crew = await start_crew(options, story, output, workers=servers.urls, children=children)
    journal.add(
        EventKind.STEP,
        "PostgreSQL, two server workers and the devices started",
        f"An embedded PostgreSQL in the run's folder; both workers on loopback; {options.processes} device processes.",
    )
    return Stage(
        options=options,
        story=story,
        output=output,
        progress=progress,
        journal=journal,
        split=split,
        manager=manager,
        dsn=server.dsn,
        page_url=page_url,
        coordinator=coordinator,
        servers=servers,
        crew=crew,
        attacker=Attacker(servers, manager, journal=journal, progress=progress),
    )


async def _play(stage: Stage, tally: Tally) -> list[TrainedRound]:
    """Play the acts, with an eye on the bucket."""
    watching = asyncio.get_running_loop().create_task(_watch_buckets(stage))
    try:
        await enrol_devices(stage, tally)
        await connect_all(stage, tally)
        stage.journal.add(EventKind.STEP, "Training begins")
        with stage.progress.step(f"Training, {stage.story.rounds} rounds of federated averaging"):
            return await train(stage, tally)
    finally:
        watching.cancel()
        await asyncio.wait({watching})


async def _watch_buckets(stage: Stage) -> None:
    bucket = await stage.manager.current_bucket()
    while True:
        await asyncio.sleep(_POLL_S)
        now = await stage.manager.current_bucket()
        if now > bucket:
            bucket = now
            stage.journal.add_turn(bucket)
            stage.progress.note(f"bucket {bucket} is current; the keys of {bucket - 2} are destroyed")


async def _measure(stage: Stage, tally: Tally) -> tuple[Timing, ...]:
    primitives = await asyncio.to_thread(measure_primitives)
    live = [sid for device_id, sid in tally.sids.items() if device_id != stage.story.revoked]
    managed = await measure_manager(stage.manager, live)
    forms = [
        summarize(
            f"Handshake, {form} form",
            [
                elapsed_s
                for device_id, times in tally.handshakes.items()
                if stage.story.form_of(device_id).value == form
                for elapsed_s in times
            ],
            how="seen by devices that all connect at once; sockets, PostgreSQL and receipt included",
        )
        for form in ("hello", "offer")
    ]
    update = summarize(
        "Sealed update, sent and acknowledged",
        tally.deliveries,
        how="seen by devices that all send at once; sockets, PostgreSQL and averaging's intake included",
    )
    return (*primitives, *managed, *forms, update)


async def _verify(stage: Stage, children: list[Child]) -> AuditCheck:
    """Sign the log as it stands, and let a process verify it that has no key of the servers."""
    with stage.progress.step("The audit log, verified from outside with the devices' receipts"):
        signed = await stage.manager.monitor.checkpoint()
        server_id = await stage.manager.server_id()
        child = await start_child("the outside check", _OUTSIDE, log=stage.output.logs / "outside.log")
        children.append(child)
        answer = await child.ask(
            {
                "parent": os.getpid(),
                "dsn": stage.dsn,
                "identity": str(stage.output.identity),
                "server_id": server_id.hex(),
                "evidence": str(stage.output.evidence),
                "size_min": signed.size,
            },
            timeout_s=_AUDIT_TIMEOUT_S,
        )
        await child.end()
    check = AuditCheck(**{name: answer[name] for name in AuditCheck.__slots__})
    stage.journal.add(
        EventKind.STEP,
        "Audit log verified from outside" if check.is_valid else "The audit log does not verify",
        f"{count(check.size, 'entry', 'entries')}, {check.receipts_valid} of "
        f"{count(check.receipts_total, 'receipt')} of devices.",
    )
    return check


def _split(options: DemoOptions, output: Output, story: Story) -> DigitsSplit:
    """Load the data, deal it out, and write each device's part."""
    split = split_digits(load_digits_data(), story.device_ids, seed=options.seed)
    for device_id, shard in split.shards.items():
        (output.devices / device_id).mkdir(mode=0o700)
        write_shard(output.shards / f"{device_id}.npz", shard)
    return split


async def _guard(work: Coroutine[object, object, T], children: list[Child]) -> T:
    """
    Await *work* while every child lives.

    Raises:
        DemoError: a child ended, which is said rather than whatever else failed because of it.
    """
    loop = asyncio.get_running_loop()
    main = loop.create_task(work)
    watchers = {loop.create_task(child.watch()) for child in children}
    try:
        await asyncio.wait({main, *watchers}, return_when=asyncio.FIRST_COMPLETED)
        if main.done() and main.exception() is not None:
            # What failed may have failed because a process is just ending: give its end a moment to be seen.
            await asyncio.wait(watchers, timeout=0.5, return_when=asyncio.FIRST_COMPLETED)
        for watcher in watchers:
            if watcher.done():
                await watcher
        return await main
    finally:
        for task in (main, *watchers):
            task.cancel()
        await asyncio.gather(main, *watchers, return_exceptions=True)


async def _end(children: list[Child]) -> None:
    """End every child: politely, all at once, then by force."""
    try:
        await asyncio.gather(*(child.end() for child in children), return_exceptions=True)
    finally:
        for child in children:
            child.kill()


async def _settle(task: asyncio.Task[DigitsSplit]) -> None:
    """Wait for a task that cannot be stopped, whatever becomes of it."""
    await asyncio.wait({task})
    if not task.cancelled():
        task.exception()


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end the run in order, as SIGINT does."""
    task = asyncio.current_task()
    if task is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
