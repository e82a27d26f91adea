"""
The webhook: incidents sent to one address that the playbook names, signed, again and again until it takes them.

One POST over a connection of its own: no proxy, no redirect, no cookie, and nothing of the answer is read but its
status, so that whoever answers can lead it nowhere.  The body has no secret; the signature tells the receiver that it
comes from this server and was not altered.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import json
import logging
import secrets
import ssl
import stat
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from qflare.errors import ConfigError, QflareError, UsageError
from qflare.protocol.leaf import JsonValue, encode_event_data
from qflare.secret import SecretBytes, zeroize

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from qflare.clock import Clock
    from qflare.manager.background import Background
    from qflare.model.ids import ResponseId, TenantId
    from qflare.model.incident import Incident

_log = logging.getLogger("qflare.service.responding")

SIGNATURE_HEADER: Final = "Qflare-Signature"
SIGNATURE_PREFIX: Final = "hmac-sha3-512="
KEY_BYTES_MIN: Final = 32
KEY_BYTES_MAX: Final = 1024
WAITING_MAX: Final = 256
"""Deliveries that wait in one worker; beyond them the next is given up at once, and said so."""
ATTEMPT_S: Final = 10.0
"""Longest time for one attempt, from the connection to the status."""
DEADLINE_S: Final = 300.0
"""After so long a delivery is given up: a person looks at the incidents by then, or nobody does."""
PAUSE_S: Final = 1.0
PAUSE_MAX_S: Final = 60.0
_JITTER: Final = 1 << 16
_STATUS_BYTES_MAX: Final = 1024
_LOCAL: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_OTHERS: Final = 0o077


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookTarget:
    """Where incidents are sent, as the playbook says."""

    url: str
    key_file: str
    ca_file: str | None = None
    """Certificates that are trusted instead of the system's; PEM."""

    def __post_init__(self) -> None:
        """Refuse what is no address, or one that would send incidents in the clear."""
        try:
            parts = urlsplit(self.url)
            port = parts.port
        except ValueError:
            raise UsageError(f"url must be an address, got {self.url!r}") from None
        if parts.scheme not in {"https", "http"} or not parts.hostname or not self.url.isascii():
            raise UsageError(f"url must begin with https:// and a host, got {self.url!r}")
        if not all("!" <= character <= "~" for character in self.url) or parts.fragment or port == 0:
            raise UsageError(f"url must have no spaces, no fragment and a port above 0, got {self.url!r}")
        if parts.username is not None or parts.password is not None:
            raise UsageError("url must hold no user and no password: it stands in a file that others read")
        if parts.scheme == "http" and parts.hostname not in _LOCAL:
            raise UsageError("http:// is for this machine alone: others would read the incidents; use https://")


@dataclass(frozen=True, slots=True)
class Delivery:
    """One incident on its way."""

    tenant_id: TenantId
    response_id: ResponseId
    """Names the delivery too: it may come twice."""
    rule: str
    incident: Incident


def read_key(path: str) -> SecretBytes:
    """
    Return the key of a webhook's signatures: the whole file.

    Raises:
        ConfigError: it cannot be read, others may read it, or it has too few or too many bytes.
    """
    try:
        with Path(path).open("rb") as file:
            mode = stat.S_IMODE(Path(path).stat().st_mode)
            content = bytearray(file.read(KEY_BYTES_MAX + 1))
    except OSError as failure:
        raise ConfigError(f"cannot read the webhook's key {path}: {failure.strerror}") from None
    key = SecretBytes.copy_of(content)
    size = len(content)
    zeroize(content)
    if mode & _OTHERS:
        key.wipe()
        raise ConfigError(f"others may read the webhook's key {path}: chmod 600 it, and draw another")
    if not KEY_BYTES_MIN <= size <= KEY_BYTES_MAX:
        key.wipe()
        raise ConfigError(f"the webhook's key {path} must have {KEY_BYTES_MIN} to {KEY_BYTES_MAX} bytes, it has {size}")
    return key


def encode_body(delivery: Delivery, *, sent_s: int) -> bytes:
    """Return what is sent of an incident: canonical JSON, public facts alone."""
    its = delivery.incident
    evidence: JsonValue = json.loads(its.evidence)
    facts: dict[str, JsonValue] = {
        "version": 1,
        "delivery_id": delivery.response_id.hex(),
        "sent_s": sent_s,
        "tenant_id": delivery.tenant_id.hex(),
        "rule": delivery.rule,
        "incident": {
            "incident_id": its.incident_id.hex(),
            "signal": its.signal.value,
            "severity": its.severity.value,
            "device_id": its.device_id,
            "ref": None if its.ref is None else its.ref.hex(),
            "count": its.count,
            "first_seen_s": int(its.first_seen_at.timestamp()),
            "last_seen_s": int(its.last_seen_at.timestamp()),
            "evidence": evidence,
        },
    }
    return encode_event_data(facts)


