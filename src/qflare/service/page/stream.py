"""The event stream of an open page: parts as they change, a sign of life in between, and the end of the visit."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Final

from qflare.service.page.exchange import SECURITY_HEADERS

if TYPE_CHECKING:
    from starlette.types import Receive, Send

    from qflare.service.page.visits import Visit
    from qflare.service.page.watch import Watch

SEND_S: Final = 20.0
"""Longest wait for a browser that does not read; then its stream ends, and it may ask again."""
RETRY_MS: Final = 3000
_HEADERS: Final = ((b"content-type", b"text/event-stream; charset=utf-8"), *SECURITY_HEADERS)


async def stream(visit: Visit, watch: Watch, *, mark: str, heartbeat_s: float, receive: Receive, send: Send) -> None:
    """Send what *mark* has not seen, then each change, until the browser goes, the visit ends or nobody reads."""
    loop = asyncio.get_running_loop()
    gone, ended = loop.create_task(_gone(receive)), loop.create_task(visit.ended.wait())
    visit.streams += 1
    try:
        async with watch.watched():
            await send({"type": "http.response.start", "status": 200, "headers": list(_HEADERS)})
            await _say(send, f"retry: {RETRY_MS}\n\n")
            trouble: str | None = None
            while True:
                news, mark = watch.since(mark), watch.mark
                if news:
                    await _say(send, _event("parts", json.dumps(news), mark=mark))
                if watch.trouble != trouble:
                    trouble = watch.trouble
                    await _say(send, _event("trouble", json.dumps(trouble)))
                waiting = loop.create_task(watch.changed(mark, trouble))
                try:
                    done, _ = await asyncio.wait(
                        {gone, ended, waiting}, timeout=heartbeat_s, return_when=asyncio.FIRST_COMPLETED
                    )
                finally:
                    waiting.cancel()
                if gone in done:
                    return
                if ended in done:
                    await _say(send, _event("end", "null"))
                    await send({"type": "http.response.body", "body": b"", "more_body": False})
                    return
                if not done:
                    await _say(send, ": here\n\n")
    except TimeoutError:
        # Whoever does not read is let go; what is sent is not kept for anybody.
        return
    finally:
        visit.streams -= 1
        gone.cancel()
        ended.cancel()


def _event(name: str, data: str, *, mark: str | None = None) -> str:
    # JSON has no line ends of its own: one line of data.
    return (f"id: {mark}\n" if mark is not None else "") + f"event: {name}\ndata: {data}\n\n"


async def _say(send: Send, text: str) -> None:
    async with asyncio.timeout(SEND_S):
        await send({"type": "http.response.body", "body": text.encode(), "more_body": True})


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
