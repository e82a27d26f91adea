"""Responses: what is done about an incident, by whom, how often, and how it is taken back."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from qflare.errors import IllegalTransitionError, UsageError
from qflare.model.device import KeyState
from qflare.model.ids import DeviceId, DeviceRef, IncidentId, ResponseId, TenantId

REASON_BYTES_MAX: Final = 500
"""Most bytes of why a response is asked for: the reason that stands with the device names the response too."""
SOURCE_BYTES_MAX: Final = 64
EXPIRES_S: Final = 86_400
"""How long a proposal may wait for people."""
PER_MINUTE_MIN: Final = 1
"""A limit slows down; shutting out is what a quarantine is for, and is bounded."""
PER_MINUTE_MAX: Final = 1_000_000
RULE_PREFIX: Final = "rule "
"""Before a rule's name where the log says who acted; no operator's name begins so."""


class ResponseAction(StrEnum):
    """What can be done."""

    QUARANTINE = "quarantine"
    """Suspend a device: its sessions end, it begins none until the quarantine is lifted."""
    LIFT = "lift"
    """Let a suspended device begin sessions again, whoever suspended it."""
    REKEY = "rekey"
    """End a device's live sessions, so that fresh keys are agreed at its next contact; the device goes on."""
    ROTATE_DEVICE = "rotate-device"
    """Mark a device's keys as due: it rotates when it next asks (E4)."""
    REVOKE = "revoke"
    """Revoke a device for good."""
    TURN = "turn"
    """Turn to the next bucket now, so that the keys of the one before the present are destroyed early."""
    ROTATE_IDENTITY = "rotate-identity"
    """Replace the server's announce and log key (A1)."""
    LIMIT_DEVICE = "limit-device"
    """Take at most so many authentic messages a minute of one device."""
    LIMIT_TENANT = "limit-tenant"
    """The same for all devices of the tenant together."""
    LIMIT_SOURCE = "limit-source"
    """Take at most so many requests a minute from one network address."""
    NOTIFY = "notify"
    """Send the incident to the configured webhook."""


DESTRUCTIVE: Final = frozenset({ResponseAction.REVOKE, ResponseAction.TURN, ResponseAction.ROTATE_IDENTITY})
"""What nothing takes back: two persons must want it, and no playbook does it by itself."""
NEEDS_TWO: Final = DESTRUCTIVE | {ResponseAction.LIMIT_TENANT, ResponseAction.LIMIT_SOURCE}
"""What two operators must want: nothing takes it back, or it may slow down many devices at once."""
REVERSIBLE: Final = frozenset(
    {
        ResponseAction.QUARANTINE,
        ResponseAction.LIFT,
        ResponseAction.LIMIT_DEVICE,
        ResponseAction.LIMIT_TENANT,
        ResponseAction.LIMIT_SOURCE,
    }
)
ABOUT_DEVICE: Final = frozenset(
    {
        ResponseAction.QUARANTINE,
        ResponseAction.LIFT,
        ResponseAction.REKEY,
        ResponseAction.ROTATE_DEVICE,
        ResponseAction.REVOKE,
        ResponseAction.LIMIT_DEVICE,
    }
)
ABOUT_SERVER: Final = frozenset({ResponseAction.TURN, ResponseAction.ROTATE_IDENTITY, ResponseAction.LIMIT_SOURCE})
"""What is the whole server's: asked for in the default tenant alone."""
LIMITS: Final = frozenset({ResponseAction.LIMIT_DEVICE, ResponseAction.LIMIT_TENANT, ResponseAction.LIMIT_SOURCE})
SHUTS_OUT: Final = frozenset({ResponseAction.QUARANTINE, ResponseAction.REVOKE})
"""What keeps a device out, and is limited in rate."""
ELSEWHERE: Final = frozenset({ResponseAction.ROTATE_IDENTITY, ResponseAction.NOTIFY})
"""What cannot be done in the transaction that notes it: begun in one, and ended in another."""
STATES: Final = {
    ResponseAction.QUARANTINE: KeyState.SUSPENDED,
    ResponseAction.LIFT: KeyState.ACTIVE,
    ResponseAction.REVOKE: KeyState.DEACTIVATED,
}
"""The state that a device has afterwards."""


