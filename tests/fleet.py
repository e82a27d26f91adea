"""
A fleet of real devices that work against a running server, and the ledger of what it acknowledged to them.

Each device is a `qflare.Device` in a thread: it makes sessions in both forms and sends updates, one after the other,
and whatever fails it tries anew.  What was acknowledged goes into the ledger; at the end ledger, database and log must
say the same.
"""

import asyncio
import json
import threading
from contextlib import asynccontextmanager

from qflare.device import Device
from qflare.errors import QflareError
from qflare.monitor.held import HeldReceipt

APPLICATION = """
import json

from qflare import EventSeverity, SecurityEventType


def factory(manager):
    async def on_record(record, aad):
        with record, record.plaintext.view() as view:
            text = bytes(view).decode()
        logged = await manager.monitor.log_security_event(
            SecurityEventType.OPERATOR_ACTION, EventSeverity.INFO, {"update": text}
        )
        return json.dumps([logged.index, logged.leaf_hash.hex()]).encode()

    return on_record
"""
"""An application that logs each update and answers with the entry's place: an acknowledged audit entry."""


class Ledger:
    """What the server acknowledged, as the devices wrote it down."""

    def __init__(self):
        self.sessions = {}
        """Evidence by session id."""
        self.updates = {}
        """(index, leaf hash) by the update's text."""
        self.failures = 0

    @property
    def size(self):
        return len(self.sessions) + len(self.updates)


class Fleet:
    """Devices in threads, until they are told to stop."""

    def __init__(self, devices):
        self.devices = devices
        self.ledger = Ledger()
        self.stop = threading.Event()

    def work(self, device):
        """Make a session, send three updates, again and again; every update has a text of its own."""
        turn = 0
        while not self.stop.is_set():
            turn += 1
            try:
                terms = device.connect("hello" if turn % 2 else "offer", attempts=1)
                self.ledger.sessions[terms.sid] = device.evidence()
                for number in range(3):
                    text = f"{device.device_id} {turn} {number}"
                    reply = device.exchange(text.encode())
                    with reply.plaintext, reply.plaintext.view() as view:
                        index, leaf_hash = json.loads(bytes(view))
                    self.ledger.updates[text] = (index, bytes.fromhex(leaf_hash))
            except QflareError:
                self.ledger.failures += 1
                self.stop.wait(0.02)

    async def acknowledged(self, more=1, *, within_s=120):
        """Wait until the server has acknowledged *more* than it had, and return how long that took."""
        loop = asyncio.get_running_loop()
        began, size = loop.time(), self.ledger.size
        async with asyncio.timeout(within_s):
            while self.ledger.size < size + more:
                await asyncio.sleep(0.01)
        return loop.time() - began

    async def served_again(self, *, within_s):
        """Wait for more acknowledgements than can have been on their way, and return how long that took."""
        return await self.acknowledged(len(self.devices) + 1, within_s=within_s)


@asynccontextmanager
async def fleet(manager, url, folder, count=4):
    """Enrol *count* devices over HTTP and let them work."""
    tokens = await manager.issue_enrolment_tokens_many([f"device {number}" for number in range(count)])

    def enrol(number):
        name = f"device {number}"
        return Device.enrol(url, tokens[number], device_id=name, state=folder / f"state-{number}")

    devices = [await asyncio.to_thread(enrol, number) for number in range(count)]
    working = Fleet(devices)
    threads = [threading.Thread(target=working.work, args=(device,), daemon=True) for device in devices]
    for thread in threads:
        thread.start()
    try:
        yield working
    finally:
        working.stop.set()
        for thread in threads:
            await asyncio.to_thread(thread.join, 60)
        for device in devices:
            device.close()


async def compare(ledger, manager, connection):
    """
    Compare ledger, database and log: nothing acknowledged is lost, nothing stands twice.

    Args:
        ledger: Of the devices, which have stopped.
        manager: Over the same database.
        connection: A superuser's to it.
    """
    # Every receipt that a device holds leads to the log as it is now: leaf, place and history.
    receipts = [HeldReceipt.of(evidence) for evidence in ledger.sessions.values()]
    report = await manager.monitor.verify_log(receipts=receipts)
    assert len(ledger.sessions) == report.receipts
    rows = await connection.fetch("SELECT sid, count(*) AS rows FROM qflare.session GROUP BY sid")
    stored = {row["sid"].bytes: row["rows"] for row in rows}
    assert set() == set(ledger.sessions) - set(stored)
    assert {1} == set(stored.values())
    # One entry for each session, whether its device heard of it or not, and no other.
    assert len(stored) == report.entries["key_exchange"]
    handshakes = await connection.fetchval("SELECT count(*) FROM qflare.handshake")
    assert len(stored) == handshakes
    entries = await connection.fetch(
        "SELECT log_index, leaf_hash, convert_from(substring(data FROM 35), 'UTF8')::json ->> 'update' AS text FROM qflare.audit_entry"
        " WHERE event_type = 'operator_action'"
    )
    logged = {entry["text"]: (entry["log_index"], entry["leaf_hash"]) for entry in entries}
    assert len(entries) == len(logged)
    assert ledger.updates.items() <= logged.items()
