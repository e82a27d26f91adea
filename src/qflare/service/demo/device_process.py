"""
A device process of the demo: ``python -m qflare.service.demo.device_process``, told by its parent through its pipes.

One command a line of JSON; each names devices of this process and what they shall do, and is answered by one line.
Devices of one process work side by side in a few threads.  The process ends when its standard input does.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from qflare.device.transport import HttpTransport, Step
from qflare.errors import QflareError, RefusedError, UsageError
from qflare.service.demo.edge import Edge, EdgePaths
from qflare.service.demo.orphan import end_with_parent
from qflare.service.demo.recording import RecordingTransport

if TYPE_CHECKING:
    from collections.abc import Callable

THREADS: Final = 4
"""Devices of one process at work at a time: while one waits for a server, another computes."""
_log = logging.getLogger("qflare.service.demo")


class DeviceProcess:
    """The devices of this process and the commands for them."""

    def __init__(self, options: dict[str, Any]) -> None:
        """Open the ways to the workers and read each device's shard."""
        self._transports = [HttpTransport(url) for url in options["workers"]]
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="device")
        folder = Path(options["folder"])
        self._edges = {
            device["device_id"]: Edge(
                device["device_id"],
                form=device["form"],
                paths=EdgePaths(
                    state=folder / "devices" / device["device_id"] / "state.bin",
                    shard=folder / "shards" / f"{device['device_id']}.npz",
                    evidence=folder / "evidence",
                ),
                transport=RecordingTransport(self._transports),
                seed=options["seed"],
            )
            for device in options["devices"]
        }
        self._commands: dict[str, Callable[[Edge, dict[str, Any]], dict[str, Any]]] = {
            "enrol": _enrol,
            "connect": _connect,
            "prepare": _prepare,
            "deliver": _deliver,
            "round": _round,
            "recording": _recording,
            "rotate": _rotate,
        }

    def run(self, command: dict[str, Any]) -> dict[str, Any]:
        """
        Run one command for each device it names.

        Returns:
            By device id what became of it; a refusal is a result too, any other failure ends the command.
        """
        name = command["do"]
        if name not in self._commands:
            raise UsageError(f"no command {name!r}")
        jobs = {
            device_id: self._threads.submit(self._one, self._commands[name], device_id, arguments)
            for device_id, arguments in command["devices"].items()
        }
        return {device_id: job.result() for device_id, job in jobs.items()}

    def close(self) -> None:
        """Wipe every device's secrets and close the connections."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        for edge in self._edges.values():
            edge.close()
        for transport in self._transports:
            transport.close()

    def _one(
        self, work: Callable[[Edge, dict[str, Any]], dict[str, Any]], device_id: str, arguments: dict[str, Any]
    ) -> dict[str, Any]:
        edge = self._edges[device_id]
        transport = edge.transport
        transport.worker = arguments["worker"]
        try:
            return work(edge, arguments)
        except RefusedError:
            last = transport.last
            return {
                "refused": "" if last is None else last.value,
                "answer": "" if last is None else transport.answers[last].hex(),
            }
        except QflareError as error:
            _log.exception("%s failed", device_id)
            raise UsageError(f"{device_id}: {type(error).__name__}: {error}") from None


def _enrol(edge: Edge, arguments: dict[str, Any]) -> dict[str, Any]:
    return {"elapsed_s": edge.enrol(arguments["token"]), "samples": edge.samples}


def _connect(edge: Edge, arguments: dict[str, Any]) -> dict[str, Any]:
    connected = edge.connect(attempts=arguments.get("attempts", 3))
    return {"sid": connected.sid.hex(), "start": connected.start, "elapsed_s": connected.elapsed_s}


def _prepare(edge: Edge, arguments: dict[str, Any]) -> dict[str, Any]:
    held = edge.prepare(arguments["round"])
    return {"envelope": held.envelope.hex(), "bucket": held.bucket}


def _deliver(edge: Edge, arguments: dict[str, Any]) -> dict[str, Any]:
    del arguments
    delivered = edge.deliver()
    return {
        "record_bytes": delivered.record_bytes,
        "bucket": delivered.bucket,
        "elapsed_s": delivered.elapsed_s,
    }


def _round(edge: Edge, arguments: dict[str, Any]) -> dict[str, Any]:
    edge.prepare(arguments["round"])
    return _deliver(edge, arguments)


def _recording(edge: Edge, arguments: dict[str, Any]) -> dict[str, Any]:
    step = Step(arguments["step"])
    return {"sent": edge.transport.sent[step].hex(), "answer": edge.transport.answers[step].hex()}


def _rotate(edge: Edge, arguments: dict[str, Any]) -> dict[str, Any]:
    del arguments
    rotated = edge.rotate()
    return {
        "old_version": rotated.old_version,
        "new_version": rotated.new_version,
        "sid": rotated.sid.hex(),
        "epoch": rotated.epoch,
    }


def main() -> int:
    """Run commands until the standard input ends."""
    first = json.loads(sys.stdin.buffer.readline())
    end_with_parent(first["parent"])
    process: DeviceProcess | None = None
    try:
        process = DeviceProcess(first)
        _tell({"number": first["number"]})
        for line in sys.stdin.buffer:
            command = json.loads(line)
            _tell({"number": command["number"], "devices": process.run(command)})
    except Exception as error:  # noqa: BLE001 - the parent must hear of it, whatever it is
        _log.exception("the device process cannot go on")
        number = command["number"] if process is not None else first["number"]
        _tell({"number": number, "failure": f"{type(error).__name__}: {error}"})
        return 1
    finally:
        if process is not None:
            process.close()
    return 0


def _tell(answer: dict[str, Any]) -> None:
    sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    code = main()
    logging.shutdown()
    os._exit(code) if code else sys.exit(0)
