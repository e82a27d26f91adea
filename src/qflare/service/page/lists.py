"""
Lists of the page, and all about one incident: documents that are read once, page by page, with links and forms alone.

A page of a list begins behind the last row of the one before (keyset), so that the thousandth costs what the first
does, and others that come or go shift nothing.  An incident that is seen again stands on the first page from then on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from qflare.clock import utc
from qflare.errors import KeyNotFoundError
from qflare.model.ids import ID_BYTES, NAME_BYTES_MAX
from qflare.model.incident import MOVES, NOTE_BYTES_MAX, IncidentState
from qflare.model.response import ResponseState
from qflare.service.markup import Markup, element, joined
from qflare.service.page.exchange import RequestError
from qflare.service.page.items import (
    DEVICE_HEADS,
    about_incident,
    device_row,
    incident_address,
    incident_item,
    response_item,
)
from qflare.service.page.pieces import address, all_data_of, fact_list, pager, severity_of, table, time_of
from qflare.service.page.views import TOKEN_FIELD, listing

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from qflare.model.device import Device
    from qflare.model.incident import Incident
    from qflare.model.response import Response
    from qflare.service.page.look import Look
    from qflare.service.page.visits import Visit

ROWS: Final = 50
"""Of one page of a list."""
RELATED: Final = 20
"""Responses shown with their incident."""
NOTE_FIELD: Final = "note"
STATE_FIELD: Final = "state"
ID_FIELD: Final = "id"
_NOT_CLOSED: Final = frozenset({IncidentState.OPEN, IncidentState.ACKNOWLEDGED})
_MOVES: Final = {
    IncidentState.ACKNOWLEDGED: "Acknowledge",
    IncidentState.OPEN: "Open again",
    IncidentState.CLOSED: "Close for good",
}
"""What an operator does to an incident, by the state that it has afterwards."""


async def devices(visit: Visit, look: Look, query: Mapping[str, str]) -> bytes:
    """Return a page of the roster in order of name, of those whose names begin with the query's prefix."""
    prefix, after = query.get("prefix", ""), query.get("after", "")
    found = await look.manager.list_devices(limit=ROWS + 1, after=after or None, prefix=prefix)
    rows = found[:ROWS]
    last = rows[-1].device_id if len(found) > ROWS else None
    search = element(
        "form",
        element("label", "Names that begin with", for_="prefix"),
        element(
            "input",
            id="prefix",
            name="prefix",
            value=prefix,
            type="search",
            maxlength=NAME_BYTES_MAX,
            autocapitalize="none",
            autocomplete="off",
            spellcheck="false",
        ),
        element("button", "Search", type="submit"),
        method="get",
        action="/devices",
        class_="search",
        role="search",
    )
    content = joined(
        search,
        _roster(rows, prefix=prefix, after=after),
        pager(
            "/devices",
            first={"prefix": prefix},
            following=None if last is None else {"prefix": prefix, "after": last},
            is_first=not after,
        ),
    )
    return await _document(visit, look, "/devices", "Devices", content)


def _roster(rows: tuple[Device, ...], *, prefix: str, after: str) -> Markup:
    if not rows:
        what = f"No device has a name that begins with “{prefix}”." if prefix else "No device is registered yet."
        return element("p", "There are no more." if after else what, class_="soft", role="status")
    which = f"Devices whose names begin with “{prefix}”" if prefix else "Devices"
    return table(f"{which}, in order of name", DEVICE_HEADS, [device_row(each) for each in rows])


async def incidents(visit: Visit, look: Look, query: Mapping[str, str]) -> bytes:
    """Return a page of incidents, the last seen first: those that are not closed, or all."""
    after, is_all = identifier(query, "after"), query.get("show") == "all"
    states = None if is_all else _NOT_CLOSED
    found = await look.manager.monitor.list_incidents(states=states, limit=ROWS + 1, after=after)
    rows = found[:ROWS]
    show = {"show": "all"} if is_all else {}
    none = "There are no more." if after else "There was none yet." if is_all else "No incident is open."
    content = joined(
        _choice("/incidents", ("Not closed", {}), ("All", {"show": "all"}), chosen=show),
        element("ol", *[incident_item(each) for each in rows], class_="list")
        if rows
        else element("p", none, class_="soft"),
        pager(
            "/incidents",
            first=show,
            following=show | {"after": rows[-1].incident_id.hex()} if len(found) > ROWS else None,
            is_first=after is None,
        ),
    )
    return await _document(visit, look, "/incidents", "Incidents", content)


async def responses(visit: Visit, look: Look, query: Mapping[str, str]) -> bytes:
    """Return a page of responses, the last asked for first: those that wait for people, or all."""
    after, is_waiting = identifier(query, "after"), query.get("show") == "waiting"
    states = frozenset({ResponseState.PROPOSED}) if is_waiting else None
    found = await look.manager.list_responses(states=states, limit=ROWS + 1, after=after)
    rows, now = found[:ROWS], await _now(look)
    show = {"show": "waiting"} if is_waiting else {}
    none = "There are no more." if after else "Nothing waits." if is_waiting else "No response was asked for yet."
    content = joined(
        element(
            "p",
            "What is done about incidents, by people or by rules of the playbook. Where nothing takes a response back "
            "two operators must want it.",
            class_="soft",
        ),
        _choice("/responses", ("All", {}), ("Proposed", {"show": "waiting"}), chosen=show),
        _response_list(rows, now) if rows else element("p", none, class_="soft"),
        pager(
            "/responses",
            first=show,
            following=show | {"after": rows[-1].response_id.hex()} if len(found) > ROWS else None,
            is_first=after is None,
        ),
    )
    return await _document(visit, look, "/responses", "Responses", content)


