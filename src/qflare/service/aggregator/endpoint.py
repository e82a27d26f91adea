"""ASGI ends of the addresses: method, admission, body, step, answer; and what each failure becomes outside."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from qflare.errors import (
    EntropyError,
    KeyNotFoundError,
    OverloadedError,
    QflareError,
    RefusedError,
    StoreError,
)
from qflare.service.aggregator import answer
from qflare.service.aggregator.body import Bodies, BodyError, ClientGoneError, Pace, read_body
from qflare.service.aggregator.intake import ApplicationError

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Awaitable, Callable

    from starlette.types import Receive, Scope, Send

    from qflare.service.aggregator.answer import Answer
    from qflare.service.aggregator.notices import Notices
    from qflare.service.aggregator.settings import AggregatorSettings
    from qflare.service.aggregator.steps import StepRoute

SMALL_BODY_BYTES: Final = 16 * 2**10
"""Bodies up to this size come within `handshake_body_s`."""
_SMALL_SIZES: Final = frozenset(b"%d" % size for size in range(SMALL_BODY_BYTES + 1))
"""As content-length says them."""
_log = logging.getLogger("qflare.service.aggregator")


class StepEndpoint:
    """One POST address as an ASGI application."""

    def __init__(
        self,
        route: StepRoute,
        bodies: Bodies,
        settings: AggregatorSettings,
        *,
        refusals: Counter[tuple[str, str]],
        notices: Notices,
        admits: Callable[[str], bool],
    ) -> None:
        """Serve *route* within the budget of *bodies*; what never reached the protocol is counted in *refusals*."""
        self._route = route
        self._bodies = bodies
        self._settings = settings
        self._refusals = refusals
        self._notices = notices
        self._admits = admits
        self._unavailable = answer.unavailable(settings.retry_after_s)

    @property
    def name(self) -> str:
        """Return the name of its address."""
        return self._route.name

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["method"] != "POST":
            await answer.not_allowed("POST").send(send, is_closing=True)
            return
        client = scope.get("client")
        if client is not None and not self._admits(client[0]):
            # Before anything of it is read: that is the point of a limit by address.
            self._refusals[self._route.name, "limited"] += 1
            self._notices.say(logging.INFO, self._route.name, "limited")
            await self._unavailable.send(send, is_closing=True)
            return
        try:
            with self._bodies.admit() as reservation:
                body = await read_body(
                    scope, receive, reservation, size_max=self._route.size_max, pace=self._pace(scope)
                )
                # Inside the block: a request is under way until its answer left.
                await (await self._take(body)).send(send)
        except ClientGoneError:
            self._refusals[self._route.name, "client-gone"] += 1
        except BodyError as failure:
            self._refusals[self._route.name, str(failure)] += 1
            self._notices.say(logging.INFO, self._route.name, str(failure))
            await failure.answer.send(send, is_closing=True)
        except OverloadedError as failure:
            self._refusals[self._route.name, "overloaded"] += 1
            self._notices.say(logging.WARNING, self._route.name, "overloaded", str(failure))
            await self._unavailable.send(send, is_closing=True)

    async def _take(self, body: bytes) -> Answer:
        """Run the step and turn whatever it raises into an answer that tells nothing."""
        name = self._route.name
        try:
            return await self._route.take(body)
        except RefusedError as failure:
            # N5: exact inside (the manager has counted it), the same outside.
            self._notices.say(logging.INFO, name, str(failure.reason))
            return answer.REFUSED
        except (StoreError, EntropyError) as failure:
            self._notices.say(logging.WARNING, name, type(failure).__name__, str(failure))
            return self._unavailable
        except ApplicationError:
            return answer.FAILED
        except Exception:  # noqa: BLE001 - nothing may tell a peer more
            # A peer's bytes must not come to this: it is a fault of ours, and the log has its traceback.
            _log.exception("%s failed", name)
            return answer.FAILED

    def _pace(self, scope: Scope) -> Pace:
        settings = self._settings
        return Pace(
            begin_s=min(settings.handshake_body_s, settings.record_body_s),
            bytes_per_s=settings.body_bytes_per_s_min,
            timeout_s=self._timeout_s(scope),
        )

    def _timeout_s(self, scope: Scope) -> float:
        settings = self._settings
        if self._route.size_max <= SMALL_BODY_BYTES:
            return settings.handshake_body_s
        for header, value in scope["headers"]:
            if header == b"content-length" and value in _SMALL_SIZES:
                return settings.handshake_body_s
        return settings.record_body_s


class PublicEndpoint:
    """One GET address of public bytes or facts as an ASGI application."""

    def __init__(
        self, name: str, give: Callable[[Scope], Awaitable[Answer]], *, notices: Notices, retry_after_s: int
    ) -> None:
        """Serve what *give* returns."""
        self.name = name
        """Of its address."""
        self._notices = notices
        self._give = give
        self._unavailable = answer.unavailable(retry_after_s)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's signature
        """Answer one request."""
        if scope["method"] != "GET":
            await answer.not_allowed("GET").send(send, is_closing=True)
            return
        await (await self._answer(scope)).send(send)

    async def _answer(self, scope: Scope) -> Answer:
        try:
            return await self._give(scope)
        except KeyNotFoundError:
            return answer.NOT_FOUND
        except QflareError as failure:
            self._notices.say(logging.WARNING, self.name, type(failure).__name__, str(failure))
            return self._unavailable
        except Exception:  # noqa: BLE001 - nothing may tell a peer more
            _log.exception("%s failed", self.name)
            return answer.FAILED