def sign_body(key: SecretBytes, body: bytes) -> str:
    """Return the signature header's value: HMAC-SHA3-512 (RFC 2104, FIPS 202) over the body."""
    with key.view() as view:
        # SAFETY: hmac takes bytes or a bytearray; this copy is wiped at once, hmac's own padded one with the call.
        copy = bytearray(view)
    try:
        return SIGNATURE_PREFIX + hmac.new(copy, body, hashlib.sha3_512).hexdigest()
    finally:
        zeroize(copy)


class Webhook:
    """Sends deliveries of one worker, one after the other."""

    def __init__(
        self,
        target: WebhookTarget,
        key: SecretBytes,
        *,
        clock: Clock,
        ended: Callable[[Delivery, str | None], Awaitable[None]],
    ) -> None:
        """Send to *target*; *ended* hears of each delivery: taken (None), or why it was given up."""
        self._parts = urlsplit(target.url)
        self._key = key
        self._clock = clock
        self._ended = ended
        self._waiting: deque[Delivery] = deque()
        self._is_waiting = asyncio.Event()
        self._context: ssl.SSLContext | None = None
        if self._parts.scheme == "https":
            try:
                self._context = ssl.create_default_context(cafile=target.ca_file)
            except (OSError, ssl.SSLError) as failure:
                raise ConfigError(f"cannot read the webhook's certificates {target.ca_file}: {failure}") from None

    def send(self, delivery: Delivery) -> bool:
        """Have *delivery* wait for its turn; False if too many wait."""
        if len(self._waiting) >= WAITING_MAX:
            return False
        self._waiting.append(delivery)
        self._is_waiting.set()
        return True

    async def run(self, background: Background) -> None:
        """Deliver until the manager closes; what is under way or waits then is sent by another worker, later."""
        while not background.stop.is_set():
            if not self._waiting:
                self._is_waiting.clear()
                await background.pause_until(self._is_waiting)
                continue
            delivery = self._waiting.popleft()
            task = asyncio.ensure_future(self._deliver(delivery))
            stop = asyncio.ensure_future(background.stop.wait())
            try:
                await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                stop.cancel()
                if not task.done():
                    task.cancel()
                    await asyncio.wait({task})
            if not task.cancelled():
                await self._end(delivery, task.result())

    async def _end(self, delivery: Delivery, problem: str | None) -> None:
        try:
            await self._ended(delivery, problem)
        except QflareError as failure:
            _log.warning("that a delivery ended was not noted (%s): it may be sent again", type(failure).__name__)

    async def _deliver(self, delivery: Delivery) -> str | None:
        """Send it until it is taken; return None, or why it was given up."""
        loop = asyncio.get_running_loop()
        until = loop.time() + DEADLINE_S
        pause_s = PAUSE_S
        while True:
            problem = await self._attempt(delivery)
            if problem is None:
                return None
            jittered_s = pause_s * (0.5 + secrets.randbelow(_JITTER) / _JITTER)
            if loop.time() + jittered_s >= until:
                _log.warning("the webhook did not take an incident: %s", problem)
                return problem
            await asyncio.sleep(jittered_s)
            pause_s = min(2 * pause_s, PAUSE_MAX_S)

    async def _attempt(self, delivery: Delivery) -> str | None:
        body = encode_body(delivery, sent_s=self._clock.now_s())
        try:
            async with asyncio.timeout(ATTEMPT_S):
                status = await self._post(body)
        except TimeoutError:
            return "no answer in time"
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as failure:
            # SSL errors are OSErrors; their text may quote the peer's certificate, which is of no use here.
            return f"it could not be reached ({type(failure).__name__})"
        return None if 200 <= status < 300 else f"it answered {status}"  # noqa: PLR2004 - HTTP's own numbers

    async def _post(self, body: bytes) -> int:
        parts = self._parts
        port = parts.port or (443 if self._context is not None else 80)
        reader, writer = await asyncio.open_connection(parts.hostname, port, ssl=self._context, limit=_STATUS_BYTES_MAX)
        try:
            path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            head = (
                f"POST {path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(body)}\r\n{SIGNATURE_HEADER}: {sign_body(self._key, body)}\r\n"
                "User-Agent: qflare\r\nConnection: close\r\n\r\n"
            )
            writer.write(head.encode() + body)
            await writer.drain()
            line = (await reader.readuntil(b"\r\n")).split(b" ", 2)
            if len(line) < 2 or not line[0].startswith(b"HTTP/1.") or not line[1].isdigit():  # noqa: PLR2004
                raise ValueError
            return int(line[1])
        finally:
            writer.close()
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(1.0):
                    await writer.wait_closed()
