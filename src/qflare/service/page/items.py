"""One device, event, incident or response each, as a row or an item of a list."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, assert_never

from qflare.model.device import KeyState
from qflare.model.response import ResponseState
from qflare.service.markup import Markup, element, joined
from qflare.service.page.pieces import address, data_of, severity_of, time_of

if TYPE_CHECKING:
    from datetime import datetime

    from qflare.model.device import Device
    from qflare.model.event import AuditEntry
    from qflare.model.incident import Incident
    from qflare.model.response import Response


DEVICE_HEADS: Final = ("Device", "State", "Keys", "Registered")


def device_row(device: Device) -> tuple[Markup, ...]:
    """Return a device's cells, under `DEVICE_HEADS`."""
    is_good = device.state is KeyState.ACTIVE
    return (
        element("span", device.device_id, class_="name"),
        element("span", device.state.value, class_="state" if is_good else "state bad"),
        joined(f"v{device.key_version}"),
        time_of(device.registered_at),
    )


def about_incident(incident: Incident) -> str:
    """Say whom an incident is about."""
    return "the fleet" if incident.ref is None else incident.device_id or "a device that is not on the roster"


def incident_item(incident: Incident) -> Markup:
    """Return an incident, with the way to all about it."""
    by = "" if incident.changed_by is None else f" by {incident.changed_by}"
    seen = "once" if incident.count == 1 else f"{incident.count:,} times"
    return element(
        "li",
        element(
            "p",
            severity_of(incident.severity),
            " ",
            element("a", element("strong", incident.signal.value), href=incident_address(incident.incident_id)),
            " · ",
            element("span", about_incident(incident), class_="name"),
            class_="what",
        ),
        element(
            "p",
            f"{incident.state.value}{by}, seen {seen}, last ",
            time_of(incident.last_seen_at),
            class_="soft",
        ),
        data_of(incident.evidence),
    )


def event_item(entry: AuditEntry) -> Markup:
    """Return an event of the log."""
    device = [] if entry.device_id is None else [" · ", element("span", entry.device_id, class_="name")]
    return element(
        "li",
        element(
            "p",
            severity_of(entry.severity),
            " ",
            element("strong", entry.event_type.value.replace("_", " ")),
            *device,
            class_="what",
        ),
        element("p", f"entry {entry.index}, ", time_of(entry.recorded_at), class_="soft"),
        data_of(entry.data),
    )


def incident_address(incident_id: bytes) -> str:
    """Return where the page has all about an incident."""
    return address("/incident", {"id": incident_id.hex()})


def response_address(response_id: bytes) -> str:
    """Return where the page has a response, and what may be decided about it."""
    return address("/response", {"id": response_id.hex()})


def response_item(response: Response, *, now: datetime) -> Markup:
    """Return a response: what, to whom, who wants it, how far it is, and what people can do about it."""
    target = response.target
    about = target.device_id or target.source or ("a device" if target.ref else "the whole fleet or server")
    asked = f"rule {response.rule}" if response.rule is not None else "a person"
    people = " and ".join(name for name in (response.first_by, response.second_by) if name is not None)
    why: list[Markup | str] = (
        [" for ", element("a", "an incident", href=incident_address(response.incident_id))]
        if (response.incident_id is not None)
        else []
    )
    return element(
        "li",
        element(
            "p",
            element("span", _stands(response, now), class_="severity grave" if _waits(response, now) else "severity"),
            " ",
            element("a", element("strong", response.action.value), href=response_address(response.response_id)),
            " · ",
            element("span", about, class_="name"),
            class_="what",
        ),
        element(
            "p",
            f"Asked for by {asked}",
            f", wanted by {people}" if people else "",
            *why,
            ", ",
            time_of(response.asked_at),
            class_="soft",
        ),
        element("p", f"Why: {response.reason}", class_="data") if response.reason else "",
        _ended(response, now),
    )


def _waits(response: Response, now: datetime) -> bool:
    return response.state is ResponseState.PROPOSED and response.expires_at > now


def _stands(response: Response, now: datetime) -> str:
    if response.state is ResponseState.PROPOSED and response.expires_at <= now:
        return "expired"
    return "waits" if response.state is ResponseState.PROPOSED else response.state.value


def _ended(response: Response, now: datetime) -> Markup:
    """Return what became of it, or what it waits for."""
    match response.state:
        case ResponseState.PROPOSED if _waits(response, now):
            lacks = (
                "another operator" if response.first_by else "an operator" if response.lacks == 1 else "two operators"
            )
            command = element("code", f"qflare incident confirm {response.response_id.hex()}")
            said = joined(f"It waits for {lacks} until ", time_of(response.expires_at), ": ", command)
        case ResponseState.PROPOSED:
            said = joined("Nobody confirmed it in time; nothing was done.")
        case ResponseState.BEGUN:
            said = joined("It is being carried out.")
        case ResponseState.APPLIED:
            ends = [] if response.until_at is None else [", ends ", time_of(response.until_at)]
            said = joined("Carried out ", time_of(response.changed_at), f", {response.changed:,} changed", *ends)
        case ResponseState.UNDONE | ResponseState.DISMISSED:
            verb = "Undone" if response.state is ResponseState.UNDONE else "Refused"
            by = "" if response.ended_by is None else f" by {response.ended_by}"
            because = f": {response.ended_because}" if response.ended_because else ""
            said = joined(f"{verb}{by} ", time_of(response.changed_at), because)
        case unknown:
            assert_never(unknown)
    return element("p", said, class_="soft command")
