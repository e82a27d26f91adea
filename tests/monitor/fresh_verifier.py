"""
A process of its own that verifies every entry of a log: `python fresh_verifier.py DSN FOLDER SIZE`.

It knows what an operator knows, the database and the folder of the keeper, and prints what failed, by index.
"""

import asyncio
import json
import sys
from pathlib import Path

from qflare.errors import EvidenceError, QflareError
from qflare.manager.settings import ManagerSettings
from qflare.service.security_monitor import SecurityMonitor


async def verify(dsn, folder, size):
    """Verify entries 0 to *size* - 1; return the name of the error by index, of those that do not hold."""
    config = ManagerSettings(keeper_dir=str(folder / "volatile"))
    failed = {}
    async with SecurityMonitor(dsn, data_dir=folder / "data", config=config) as monitor:
        for index in range(size):
            try:
                proof = await monitor.verify_event_integrity(index)
            except EvidenceError as failure:
                failed[index] = f"EvidenceError {failure.index}"
            except QflareError as failure:
                failed[index] = type(failure).__name__
            else:
                assert proof.index == index
    return failed


if __name__ == "__main__":
    print(json.dumps(asyncio.run(verify(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])))))  # noqa: T201 - its answer