async def incident(visit: Visit, look: Look, query: Mapping[str, str], *, problem: str | None = None) -> bytes:
    """
    Return all about one incident, with what the operator can do about it; *problem* says why the last was not done.

    Raises:
        RequestError: the tenant has none of that id.
    """
    found = await look.manager.monitor.find_incident(_required(query))
    if found is None:
        raise RequestError(404, "there is no such incident")
    related = await look.manager.list_responses(incident_id=found.incident_id, limit=RELATED)
    content = joined(
        element("p", problem, class_="verdict bad", role="alert", id="problem") if problem else "",
        element(
            "p", severity_of(found.severity), " ", element("span", about_incident(found), class_="name"), class_="what"
        ),
        _facts(found),
        element("h3", "Evidence"),
        all_data_of(found.evidence),
        element("p", "On the command line: ", element("code", f"qflare incident show {found.incident_id.hex()}")),
        _form(found, visit, has_problem=problem is not None),
        element("h3", "Responses"),
        _response_list(related, await _now(look))
        if related
        else element("p", "No response was asked for about it.", class_="soft"),
    )
    return await _document(visit, look, "/incidents", f"Incident: {found.signal.value}", content)


async def move(visit: Visit, look: Look, fields: Mapping[str, str]) -> str:
    """
    Move an incident as its form says, in the name of the visit's operator, and return where it is shown.

    Raises:
        IllegalTransitionError: it was moved meanwhile, so that this move is none any more.
        RequestError: the tenant has none of that id, or the form is not one of ours.
    """
    incident_id, note = _required(fields), one_line(fields.get(NOTE_FIELD, ""), name="a note")
    try:
        state = IncidentState(fields.get(STATE_FIELD, ""))
    except ValueError:
        raise RequestError(400, "the form does not say what to do") from None
    try:
        await look.manager.monitor.move_incident(incident_id, state, by=visit.name, note=note)
    except KeyNotFoundError:
        raise RequestError(404, "there is no such incident") from None
    return incident_address(incident_id)


def one_line(text: str, *, name: str) -> str:
    """Return what somebody typed without blanks around it; `RequestError` if it is more than a line."""
    if any(not letter.isprintable() for letter in text.strip()):
        raise RequestError(400, f"{name} is one line of text")
    return text.strip()


def _facts(found: Incident) -> Markup:
    by = "" if found.changed_by is None else f" by {found.changed_by}"
    return fact_list(
        ("State", joined(f"{found.state.value}{by}, ", time_of(found.changed_at))),
        ("Note", found.note or "none"),
        ("Seen", "once" if found.count == 1 else f"{found.count:,} times"),
        ("First seen", time_of(found.first_seen_at)),
        ("Last seen", time_of(found.last_seen_at)),
    )


def _form(found: Incident, visit: Visit, *, has_problem: bool) -> Markup:
    """Return what an operator can do about an incident, with a note; nothing if it is closed."""
    moves = [state for state in _MOVES if state in MOVES[found.state]]
    if not moves:
        return element("p", "It is closed for good: the same again opens another incident.", class_="soft")
    return element(
        "form",
        element("input", type="hidden", name=TOKEN_FIELD, value=visit.form_token),
        element("input", type="hidden", name=ID_FIELD, value=found.incident_id.hex()),
        element("label", "Note, which the log keeps with your name", for_="note"),
        element(
            "input",
            id="note",
            name=NOTE_FIELD,
            maxlength=NOTE_BYTES_MAX,
            autocomplete="off",
            aria_describedby="problem" if has_problem else None,
        ),
        element(
            "p",
            *[
                element(
                    "button",
                    _MOVES[state],
                    type="submit",
                    name=STATE_FIELD,
                    value=state.value,
                    class_="quiet" if state is IncidentState.CLOSED else None,
                )
                for state in moves
            ],
            class_="acts",
        ),
        method="post",
        action="/incident",
        class_="login",
    )


def _response_list(rows: tuple[Response, ...], now: datetime) -> Markup:
    return element("ol", *[response_item(each, now=now) for each in rows], class_="list")


def _choice(path: str, *choices: tuple[str, Mapping[str, str]], chosen: Mapping[str, str]) -> Markup:
    ways = [
        element("li", element("a", name, href=address(path, query), aria_current="true" if query == chosen else None))
        for name, query in choices
    ]
    return element("nav", element("ul", *ways), class_="places", aria_label="Which ones")


async def _document(visit: Visit, look: Look, place: str, title: str, content: Markup) -> bytes:
    return listing(visit, tenant=await look.name(), place=place, title=title, content=content)


async def _now(look: Look) -> datetime:
    return utc((await look._engine()).foundation.clock.now_s())  # noqa: SLF001 - as the look itself


def identifier(fields: Mapping[str, str], name: str) -> bytes | None:
    """Return an identifier of a query, None if it has none; `RequestError` if it is none."""
    text = fields.get(name, "")
    if not text:
        return None
    try:
        found = bytes.fromhex(text)
    except ValueError:
        found = b""
    if len(found) != ID_BYTES:
        raise RequestError(400, f"{name} is {2 * ID_BYTES} hex digits")
    return found


def _required(fields: Mapping[str, str]) -> bytes:
    found = identifier(fields, ID_FIELD)
    if found is None:
        raise RequestError(404, "there is no such incident")
    return found
