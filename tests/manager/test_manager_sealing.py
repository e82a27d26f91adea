import dataclasses

import pytest

from qflare.errors import AuthenticationError, KeeperError
from qflare.manager.sealing import CHAIN_COLUMN, PSK_COLUMN, Place, seal, seal_rows, unseal, unseal_rows
from qflare.primitives.random import random_secret
from qflare.secret import SecretBytes

PLACE = Place(CHAIN_COLUMN, b"r" * 16, 7, b"t" * 16)


@pytest.fixture
def key():
    with random_secret(32) as made:
        yield made


def test_sealed_value_opens_in_its_place(key):
    """What was sealed opens under the same key in the same place, and no two seals are alike."""
    with random_secret(64) as secret:
        one, two = seal(key, secret, PLACE), seal(key, secret, PLACE)
        assert one != two
        with secret.view() as view:
            assert bytes(view) not in one
        with unseal(key, one, PLACE) as opened:
            assert opened.equals(secret)


@pytest.mark.parametrize(
    "change", [{"column": PSK_COLUMN}, {"row": b"s" * 16}, {"version": 8}, {"tenant_id": b"u" * 16}]
)
def test_sealed_value_does_not_open_elsewhere(key, change):
    """Swapped between columns, rows, versions or tenants it does not open (R8)."""
    with random_secret(64) as secret:
        sealed = seal(key, secret, PLACE)
    with pytest.raises(AuthenticationError):
        unseal(key, sealed, dataclasses.replace(PLACE, **change))


def test_moving_a_boundary_between_fields_does_not_open(key):
    """Bytes that move from the column's name into the row's id make another place."""
    with random_secret(8) as secret:
        sealed = seal(key, secret, Place(b"ab", b"cd", 1))
    with pytest.raises(AuthenticationError):
        unseal(key, sealed, Place(b"abc", b"d", 1))


def test_every_altered_bit_is_refused(key):
    """Every single-bit flip and truncation is refused."""
    with random_secret(8) as secret:
        sealed = seal(key, secret, PLACE)
    for bit in range(len(sealed) * 8):
        bad = bytearray(sealed)
        bad[bit // 8] ^= 1 << bit % 8
        with pytest.raises((AuthenticationError, KeeperError)):
            unseal(key, bytes(bad), PLACE)
    for size in range(len(sealed)):
        with pytest.raises((AuthenticationError, KeeperError)):
            unseal(key, sealed[:size], PLACE)


def test_rows_are_sealed_like_single_values(key):
    """The batch form seals what the single form opens, and one bad row fails alone."""
    places = [dataclasses.replace(PLACE, version=number) for number in range(5)]
    with random_secret(5 * 64) as rows:
        sealed = seal_rows(key, rows, 64, places)
        for number, place in enumerate(places):
            with unseal(key, sealed[number], place) as opened:
                assert opened.equals(rows.row(number, 64))
        sealed[3] = sealed[2]
        opened = unseal_rows(key, sealed, places)
        assert [False, False, False, True, False] == [each is None for each in opened]
        for number in (0, 1, 2, 4):
            with opened[number] as each:
                assert each.equals(rows.row(number, 64))
    assert [] == seal_rows(key, SecretBytes.zeros(0), 64, [])
