"""
Playbooks: which incidents lead to which responses, proposed or by themselves, as data with their reasons.

A playbook is TOML, read whole and strictly: what is unknown, doubled or out of range is an error that names its place,
so that no rule is silently not there.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from enum import StrEnum
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Final

from qflare.errors import ConfigError, UsageError
from qflare.model.event import EventSeverity
from qflare.model.evidence import count_proven
from qflare.model.incident import SEVERITIES
from qflare.model.response import (
    ABOUT_DEVICE,
    LIMITS,
    NEEDS_TWO,
    PER_MINUTE_MAX,
    PER_MINUTE_MIN,
    REASON_BYTES_MAX,
    ResponseAction,
    ResponseBounds,
)
from qflare.model.signal import Signal
from qflare.service.responding.webhook import WebhookTarget

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qflare.model.incident import Incident

VERSION: Final = 1
FILE_BYTES_MAX: Final = 65_536
RULES_MAX: Final = 100
NAME_BYTES_MAX: Final = 64
ANY: Final = "any"
_RULE_KEYS: Final = frozenset(
    {"name", "signal", "severity", "about", "proven_min", "action", "mode", "why", "per_minute", "lasts_s"}
)
_BOUND_KEYS: Final = frozenset({"automatic_hour_max", "automatic_ppm", "single_hour_max"})
_WEBHOOK_KEYS: Final = frozenset({"url", "key_file", "ca_file"})
_TABLES: Final = frozenset({"version", "bounds", "rule", "webhook"})
PATH_BYTES_MAX: Final = 4096


class Mode(StrEnum):
    """Who decides."""

    PROPOSE = "propose"
    AUTOMATIC = "automatic"


class About(StrEnum):
    """Whose incidents a rule is for."""

    DEVICE = "device"
    FLEET = "fleet"
    EITHER = "either"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule of a playbook."""

    name: str
    """Once a playbook; a rule responds once to an incident."""
    signal: Signal | None
    """None: any."""
    severity: EventSeverity
    """The least."""
    about: About
    proven_min: int
    """Least observations that only the device can have caused (`model/evidence.py`)."""
    action: ResponseAction
    mode: Mode
    why: str
    per_minute: int | None
    lasts_s: int | None

    def fits(self, incident: Incident) -> bool:
        """Whether the rule is for this incident."""
        is_about_device = incident.ref is not None and incident.device_id is not None
        return (
            self.signal in {None, incident.signal}
            and SEVERITIES.index(incident.severity) >= SEVERITIES.index(self.severity)
            and (self.about is About.EITHER or (self.about is About.DEVICE) == is_about_device)
            and (not self.proven_min or count_proven(incident.evidence) >= self.proven_min)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Playbook:
    """Rules and bounds, as they were read."""

    bounds: ResponseBounds
    rules: tuple[Rule, ...]
    webhook: WebhookTarget | None
    """None: nothing is sent, whatever the rules say."""


def read_playbook(path: str | None) -> Playbook:
    """
    Return the playbook in a file, or the one of the package.

    Raises:
        ConfigError: the file cannot be read, or is no playbook; the message says where.
    """
    if path is None:
        return parse_playbook(files(__package__).joinpath("playbook.toml").read_bytes(), name="the shipped playbook")
    try:
        with Path(path).open("rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
    except OSError as failure:
        raise ConfigError(f"cannot read the playbook {path}: {failure.strerror}") from None
    return parse_playbook(content, name=path)


def parse_playbook(content: bytes, *, name: str) -> Playbook:
    """Read a playbook's bytes; errors as `read_playbook`."""
    if len(content) > FILE_BYTES_MAX:
        raise ConfigError(f"{name} has more than the {FILE_BYTES_MAX} bytes a playbook may have")
    try:
        tables: dict[str, object] = tomllib.loads(content.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as failure:
        raise ConfigError(f"{name} is no TOML: {failure}") from None
    try:
        return _playbook(tables)
    except UsageError as failure:
        raise ConfigError(f"{name}: {failure}") from None


def _playbook(tables: dict[str, object]) -> Playbook:
    _require_keys(tables, _TABLES, {"version"})
    if tables["version"] != VERSION:
        raise UsageError(f"version must be {VERSION}, got {tables['version']!r}")
    bounds = _table(tables.get("bounds", {}), "bounds")
    _require_keys(bounds, _BOUND_KEYS, set())
    listed = tables.get("rule", [])
    if not isinstance(listed, list) or len(listed) > RULES_MAX:
        raise UsageError(f"rule must be at most {RULES_MAX} tables [[rule]]")
    rules = tuple(_rule(_table(each, "rule"), number) for number, each in enumerate(listed, 1))
    names = [rule.name for rule in rules]
    for each in names:
        if names.count(each) > 1:
            raise UsageError(f"two rules are named {each!r}")
    webhook: WebhookTarget | None = None
    if "webhook" in tables:
        table = _table(tables["webhook"], "webhook")
        _require_keys(table, _WEBHOOK_KEYS, {"url", "key_file"})
        webhook = WebhookTarget(
            url=_text(table, "url", PATH_BYTES_MAX),
            key_file=_text(table, "key_file", PATH_BYTES_MAX),
            ca_file=_text(table, "ca_file", PATH_BYTES_MAX) if "ca_file" in table else None,
        )
    return Playbook(bounds=ResponseBounds(**bounds), rules=rules, webhook=webhook)  # type: ignore[arg-type] # it looks at each value


def _rule(table: dict[str, object], number: int) -> Rule:
    try:
        _require_keys(table, _RULE_KEYS, {"name", "signal", "severity", "action", "mode", "why"})
        action = ResponseAction(_text(table, "action", NAME_BYTES_MAX))
        signal = _text(table, "signal", NAME_BYTES_MAX)
        default = About.DEVICE if action in ABOUT_DEVICE else About.EITHER
        rule = Rule(
            name=_text(table, "name", NAME_BYTES_MAX),
            signal=None if signal == ANY else Signal(signal),
            severity=EventSeverity(_text(table, "severity", NAME_BYTES_MAX)),
            about=About(_text(table, "about", NAME_BYTES_MAX)) if "about" in table else default,
            proven_min=_number(table, "proven_min", 0, 1_000_000) or 0,
            action=action,
            mode=Mode(_text(table, "mode", NAME_BYTES_MAX)),
            why=_text(table, "why", REASON_BYTES_MAX),
            per_minute=_number(table, "per_minute", PER_MINUTE_MIN, PER_MINUTE_MAX),
            lasts_s=_number(table, "lasts_s", 60, 31_622_400),
        )
        _require_sense(rule)
    except ValueError as failure:
        named: object = table.get("name")
        raise UsageError(f"rule {number}{f' ({named!r})' if isinstance(named, str) else ''}: {failure}") from None
    return rule


def _require_sense(rule: Rule) -> None:
    if rule.mode is Mode.AUTOMATIC and rule.action in NEEDS_TWO:
        raise UsageError(f"{rule.action.value} is never automatic: two operators must want it")
    if rule.action in ABOUT_DEVICE and rule.about is not About.DEVICE:
        raise UsageError(f"{rule.action.value} needs about = 'device'")
    if rule.mode is Mode.AUTOMATIC and rule.action in ABOUT_DEVICE and not rule.proven_min:
        raise UsageError(
            "an automatic action against a device needs proven_min of 1 at least: others can send messages in its name"
        )
    if rule.action is ResponseAction.LIMIT_SOURCE:
        raise UsageError("incidents name no address: limit-source is for operators")
    if (rule.action in LIMITS) != (rule.per_minute is not None):
        raise UsageError("per_minute belongs to limits, and they need it")
    if rule.lasts_s is not None and rule.action not in LIMITS:
        raise UsageError("lasts_s belongs to limits")


def _table(value: object, name: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise UsageError(f"{name} must be a table")
    return value


def _require_keys(table: Mapping[str, object], known: frozenset[str], needed: set[str]) -> None:
    if unknown := sorted(set(table) - known):
        raise UsageError(f"unknown key {unknown[0]!r}; there are {', '.join(sorted(known))}")
    if missing := sorted(needed - set(table)):
        raise UsageError(f"{missing[0]!r} is missing")


def _text(table: Mapping[str, object], key: str, bytes_max: int) -> str:
    value = table[key]
    if not isinstance(value, str) or not 1 <= len(value.encode()) <= bytes_max or not value.isprintable():
        raise UsageError(f"{key} must be printable text of 1 to {bytes_max} bytes, got {value!r}")
    return value


def _number(table: Mapping[str, object], key: str, low: int, high: int) -> int | None:
    value = table.get(key)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise UsageError(f"{key} must be a whole number from {low} to {high}, got {value!r}")
    return value
