"""Records with a quick constructor are the dataclasses that they were (model/quick.py)."""

import copy
import dataclasses
import inspect
import pickle
from datetime import UTC, datetime

import pytest

from qflare.errors import LengthError
from qflare.model.device import Device, KeyState
from qflare.model.quick import quick
from qflare.model.session import Session
from qflare.protocol.credential import DeviceCredential
from qflare.service.exchange import CompletedExchange, KeyExchange

RECORDS = [CompletedExchange, Device, DeviceCredential, KeyExchange, Session]


@quick
@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    x: int
    y: int = 7
    name: str | None = None

    def __post_init__(self):
        if self.x < 0:
            raise ValueError("x must not be negative")


def test_a_quick_record_is_the_dataclass_it_was():
    """Values, defaults, comparison, text, hash, replacing, copies, pickles and the refusal to change are as before."""
    point = Point(x=1)
    assert (1, 7, None) == (point.x, point.y, point.name)
    assert Point(x=1, y=7) == point != Point(x=1, y=8)
    assert "Point(x=1, y=7, name=None)" == repr(point)
    assert hash(point) == hash(Point(x=1))
    assert Point(x=1, y=2) == dataclasses.replace(point, y=2)
    assert point == copy.deepcopy(point) == pickle.loads(pickle.dumps(point))  # noqa: S301 - its own
    assert {"x": 1, "y": 7, "name": None} == dataclasses.asdict(point)
    with pytest.raises(dataclasses.FrozenInstanceError):
        point.x = 2
    with pytest.raises(ValueError, match="negative"):
        Point(x=-1)


@pytest.mark.parametrize("arguments", [{}, {"y": 1}, {"x": 1, "z": 1}])
def test_wrong_arguments_are_refused(arguments):
    """What is missing or unknown is a TypeError, and nothing is taken by position."""
    with pytest.raises(TypeError):
        Point(**arguments)
    with pytest.raises(TypeError):
        Point(1)


@pytest.mark.parametrize("record", RECORDS)
def test_the_signature_stays(record):
    """Every parameter has its field's name and default, is given by keyword, and is told with its type."""
    parameters = inspect.signature(record).parameters
    fields = dataclasses.fields(record)
    assert [field.name for field in fields] == list(parameters)
    for field in fields:
        parameter = parameters[field.name]
        assert inspect.Parameter.KEYWORD_ONLY is parameter.kind
        assert (inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default) is parameter.default
        assert field.type == parameter.annotation


@pytest.mark.parametrize("record", RECORDS)
def test_every_field_is_set_to_its_own_argument(record):
    """Of each record that is made quickly each field has what was given for it."""
    names = [field.name for field in dataclasses.fields(record)]
    values = {name: bytes([number]) * 3 for number, name in enumerate(names)}
    if record is DeviceCredential:
        values |= {"verification_key": bytes(1312), "encapsulation_key": bytes(1568), "psk": None}
    made = record(**values)
    assert values == {name: getattr(made, name) for name in names}


def test_checks_of_a_record_still_run():
    """A record that checks itself refuses what it refused."""
    with pytest.raises(LengthError):
        DeviceCredential(key_version=1, is_accepted=True, verification_key=b"short", encapsulation_key=bytes(1568))


def test_fields_that_cannot_be_set_quickly_are_refused():
    """A factory, or an argument by position, is an error where the class is made."""

    @dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
    class Listed:
        items: list[int] = dataclasses.field(default_factory=list)

    @dataclasses.dataclass(frozen=True, slots=True)
    class Placed:
        item: int

    for record in (Listed, Placed):
        with pytest.raises(TypeError, match="plain keyword"):
            quick(record)


def test_a_device_keeps_its_types():
    """A row of the roster that is made quickly is one like any other."""
    device = Device(
        tenant_id=bytes(16),
        device_id="edge",
        ref=bytes(32),
        state=KeyState.ACTIVE,
        key_version=1,
        verification_key=b"",
        encapsulation_key=b"",
        kem_state=KeyState.PRE_ACTIVE,
        registered_at=datetime(2026, 1, 1, tzinfo=UTC),
    )
    assert (None, 0) == (device.sealed_psk, device.psk_version)
    assert dataclasses.is_dataclass(device)
