"""Security events on their way in: what may be said in one, and what must never be."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from qflare.errors import UsageError
from qflare.model.event import EventSeverity, NewEvent, SecurityEventType
from qflare.monitor.erasure import ARCHIVED
from qflare.monitor.erasure import WHAT as ERASURE
from qflare.monitor.telltales import SHORTEST, are_harmless, looks_secret, sounds_secret
from qflare.protocol.entry import EntryVault
from qflare.protocol.identity import encode_name
from qflare.protocol.leaf import JsonValue
from qflare.protocol.new_event import Draft, PreparedEvent, make_events, prepare_events
from qflare.secret import SecretBytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from qflare.clock import Clock
    from qflare.model.ids import DeviceId, TenantId

DATA_BYTES_MAX: Final = 16 * 1024
"""Most bytes of an event's canonical JSON."""

_DRAFT_FIELDS: Final = len(Draft._fields)
_OPERATOR_ACTION: Final = SecurityEventType.OPERATOR_ACTION
_SESSION_HEADING: Final = SecurityEventType.SESSION_HEADING
_PLAIN: Final = frozenset((int, bool, type(None)))
"""Types of values in which nothing has to be looked at."""


def security_event(
    event_type: SecurityEventType,
    severity: EventSeverity,
    data: Mapping[str, JsonValue],
    *,
    tenant_id: TenantId,
    device_id: DeviceId | None,
    clock: Clock,
    vault: EntryVault,
) -> NewEvent:
    """
    Check an event from a caller and make it ready for the log.

    Args:
        event_type: What it is about.
        severity: How much an operator should care.
        data: A dict of text, integers, booleans, None, lists and dicts; at most 16 KiB as JSON.
        tenant_id: In whose log it stands.
        device_id: The device it is about, or None.
        clock: Says when it is logged.
        vault: Seals what tells of a device.

    Raises:
        UsageError: a type, key or value cannot stand in a log that is kept for ever; the message names the key.
    """
    (prepared,) = each_event([Draft(event_type, severity, data, device_id)], clock=clock)
    del data
    if isinstance(prepared, UsageError):
        raise prepared
    (event,) = make_events([prepared], tenant_id, vault)
    return event


def prepare_security_events(drafts: Sequence[Draft], *, clock: Clock) -> list[PreparedEvent]:
    """
    Check events from a caller and encode them, all of them as of now.

    Args:
        drafts: What they say; the data of each at most 16 KiB as JSON.
        clock: Says when they are logged.

    Raises:
        UsageError: a type, key or value cannot stand in a log that is kept for ever; the message names the key.
    """
    for draft in drafts:
        _check(draft)
    events = prepare_events(drafts, occurred_at_ms=clock.now_ms())
    longest = max([len(event.data) for event in events], default=0)
    if longest > DATA_BYTES_MAX:
        raise UsageError(f"event data is {longest} bytes of JSON, at most {DATA_BYTES_MAX}: log a digest instead")
    return events


def each_event(drafts: Sequence[Draft | UsageError], *, clock: Clock) -> list[PreparedEvent | UsageError]:
    """Check and encode each event by itself: what cannot stand in the log is an error in its place."""
    good = [draft for draft in drafts if not isinstance(draft, UsageError)]
    with suppress(UsageError):
        made: list[PreparedEvent | UsageError] = [*prepare_security_events(good, clock=clock)]
        if len(good) == len(drafts):
            return made
        left = iter(made)
        return [draft if isinstance(draft, UsageError) else next(left) for draft in drafts]
    return [_one(draft, clock) for draft in drafts]


def _one(draft: Draft | UsageError, clock: Clock) -> PreparedEvent | UsageError:
    if isinstance(draft, UsageError):
        return draft
    try:
        return prepare_security_events([draft], clock=clock)[0]
    except UsageError as failure:
        # Its frames hold what may be a secret, and error reporters show a frame's locals.
        return failure.with_traceback(None)


def draft_of(item: object) -> Draft | UsageError:
    """Return what a caller's (event type, severity, data, device_id or None) says, or that it is none."""
    # What it nearly always is first, and without the constructor's call: of thousands this is a part of the cost.
    if (type(item) is not tuple and not isinstance(item, tuple | list)) or len(item) != _DRAFT_FIELDS:
        return UsageError("an event is (event type, severity, data, device_id or None)")
    return tuple.__new__(Draft, item)


def _check(draft: Draft) -> None:
    given: tuple[object, object, object, object] = draft
    event_type, severity, data, device_id = given
    if not isinstance(event_type, SecurityEventType) or not isinstance(severity, EventSeverity):
        raise UsageError("event_type is a SecurityEventType and severity an EventSeverity")
    if type(data) is not dict and not isinstance(data, Mapping):
        raise UsageError(f"event data must be a dict, got {type(data).__name__}")
    if event_type is _SESSION_HEADING:
        raise UsageError("a session_heading is written with its sessions alone: choose another type")
    if device_id is not None:
        if not isinstance(device_id, str):
            raise UsageError(f"device_id must be text, got {type(device_id).__name__}")
        encode_name(device_id)
    _refuse_secrets(data, "data", 0)
    if event_type is _OPERATOR_ACTION and (what := data.get("what")) in (ERASURE, ARCHIVED):
        raise UsageError(f"only an erasure or archive itself is logged with 'what' = {what!r}: name yours otherwise")


def _refuse_secrets(value: object, path: str, depth: int) -> None:
    # The canonical encoding refuses what is nested too deep; this only must not recurse without end.
    if depth > 16:  # noqa: PLR2004 - twice what the encoding takes
        raise UsageError(f"{path} is nested too deep")
    if type(value) is dict or isinstance(value, Mapping):
        if type(value) is not dict or not are_harmless(value):
            _refuse_names(value, path)
        for key, item in value.items():
            kind = type(item)
            if kind in _PLAIN or (kind is str and len(item) < SHORTEST and "://" not in item):
                continue  # what most values are, without a call for each
            _refuse_secrets(item, f"{path}.{key}", depth + 1)
    elif isinstance(value, str):
        _refuse_text(value, path)
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            _refuse_secrets(item, f"{path}[{number}]", depth + 1)
    elif isinstance(value, SecretBytes | bytes | bytearray | memoryview):
        raise UsageError(
            f"{path} holds bytes: the log is kept for ever, so write a name, a count or a public digest in hex"
        )


def _refuse_names(names: Iterable[object], path: str) -> None:
    for name in names:
        if isinstance(name, str) and sounds_secret(name):
            raise UsageError(f"{path}.{name} sounds like a secret, and the log is kept for ever: leave it out")


def _refuse_text(value: str, path: str) -> None:
    # What is longer is refused for that, and is not looked through.
    if len(value) <= DATA_BYTES_MAX and (what := looks_secret(value)) is not None:
        raise UsageError(f"{path} looks like {what}, and the log is kept for ever: leave it out")
