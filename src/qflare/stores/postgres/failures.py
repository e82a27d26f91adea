"""
From asyncpg's errors to ours: by SQLSTATE and constraint name, and without the row that PostgreSQL puts into DETAIL.

Every error is raised `from None`: the original would carry the row into tracebacks and logs.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import asyncpg

from qflare.errors import (
    AlreadyExistsError,
    ConflictError,
    IllegalTransitionError,
    KeyNotFoundError,
    QflareError,
    SchemaMismatchError,
    SecondPersonError,
    StoreError,
    StoreUnavailableError,
    UsageError,
)
from qflare.model.two_person_control import NEEDED

if TYPE_CHECKING:
    from collections.abc import Iterator

_INSTALL: Final = "set it up with  qflare migrate  or  psql DBNAME < database/schema.sql"

_EXISTS: Final = {
    "tenant_pkey": "a tenant of that id exists already",
    "tenant_name_once": "a tenant of that name exists already",
    "device_pkey": "a device of that name exists already",
    "device_id_once": "a device of that name exists already",
    "enrolment_token_pkey": "a token of that id exists already",
    "operator_pkey": "an operator of that name exists already; names are not used again",
}
_ABSENT: Final = {
    "device_of_tenant": "no such tenant; create it first",
    "enrolment_token_of_tenant": "no such tenant; create it first",
    "rotation_policy_of_tenant": "no such tenant; create it first",
    "operator_of_tenant": "no such tenant; create it first",
    "incident_of_tenant": "no such tenant; create it first",
    "detector_state_of_tenant": "no such tenant; create it first",
    "response_of_tenant": "no such tenant; create it first",
    "response_of_incident": "no such incident in this tenant",
    "incident_changed_by_operator": "no such operator in this tenant: add one with  qflare operator add",
    "response_first_by_operator": "no such operator in this tenant: add one with  qflare operator add",
    "response_second_by_operator": "no such operator in this tenant: add one with  qflare operator add",
    "response_ended_by_operator": "no such operator in this tenant: add one with  qflare operator add",
    "two_person_control_of_tenant": "no such tenant; create it first",
    "two_person_control_changed_by_operator": "no such operator in this tenant: add one with  qflare operator add",
    "two_person_control_off_by_operator": "no such operator in this tenant: add one with  qflare operator add",
    "device_key_of_device": "no such device; register it first",
}
_TWO_PERSONS: Final = {"device_two_persons": "revoke", "server_identity_two_persons": "rotate-identity"}
_MOVES: Final = ("_state_move", "_state_first")
_MOVE_TEXT: Final = re.compile(r"the [a-z ]{1,40} cannot (?:go from [a-z-]{1,20} to|begin as) [a-z-]{1,20}")
"""What refuse_illegal_move says: states and a table's name, nothing of a row."""

# 08 connection, 53 resources, 57P admin shutdown or crash recovery, 58 system, XX internal; the rest by name.
_UNAVAILABLE_CLASSES: Final = ("08", "53", "57P", "58", "XX")
_UNAVAILABLE: Final = {
    "55P03": "a lock was not free in time",
    "57014": "a statement ran out of time",
    "40001": "the transaction met another one",
    "40P01": "the transaction met another one",
    "25006": "the database is read-only",
    "25P03": "the transaction was idle for too long",
}
_SCHEMA: Final = ("3F000", "42P01", "42883", "42703", "42704", "QF001")
_LATE: Final = "the database did not answer in time; retry, or raise the timeout"
_NONE_FREE: Final = (
    "no connection to the database was free in time; retry, raise pool_size_max, or look at what holds them"
)
_LOGIN: Final = "the database refused the login or does not exist; check user, password and database in the dsn"
_REMEDIES: Final = {
    "28000": _LOGIN,
    "28P01": _LOGIN,
    "3D000": _LOGIN,
    "42501": "the login lacks a privilege: an auditor's needs qflare_auditor, which only reads; a worker's qflare_app",
}


# What the driver itself says has no SQLSTATE: these are the standard's for it.
_REFUSED: Final = "08001"
_LOST: Final = "08006"
_LOST_BY_SERVER: Final = ("08", "57P01", "57P02")