class ResponseState(StrEnum):
    """How far a response is."""

    PROPOSED = "proposed"
    """It waits for people; nothing was done."""
    BEGUN = "begun"
    """It is being carried out outside the database."""
    APPLIED = "applied"
    UNDONE = "undone"
    DISMISSED = "dismissed"
    """Somebody did not want it, or it could not be done."""


RESPONSE_MOVES: Final[dict[ResponseState, frozenset[ResponseState]]] = {
    ResponseState.PROPOSED: frozenset({ResponseState.BEGUN, ResponseState.APPLIED, ResponseState.DISMISSED}),
    ResponseState.BEGUN: frozenset({ResponseState.APPLIED, ResponseState.DISMISSED}),
    ResponseState.APPLIED: frozenset({ResponseState.UNDONE}),
    ResponseState.UNDONE: frozenset(),
    ResponseState.DISMISSED: frozenset(),
}
"""Where each state may go."""


def require_wanted(response: Response) -> None:
    """Raise `IllegalTransitionError` unless as many operators want *response* as it needs."""
    if response.lacks:
        more = "another operator" if response.first_by is not None else f"{response.lacks} operators, each by name"
        raise IllegalTransitionError(f"this response must first be confirmed by {more}")


def require_reversible(response: Response) -> None:
    """Raise `IllegalTransitionError` if nothing takes *response* back."""
    if response.action not in REVERSIBLE:
        raise IllegalTransitionError(f"nothing takes {response.action.value} back")


