"""`Page`: the addresses of the live page as an ASGI application, and what runs beside them."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
from functools import partial
from importlib import resources
from typing import TYPE_CHECKING, Final

from qflare.clock import Clock, SystemClock
from qflare.errors import ConflictError, KeyStateError, QflareError, UncoveredError, UsageError
from qflare.service import correlation
from qflare.service.aggregator.notices import Notices
from qflare.service.page import deciding, lists, views
from qflare.service.page.exchange import (
    Origins,
    RequestError,
    answer,
    cookie_of,
    headers_of,
    html,
    line,
    number,
    query_of,
    read_form,
    redirect,
    require_form,
    require_own,
    set_cookie,
)
from qflare.service.page.logins import Logins, WaitError
from qflare.service.page.look import Look
from qflare.service.page.parts import render
from qflare.service.page.stream import stream
from qflare.service.page.visits import LoginForms, new_key
from qflare.service.page.watch import Watch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
    from typing import Protocol

    from starlette.types import Receive, Scope, Send

    from qflare.model.ids import TenantId
    from qflare.service.aggregator.answer import Answer
    from qflare.service.key_manager import QuantumKeyManager
    from qflare.service.page.settings import PageSettings
    from qflare.service.page.visits import Visit

    class _Show(Protocol):
        """Returns a document, with what was in the way."""

        async def __call__(
            self, visit: Visit, look: Look, query: Mapping[str, str], *, problem: str | None = None
        ) -> bytes: ...

    _List = Callable[[Visit, Look, Mapping[str, str]], Awaitable[bytes]]
    _Change = Callable[[Visit, Look, Mapping[str, str]], Awaitable[str]]

LOOK_AFTER_S: Final = 5.0
"""Time between two looks for visits that are over or were taken away."""
_ASSETS: Final = {
    "/page.css": "text/css; charset=utf-8",
    "/page.js": "text/javascript; charset=utf-8",
    "/proofs.js": "text/javascript; charset=utf-8",
    "/icon.svg": "image/svg+xml",
}
_LISTS: Final = {
    "/devices": lists.devices,
    "/incidents": lists.incidents,
    "/incident": lists.incident,
    "/responses": lists.responses,
    "/response": deciding.response,
}
_CONFLICT: Final = 409
_SHOWN: Final = frozenset({403, _CONFLICT, 429})
"""What is said on the document that the form is of; what is no form of ours has a line of its own."""
_NOT_YET: Final = 503
_UNCOVERED: Final = (
    "It was done and stands, but no signed head of the log covers it yet, since none can be signed. The next one does; "
    "whoever looks after the server finds the reason in its log."
)
_JSON: Final = "application/json"
_UNAVAILABLE: Final = "The database does not answer as it should. Try again in a moment."
_log = logging.getLogger("qflare.service.page")


class Page:
    """
    The live page of one manager's tenants, for their operators.

    Run it inside `running`, behind a server that listens on loopback.
    """

    def __init__(
        self, manager: QuantumKeyManager, settings: PageSettings, *, host: str, port: int, clock: Clock | None = None
    ) -> None:
        """Serve what *manager* sees, asked for under *host* and *port*, the address of the listener."""
        self._manager = manager
        self._settings = settings
        self._origins = Origins(host, port, outside=settings.page_origin)
        its_clock = clock or SystemClock()
        self._logins = Logins(manager, settings, its_clock)
        self._notices = Notices(its_clock, log=_log)
        self._forms = LoginForms()
        self._watches: dict[TenantId, Watch] = {}
        self._streams = 0
        # Cookies are sent to every port of a host: two servers on one machine must not overwrite each other's.
        self._visit_cookie, self._form_cookie = f"qflare-visit-{port}", f"qflare-form-{port}"
        folder = resources.files("qflare.service.page")
        self._assets = {
            path: answer(200, kind, folder.joinpath(path[1:]).read_bytes()) for path, kind in _ASSETS.items()
        }
        self._routes: dict[tuple[str, str], Callable[[_Request], Awaitable[Answer]]] = {
            ("GET", "/"): self._page,
            ("GET", "/login"): self._login_form,
            ("POST", "/login"): self._log_in,
            ("POST", "/logout"): self._log_out,
            **{("GET", path): partial(self._list, give) for path, give in _LISTS.items()},
            ("POST", "/incident"): partial(self._change, lists.move, lists.incident),
            ("POST", "/response"): partial(self._change, self._decided, deciding.response),
            ("GET", "/log/head"): self._head,
            ("GET", "/log/events"): self._events,
            ("GET", "/log/consistency"): self._consistency,
        }

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Look after visits while the block runs; at its end every visit ends, and with it every stream."""
        task = asyncio.get_running_loop().create_task(self._look_after(), name="page visits")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})
            await self.close()

    async def close(self) -> None:
        """End every visit and every look."""
        self._logins.visits.end_all()
        for watch in self._watches.values():
            await watch.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1000})
            return
        token = correlation.begin()
        try:
            await self._serve(scope, receive, send)
        finally:
            correlation.end(token)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            request = _Request(scope, receive, headers_of(scope))
            request.origin = self._origins.of(request.headers)
            if (scope["method"], scope["path"]) == ("GET", "/stream"):
                await self._stream(request, send)
                return
            reply = await self._answer(request)
        except RequestError as refusal:
            self._say(refusal.status, str(refusal))
            reply = line(refusal.status, str(refusal))
        await reply.send(send, is_closing=scope["method"] != "GET")

    async def _answer(self, request: _Request) -> Answer:
        method, path = request.scope["method"], request.scope["path"]
        if method == "GET" and path in self._assets:
            return self._assets[path]
        route = self._routes.get((method, path))
        if route is None:
            known = {
                name for name, where in (*self._routes, *(("GET", asset) for asset in self._assets)) if where == path
            }
            if known:
                return line(405, "method not allowed", (b"allow", ", ".join(sorted(known)).encode()))
            raise RequestError(404, "there is nothing here")
        try:
            return await route(request)
        except UsageError as refusal:
            if isinstance(refusal, RequestError):
                raise
            raise RequestError(400, str(refusal)) from None
        except QflareError as failure:
            # The text too: ours never has a secret in it.
            _log.warning("%s was not answered: %s: %s", path, type(failure).__name__, failure)
            return html(views.failed(_UNAVAILABLE), (b"retry-after", b"2"), status=503)
        except Exception:  # noqa: BLE001 - nobody outside is told more
            _log.exception("%s failed", path)
            return html(views.failed("This is a fault of the server; its log has the details."), status=500)

    # --- logging in and out -----------------------------------------------------------------------

    async def _login_form(self, request: _Request) -> Answer:
        if await self._visit(request) is not None:
            return redirect("/")
        return self._form(request)

    def _form(
        self,
        request: _Request,
        *more: tuple[bytes, bytes],
        problem: str | None = None,
        name: str = "",
        status: int = 200,
    ) -> Answer:
        if problem is not None:
            self._say(status, problem)
        cookie = cookie_of(request.headers, self._form_cookie) or new_key()
        document = views.login(token=self._forms.token(cookie), problem=problem, name=name)
        return html(document, self._cookie(request, self._form_cookie, cookie), *more, status=status)

    async def _log_in(self, request: _Request) -> Answer:
        require_own(request.headers, request.origin)
        fields = await read_form(request.headers, request.receive)
        cookie = cookie_of(request.headers, self._form_cookie)
        if not cookie or not self._forms.is_token(cookie, fields.get(views.TOKEN_FIELD, "")):
            return self._form(request, problem="This form was too old. Try again.", status=403)
        name = fields.get(views.NAME_FIELD, "")
        try:
            key = await self._logins.log_in(name, fields.get(views.SECRET_FIELD, ""))
        except WaitError as refusal:
            wait = (b"retry-after", b"%d" % refusal.wait_s)
            return self._form(request, wait, problem=str(refusal), name=name, status=refusal.status)
        except RequestError as refusal:
            return self._form(request, problem=str(refusal), name=name, status=refusal.status)
        return redirect(
            "/",
            self._cookie(request, self._visit_cookie, key),
            self._cookie(request, self._form_cookie, "", max_age_s=0),
        )

    async def _log_out(self, request: _Request) -> Answer:
        require_own(request.headers, request.origin)
        fields = await read_form(request.headers, request.receive)
        visit = await self._visit(request)
        if visit is not None:
            require_form(fields.get(views.TOKEN_FIELD, ""), visit.form_token)
            try:
                await self._logins.log_out(visit)
            except QflareError as failure:
                _log.warning("a logout was not logged: %s", type(failure).__name__)
        return redirect("/login", self._cookie(request, self._visit_cookie, "", max_age_s=0))

    # --- what operators see -----------------------------------------------------------------------

    async def _page(self, request: _Request) -> Answer:
        visit = await self._visit(request)
        if visit is None:
            return redirect("/login")
        watch = self._watch(visit)
        await watch.refresh()
        tenant = await watch.look.name()
        return html(views.page(visit, tenant=tenant, parts=watch.parts, mark=watch.mark))

    async def _list(self, give: _List, request: _Request) -> Answer:
        visit = await self._visit(request)
        if visit is None:
            return redirect("/login")
        return html(await give(visit, self._watch(visit).look, query_of(request.scope)))

    async def _change(self, change: _Change, show: _Show, request: _Request) -> Answer:
        """Take a form that changes something, and show how that stands now; with what is in the way, if anything is."""
        require_own(request.headers, request.origin)
        fields = await read_form(request.headers, request.receive)
        visit = await self._visit(request)
        if visit is None:
            return redirect("/login")
        require_form(fields.get(views.TOKEN_FIELD, ""), visit.form_token)
        look = self._watch(visit).look
        try:
            return redirect(await change(visit, look, fields))
        except UncoveredError as failure:
            # What the document shows is how it stands now.
            self._say(_NOT_YET, str(failure))
            return html(await show(visit, look, fields, problem=_UNCOVERED), (b"retry-after", b"2"), status=_NOT_YET)
        except (RequestError, UsageError, KeyStateError, ConflictError) as failure:
            status = failure.status if isinstance(failure, RequestError) else _CONFLICT
            if status not in _SHOWN:
                raise
            self._say(status, str(failure))
            wait = ((b"retry-after", b"%d" % failure.wait_s),) if isinstance(failure, WaitError) else ()
            problem = f"It was not done: {failure}"
            return html(await show(visit, look, fields, problem=problem), *wait, status=status)

    async def _decided(self, visit: Visit, look: Look, fields: Mapping[str, str]) -> str:
        return await deciding.decide(visit, look, self._logins, fields)

    async def _stream(self, request: _Request, send: Send) -> None:
        settings = self._settings
        try:
            visit = await self._visit(request)
        except QflareError:
            visit = None
        if visit is None or self._streams >= settings.page_streams_max:
            refusal = (401, "log in first") if visit is None else (503, "too many pages are open: reload by hand")
            await line(*refusal).send(send)
            return
        # A page that was just loaded says what it has; one that lost its connection says it as EventSource does.
        mark = request.headers.get("last-event-id") or query_of(request.scope).get("mark", "")
        self._streams += 1
        try:
            await stream(
                visit,
                self._watch(visit),
                mark=mark,
                heartbeat_s=settings.page_heartbeat_s,
                receive=request.receive,
                send=send,
            )
        finally:
            self._streams -= 1

    async def _head(self, request: _Request) -> Answer:
        look = (await self._allowed(request)).look
        origin, head = await look.head()
        if head is None:
            raise RequestError(404, "no head is signed yet")
        return _as_json({"origin": origin, "size": head.size, "root": _text(head.root), "time_s": head.time_s})

    async def _events(self, request: _Request) -> Answer:
        look = (await self._allowed(request)).look
        proven = await look.prove_events(number(query_of(request.scope), "size"))
        return _as_json(
            {
                "events": [
                    {"index": entry.index, "leaf": _text(entry.leaf_data), "path": [_text(node) for node in path]}
                    for entry, path in proven
                ]
            }
        )

    async def _consistency(self, request: _Request) -> Answer:
        look = (await self._allowed(request)).look
        query = query_of(request.scope)
        path = await look.prove_consistency(number(query, "old"), number(query, "new"))
        return _as_json({"path": [_text(node) for node in path]})

    # --- what they have in common -----------------------------------------------------------------

    def _say(self, status: int, why: str) -> None:
        """Log what is not answered as it was meant: not its path, which may be anything."""
        self._notices.say(logging.INFO, "a request of the page", f"{status}", why)

    async def _visit(self, request: _Request) -> Visit | None:
        """Return the visit that the request belongs to, None if there is none or its operator's access was taken."""
        visit = self._logins.visits.find(cookie_of(request.headers, self._visit_cookie))
        if visit is not None and not await self._logins.is_valid(visit):
            self._logins.visits.end(visit)
            return None
        return visit

    async def _allowed(self, request: _Request) -> Watch:
        visit = await self._visit(request)
        if visit is None:
            raise RequestError(401, "log in first")
        return self._watch(visit)

    def _watch(self, visit: Visit) -> Watch:
        """Return the one watch of the visit's tenant."""
        # As many as tenants have logged in at the same time: those without a visit go.
        wanted = {each.tenant_id for each in self._logins.visits.all} | {visit.tenant_id}
        self._watches = {tenant_id: watch for tenant_id, watch in self._watches.items() if tenant_id in wanted}
        watch = self._watches.get(visit.tenant_id)
        if watch is None:
            look = Look(self._manager, visit.tenant_id)
            watch = self._watches[visit.tenant_id] = Watch(look, render, refresh_s=self._settings.page_refresh_s)
        return watch

    def _cookie(self, request: _Request, name: str, value: str, *, max_age_s: int | None = None) -> tuple[bytes, bytes]:
        return set_cookie(name, value, is_secure=self._origins.is_secure(request.origin), max_age_s=max_age_s)

    async def _look_after(self) -> None:
        while True:
            await asyncio.sleep(LOOK_AFTER_S)
            try:
                await self._logins.look_after()
            except QflareError as failure:
                # Whoever asks for anything is looked at again; a stream goes on for as long as nobody knows better.
                _log.warning("visits were not looked after: %s", type(failure).__name__)


class _Request:
    """One request on its way."""

    __slots__ = ("headers", "origin", "receive", "scope")

    def __init__(self, scope: Scope, receive: Receive, headers: Mapping[str, str]) -> None:
        self.scope = scope
        self.receive = receive
        self.headers = headers
        self.origin = ""
        """Under which of the page's own names it was asked for."""


def _as_json(facts: Mapping[str, object]) -> Answer:
    return answer(200, _JSON, json.dumps(facts).encode())


def _text(value: bytes) -> str:
    return base64.b64encode(value).decode()