@contextmanager
def translated(*, is_sent: bool = True) -> Iterator[None]:
    """
    Turn what the driver raises inside the block into a `StoreError`, `KeyStateError` or `UsageError`.

    Args:
        is_sent: Something was sent to the server, which a lost answer may have changed all the same.

    Raises:
        StoreUnavailableError: no connection, no answer in time, or a passing conflict; a retry may help.
        SchemaMismatchError: a table or function is missing.
        AlreadyExistsError, KeyNotFoundError, IllegalTransitionError, ConflictError: a named constraint refused.
        StoreError: anything else; with SQLSTATE and constraint where known.
    """
    failure: Exception
    try:
        yield
    except QflareError:
        raise
    except asyncpg.PostgresError as error:
        failure = _from_server(error, is_sent=is_sent)
    except asyncpg.InternalClientError:
        failure = StoreUnavailableError(
            "the database driver lost its connection; retry", sqlstate=_LOST, outcome_unknown=is_sent
        )
    except asyncpg.InterfaceError as error:
        failure = _from_driver(error, is_sent=is_sent)
    except TimeoutError:
        failure = StoreUnavailableError(_LATE if is_sent else _NONE_FREE, outcome_unknown=is_sent)
    except (OSError, EOFError):
        failure = StoreUnavailableError(
            "the database cannot be reached; check that it runs and that the dsn is right",
            sqlstate=_LOST if is_sent else _REFUSED,
            outcome_unknown=is_sent,
        )
    else:
        return
    raise failure from None


def _from_driver(error: asyncpg.InterfaceError, *, is_sent: bool) -> Exception:
    if isinstance(error, ValueError):
        # DataError and configuration errors quote the value, which may be a key: the argument's place must do.
        return UsageError("a value does not fit its column's type; check types and ranges")
    return StoreUnavailableError("the database connection is closed; retry", sqlstate=_LOST, outcome_unknown=is_sent)


def _from_server(error: asyncpg.PostgresError, *, is_sent: bool) -> Exception:
    sqlstate = error.sqlstate or ""
    constraint: str | None = getattr(error, "constraint_name", None)
    failure = _by_constraint(sqlstate, constraint, error.args[0] if error.args else "") or _by_sqlstate(sqlstate)
    if isinstance(failure, StoreUnavailableError):
        # Any other error of the server is its word that it rolled the statement back.
        failure.outcome_unknown = is_sent and sqlstate.startswith(_LOST_BY_SERVER)
    return failure


def _by_constraint(sqlstate: str, constraint: str | None, text: str) -> QflareError | None:
    if not sqlstate.startswith("23"):
        return None
    if constraint in _EXISTS:
        return AlreadyExistsError(_EXISTS[constraint])
    if constraint in _ABSENT:
        return KeyNotFoundError(_ABSENT[constraint])
    if constraint in _TWO_PERSONS:
        return SecondPersonError(NEEDED.format(action=_TWO_PERSONS[constraint]))
    if constraint is not None and constraint.endswith(_MOVES):
        said = text if _MOVE_TEXT.fullmatch(text) else "that state cannot be reached from the present one"
        return IllegalTransitionError(f"{said}: the states of NIST SP 800-57 allow no such move")
    return ConflictError(
        f"the database refused the change ({constraint or 'unnamed constraint'})",
        sqlstate=sqlstate,
        constraint=constraint,
    )


def _by_sqlstate(sqlstate: str) -> QflareError:
    if sqlstate in _SCHEMA:
        return SchemaMismatchError(f"the database has no fitting schema 'qflare'; {_INSTALL}", sqlstate=sqlstate)
    if sqlstate in _REMEDIES:
        return StoreError(_REMEDIES[sqlstate], sqlstate=sqlstate)
    if sqlstate.startswith("22"):
        return UsageError("a value does not fit its column; check types and ranges")
    if sqlstate in _UNAVAILABLE:
        return StoreUnavailableError(f"{_UNAVAILABLE[sqlstate]}; retry", sqlstate=sqlstate)
    if sqlstate.startswith(_UNAVAILABLE_CLASSES):
        return StoreUnavailableError("the database is not available; retry", sqlstate=sqlstate)
    return StoreError(f"the database refused the statement (SQLSTATE {sqlstate})", sqlstate=sqlstate)