def require_response_move(found: ResponseState, state: ResponseState) -> None:
    """Raise `IllegalTransitionError` unless a response may go from *found* to *state*."""
    if state not in RESPONSE_MOVES[found]:
        raise IllegalTransitionError(f"a response that is {found.value} cannot become {state.value}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseTarget:
    """Whom a response is about: a device, the tenant, an address, or the server."""

    ref: DeviceRef | None = None
    device_id: DeviceId | None = None
    source: str | None = None
    """A network address, as the server sees it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewResponse:
    """A response that is asked for."""

    response_id: ResponseId
    """16 bytes: asked for again with the same, it is the same response."""
    action: ResponseAction
    target: ResponseTarget
    incident_id: IncidentId | None
    rule: str | None
    """The playbook's rule that asked for it; None: a person."""
    is_automatic: bool
    """Carried out without a person, because a rule says so."""
    proven: int
    """Observations of the incident that its device alone can have caused (docs/security.md); 0 where nobody counts."""
    asked_by: str | None
    """The operator who asks; None: a rule."""
    reason: str
    per_minute: int | None = None
    """Of a limit."""
    lasts_s: int | None = None
    """Of a limit: it ends by itself after so long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """One row: a response as it stands."""

    response_id: ResponseId
    tenant_id: TenantId
    action: ResponseAction
    target: ResponseTarget
    incident_id: IncidentId | None
    rule: str | None
    is_automatic: bool
    proven: int
    needs_two: bool
    """Whether two different operators must want it."""
    first_by: str | None
    """The operator who asked, or confirmed a rule's proposal."""
    second_by: str | None
    """Another one."""
    reason: str
    state: ResponseState
    before: str
    """What was before, for undoing: a device's state, an epoch's number; empty until it was applied."""
    changed: int
    """How many rows or sessions it changed."""
    per_minute: int | None
    until_at: datetime | None
    """Of a limit: when it ends by itself."""
    asked_at: datetime
    changed_at: datetime
    """When its state was last changed."""
    expires_at: datetime
    """A proposal that is older cannot be confirmed."""
    ended_by: str | None
    """Who undid or dismissed it."""
    ended_because: str

    @property
    def is_by_rule(self) -> bool:
        """Whether a rule alone decides on it; once a person has confirmed it, that person does."""
        return self.is_automatic and self.first_by is None

    @property
    def lacks(self) -> int:
        """How many operators must still confirm it before it can be carried out."""
        if self.is_by_rule:
            return 0
        given = (self.first_by is not None) + (self.second_by is not None)
        return max(0, (2 if self.needs_two else 1) - given)

    def is_of(self, asked: NewResponse) -> bool:
        """Whether this is what was asked for, by the same, for the same reason."""
        return (self.action, self.target, self.incident_id, self.rule, self.reason, self.per_minute) == (
            asked.action,
            asked.target,
            asked.incident_id,
            asked.rule,
            asked.reason,
            asked.per_minute,
        )

    @property
    def device_reason(self) -> str:
        """What stands with a device that this response moved: by it the undoing knows its own."""
        return f"response {self.response_id.hex()}: {self.reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """A rate limit that stands, as workers keep it."""

    tenant_id: TenantId
    response_id: ResponseId
    action: ResponseAction
    ref: DeviceRef | None
    source: str | None
    per_minute: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseBounds:
    """How many devices responses may shut out: what an attacker gains at most by having honest ones accused."""

    automatic_hour_max: int = 10
    """Most devices an hour that rules quarantine by themselves, in one tenant."""
    automatic_ppm: int = 10_000
    """Most of the tenant's devices that stand quarantined by rules, in millionths; one at least."""
    single_hour_max: int = 50
    """Most devices an hour that single operators shut out, all together; beyond it two must want it."""

    def __post_init__(self) -> None:
        """Refuse what bounds nothing."""
        for name, low, high in (
            ("automatic_hour_max", 0, 1000),
            ("automatic_ppm", 0, 200_000),
            ("single_hour_max", 0, 100_000),
        ):
            value: object = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
                raise UsageError(f"{name} must be a whole number from {low} to {high}, got {value!r}")

    def automatic_max(self, devices: int) -> int:
        """Return how many of *devices* may stand quarantined by rules at a time."""
        if not self.automatic_ppm:
            return 0
        return max(1, devices * self.automatic_ppm // 1_000_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseUse:
    """How much of the bounds is used in one tenant."""

    devices: int
    """Devices that are active or suspended."""
    automatic_last_hour: int
    """Devices that rules shut out within the last hour, undone or not."""
    automatic_standing: int
    """Devices that stand quarantined by rules."""
    single_last_hour: int
    """Devices that single operators shut out within the last hour, undone or not."""

    def obstacle(self, bounds: ResponseBounds) -> str | None:
        """Say why a rule may shut no more devices out now; None if it may."""
        if self.automatic_last_hour >= bounds.automatic_hour_max:
            return f"rules have shut out {self.automatic_last_hour} devices within the hour, the most they may"
        if self.automatic_standing >= bounds.automatic_max(self.devices):
            return f"{self.automatic_standing} of {self.devices} devices stand quarantined by rules, the most that may"
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseFigures:
    """What metrics tell of all tenants' incidents and responses."""

    incidents: dict[tuple[str, str], int]
    """Those that are not closed, by severity and state."""
    responses: dict[tuple[str, str], int]
    """Those whose state changed within the last day, by action and state."""
    waiting: dict[str, int]
    """Proposals that may still be confirmed, by the operator that they wait for: first or second."""
    waiting_since: datetime | None
    """When the oldest of these was asked for; None where none waits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponsePlan:
    """What a response would do; nothing was changed."""

    action: ResponseAction
    target: ResponseTarget
    is_reversible: bool
    needs_two: bool
    """Whether two different operators must want it."""
    would: str
    """What would be done, in words."""
    count: int
    """How many devices, sessions or keys it would change."""
    before: str
    """What is now, as it would be put back."""
    obstacle: str | None
    """Why it cannot be done now; None if it can."""
