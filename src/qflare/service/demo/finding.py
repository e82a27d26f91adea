"""From what happened to the result that is kept: `DemoResult`, put together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qflare.model.device import KeyState
from qflare.service.demo.report import report_paths
from qflare.service.demo.result import DemoResult, DeviceRecord, OutputFile, RoundRecord, Training
from qflare.service.demo.servers import WORKERS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from qflare.model.device import Device
    from qflare.service.demo.learning import ReferenceRun
    from qflare.service.demo.result import AuditCheck, Component, Machine, Timing
    from qflare.service.demo.stage import Stage, Tally
    from qflare.service.demo.training import TrainedRound


def assemble(
    stage: Stage,
    tally: Tally,
    *,
    started_at: datetime,
    trained: Sequence[TrainedRound],
    reference: ReferenceRun,
    audit: AuditCheck,
    timings: tuple[Timing, ...],
    roster: Sequence[Device],
    machine: Machine,
    components: tuple[Component, ...],
) -> DemoResult:
    """Return the run's result."""
    return DemoResult(
        started_at=started_at,
        elapsed_s=stage.journal.now_s,
        seed=stage.options.seed,
        worker_count=WORKERS,
        process_count=stage.options.processes,
        bucket_width_s=stage.options.width_s,
        training=Training(
            rounds=tuple(
                RoundRecord(
                    index=each.index,
                    started_s=each.started_s,
                    elapsed_s=each.elapsed_s,
                    bucket=each.bucket,
                    device_ids=each.device_ids,
                    accuracy=each.accuracy,
                    reference_accuracy=reference.accuracies[each.index],
                    sealed_bytes=each.sealed_bytes,
                )
                for each in trained
            ),
            digest=trained[-1].digest,
            reference_digest=reference.digests[-1],
            parameter_count=sum(array.size for array in reference.parameters.values()),
            test_samples=stage.split.test.count,
        ),
        timeline=stage.journal.timeline,
        attacks=stage.attacker.records,
        rotations=tuple(tally.rotations),
        audit=audit,
        timings=timings,
        devices=_devices(stage, tally, {device.device_id: device.state for device in roster}),
        machine=machine,
        components=components,
        files=_files(stage),
    )


def _devices(stage: Stage, tally: Tally, states: dict[str, KeyState]) -> tuple[DeviceRecord, ...]:
    return tuple(
        DeviceRecord(
            device_id=device_id,
            form=stage.story.form_of(device_id),
            # The roster's word is SP 800-57's; what an operator does to come there is called revocation.
            state="revoked" if states[device_id] is KeyState.DEACTIVATED else states[device_id].value,
            samples=stage.split.shards[device_id].count,
            handshakes=len(tally.handshakes[device_id]),
            rounds=tuple(tally.rounds.get(device_id, ())),
            sealed_bytes=tally.sealed_bytes.get(device_id, 0),
            note=tally.notes.get(device_id, ""),
        )
        for device_id in stage.story.device_ids
    )


def _files(stage: Stage) -> tuple[OutputFile, ...]:
    output, paths = stage.output, report_paths(stage.output.folder)
    return tuple(
        OutputFile(path=str(path), content=content)
        for path, content in (
            (paths.html, "this report"),
            (paths.png, "its figures as one picture"),
            (paths.json, "everything in it, as JSON"),
            (output.evidence, "evidence that devices kept of each session, with its receipt"),
            (output.identity, "the servers' public identity: root key and certificate"),
            (output.devices, "each device's state file"),
            (output.data, "the servers' data folder: PostgreSQL and long-term keys"),
            (output.logs, "what each process wrote to its standard error"),
        )
    )
