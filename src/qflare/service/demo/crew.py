"""The device processes of a run together: which device lives in which, and one command for many devices at once."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from qflare.protocol import wire
from qflare.service.demo.child import Child, start_child
from qflare.service.demo.failure import DemoError
from qflare.service.demo.learning import SINGLE_THREAD

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from qflare.service.demo.options import DemoOptions
    from qflare.service.demo.output import Output
    from qflare.service.demo.story import Story

_START_TIMEOUT_S: Final = 60.0
_COMMAND_TIMEOUT_S: Final = 120.0
_MODULE: Final = "qflare.service.demo.device_process"


@dataclass(frozen=True, slots=True)
class Refused:
    """A device was refused by the server."""

    step: str
    """Which message the server refused."""
    answer: bytes
    """What it answered."""

    @property
    def is_uniform(self) -> bool:
        """Return whether the answer is the one that every refusal has (N5)."""
        return self.answer == wire.REFUSED


class Crew:
    """All device processes; made by `start_crew`."""

    def __init__(self, children: Sequence[Child], homes: Mapping[str, Child]) -> None:
        """Command *children*, in which devices live as *homes* says."""
        self.children = tuple(children)
        self._homes = homes

    async def run(
        self, do: str, arguments: Mapping[str, Mapping[str, object]], *, timeout_s: float = _COMMAND_TIMEOUT_S
    ) -> dict[str, dict[str, Any]]:
        """
        Run *do* for each device named, all processes at once.

        Args:
            do: The command.
            arguments: What each device needs for it, by device id.
            timeout_s: Longest wait.

        Returns:
            By device id what the device said.

        Raises:
            DemoError: a process failed, or a device was refused.
        """
        results = await self._ask(do, arguments, timeout_s=timeout_s)
        for device_id, result in results.items():
            if "refused" in result:
                raise DemoError(f"{device_id} was refused at {result['refused']} although it should not have been")
        return results

    async def run_refused(self, do: str, device_id: str, arguments: Mapping[str, object]) -> Refused | None:
        """Run *do* for one device that should be refused; None if it was not."""
        result = (await self._ask(do, {device_id: arguments}, timeout_s=_COMMAND_TIMEOUT_S))[device_id]
        if "refused" not in result:
            return None
        return Refused(result["refused"], bytes.fromhex(result["answer"]))

    async def _ask(
        self, do: str, arguments: Mapping[str, Mapping[str, object]], *, timeout_s: float
    ) -> dict[str, dict[str, Any]]:
        shares: dict[Child, dict[str, Mapping[str, object]]] = {}
        for device_id, its in arguments.items():
            shares.setdefault(self._homes[device_id], {})[device_id] = its
        answers = await asyncio.gather(
            *(child.ask({"do": do, "devices": share}, timeout_s=timeout_s) for child, share in shares.items())
        )
        return {device_id: result for answer in answers for device_id, result in answer["devices"].items()}


async def start_crew(
    options: DemoOptions, story: Story, output: Output, *, workers: Sequence[str], children: list[Child]
) -> Crew:
    """
    Start the device processes and wait until each has read its devices' samples.

    Args:
        options: How many.
        story: Which devices.
        output: Where their files are.
        workers: The servers' addresses.
        children: Every process that was started is added here at once, for whoever ends them.
    """
    homes: dict[str, Child] = {}
    openings = []
    for place in range(options.processes):
        name = f"device process {place + 1}"
        child = await start_child(name, _MODULE, log=output.logs / f"devices-{place + 1:02d}.log", extra=SINGLE_THREAD)
        children.append(child)
        mine = story.device_ids[place :: options.processes]
        homes |= dict.fromkeys(mine, child)
        openings.append(
            child.ask(
                {
                    "parent": os.getpid(),
                    "folder": str(output.folder),
                    "seed": options.seed,
                    "workers": list(workers),
                    "devices": [{"device_id": device_id, "form": story.form_of(device_id).value} for device_id in mine],
                },
                timeout_s=_START_TIMEOUT_S,
            )
        )
    await asyncio.gather(*openings)
    return Crew([child for child in children if child in set(homes.values())], homes)
