"""
The audit log checked from outside: ``python -m qflare.service.demo.outside``, told through its standard input.

It has what a third party would be given: a way to read the database, ``root vk ‖ CERT`` with the server id that is
trusted, and the evidence that devices kept.  It holds no key of the servers.  It reads every row again, computes every
leaf, node and root, verifies the signed head, and looks up every receipt.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qflare.errors import AuthenticationError, EvidenceError, QflareError
from qflare.manager.offload import Offload
from qflare.monitor.audit import verify_log
from qflare.monitor.held import HeldReceipt
from qflare.protocol.checkpoint import verify_checkpoint
from qflare.protocol.evidence import Evidence, verify_evidence
from qflare.protocol.identity import decode_identity
from qflare.protocol.log import hash_leaf
from qflare.protocol.log_key import LogKey
from qflare.protocol.wire import M4_RECEIPT_AT
from qflare.service.demo.orphan import end_with_parent
from qflare.service.demo.result import AuditCheck
from qflare.stores.postgres import open_store

if TYPE_CHECKING:
    from qflare.model.log_ports import LogStore
    from qflare.protocol.identity import ServerIdentity


async def check(dsn: str, *, identity: ServerIdentity, evidence: tuple[Evidence, ...], size_min: int) -> AuditCheck:
    """
    Check the whole log behind *dsn*.

    Args:
        dsn: A login that may become the auditor.
        identity: Verified against the server id that is trusted.
        evidence: What devices kept.
        size_min: Entries that the latest signed head must cover at least; servers that run go on to append.
    """
    began = time.perf_counter()
    offload = Offload(threads=1, jobs_max=16)
    store = await open_store(dsn)
    try:
        return await _check(store, offload, identity=identity, evidence=evidence, size_min=size_min, began=began)
    finally:
        await store.close()
        offload.close()


async def _check(
    store: LogStore,
    offload: Offload,
    *,
    identity: ServerIdentity,
    evidence: tuple[Evidence, ...],
    size_min: int,
    began: float,
) -> AuditCheck:
    certificate = identity.certificate
    keys = [LogKey.of(certificate)]
    first_bad: int | None = None
    is_chain_valid = is_signature_valid = True
    checkpoint = await store.latest_checkpoint()
    try:
        await verify_log(store=store, keys=keys, runner=offload)
    except EvidenceError as error:
        is_chain_valid, first_bad = False, error.index
    try:
        # The chain was checked to lead to the latest signed head; an old one would leave the log's end unsigned.
        if checkpoint is None or checkpoint.size < size_min:
            raise AuthenticationError  # noqa: TRY301 - a head that is not signed is judged like one signed wrongly
        verify_checkpoint(certificate.log_key, certificate.log_origin, checkpoint)
    except AuthenticationError:
        is_signature_valid = False
    held = [_receipt_of(each, identity) for each in evidence]
    good = [receipt for receipt in held if receipt is not None]
    valid = len(good)
    try:
        await verify_log(store=store, keys=keys, runner=offload, receipts=good)
    except EvidenceError as error:
        first_bad = error.index if first_bad is None else first_bad
        valid = sum([await _is_in_log(store, offload, receipt, identity) for receipt in good])
    return AuditCheck(
        size=0 if checkpoint is None else checkpoint.size,
        root="" if checkpoint is None else checkpoint.root.hex(),
        origin=certificate.log_origin,
        is_chain_valid=is_chain_valid,
        is_signature_valid=is_signature_valid,
        receipts_total=len(evidence),
        receipts_valid=valid,
        first_bad_index=first_bad,
        elapsed_s=time.perf_counter() - began,
    )


def _receipt_of(evidence: Evidence, identity: ServerIdentity) -> HeldReceipt | None:
    """Return the receipt in a device's evidence, or None if the evidence does not hold by itself."""
    try:
        verify_evidence(evidence, identity)
    except QflareError:
        return None
    return HeldReceipt(hash_leaf(evidence.leaf_data()), evidence.m4[M4_RECEIPT_AT:])


async def _is_in_log(store: LogStore, offload: Offload, receipt: HeldReceipt, identity: ServerIdentity) -> bool:
    try:
        keys = [LogKey.of(identity.certificate)]
        await verify_log(store=store, keys=keys, runner=offload, receipts=[receipt], is_deep=False)
    except EvidenceError:
        return False
    return True


def main() -> int:
    """Read what to check, check it, and write the finding as one line of JSON."""
    options: dict[str, Any] = json.loads(sys.stdin.buffer.readline())
    end_with_parent(options["parent"])
    answer: dict[str, Any] = {"number": options["number"]}
    try:
        identity = decode_identity(
            Path(options["identity"]).read_bytes(), server_id=bytes.fromhex(options["server_id"])
        )
        evidence = tuple(
            Evidence.from_json(path.read_bytes()) for path in sorted(Path(options["evidence"]).glob("*.json"))
        )
        found = asyncio.run(check(options["dsn"], identity=identity, evidence=evidence, size_min=options["size_min"]))
        answer |= {name: getattr(found, name) for name in AuditCheck.__slots__}
    except (QflareError, OSError) as error:
        answer["failure"] = f"{type(error).__name__}: {error}"
    sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n")
    sys.stdout.buffer.flush()
    return 1 if "failure" in answer else 0


if __name__ == "__main__":
    sys.exit(main())
