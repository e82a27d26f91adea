import asyncio
import logging
import os

import pytest

from given_time import GivenTime
from manager_world import Edge, TurnedClock, managers, settings
from qflare.errors import ConfigError, KeeperError, QflareError
from qflare.service.examination import examine
from qflare.service.keepers import open_keeper
from softhsm import soft_token  # noqa: F401 - a fixture

WIDTH_S = 300


async def test_a_fleet_runs_on_a_token(database_dsn, tmp_path, soft_token, caplog):  # noqa: F811
    """Two workers share a token: sessions of both forms, records across them, a turn, and the old bucket's key gone."""
    clock = TurnedClock()
    uri = soft_token.uri()
    with caplog.at_level(logging.DEBUG):
        async with managers(database_dsn, tmp_path, 2, clock=clock, keeper=uri) as (one, two):
            edge = await Edge.provision(one)
            first = await edge.connect(one, other=two)
            await edge.connect(two, form="offer")
            bucket = await one.current_bucket()
            for turned in (1, 2, 3):
                clock.turn(WIDTH_S)
                assert bucket + turned == await one.turn() == await two.turn()
            assert (await two.open_record(edge.seal(first.sid, b"model", bucket=bucket + 3))).plaintext.equals(b"model")
            wrapped = {path.name for path in (tmp_path / "data" / "keeper").glob("bucket-*.wrapped")}
            assert {f"bucket-{bucket + turned}.wrapped" for turned in (2, 3, 4)} == wrapped
    assert "the token is SoftHSM" in caplog.text
    assert soft_token.pin.read_text().strip() not in caplog.text


async def test_a_token_that_goes_stops_what_needs_it_and_its_return_starts_it(database_dsn, tmp_path, soft_token):  # noqa: F811
    """I4: a turn without the token is refused within a second to every caller, old keys die all the same, and it goes on."""
    clock = TurnedClock()
    async with managers(database_dsn, tmp_path, clock=clock, keeper=soft_token.uri()) as (manager,):
        edge = await Edge.provision(manager)
        session = await edge.connect(manager)
        bucket = await manager.current_bucket()
        soft_token.take_away()
        try:
            clock.turn(WIDTH_S)
            given = GivenTime()
            refused = await asyncio.gather(*(manager.current_bucket() for _ in range(10)), return_exceptions=True)
            assert given.is_within(1.0)
            assert {KeeperError} == {type(failure) for failure in refused}
            assert "gone" in str(refused[0])
            given = GivenTime()
            readiness = await manager.readiness()
            assert readiness.keeper is not None
            assert "gone" in readiness.keeper
            assert given.is_within(1.0)
            with pytest.raises(QflareError):
                await edge.hello(manager)
        finally:
            soft_token.bring_back()
        given = GivenTime()
        assert bucket + 1 == await manager.current_bucket()
        assert (await manager.readiness()).keeper is None
        assert (await manager.open_record(edge.seal(session.sid, b"model", bucket=bucket + 1))).plaintext.equals(
            b"model"
        )
        assert given.is_within(5.0)


def test_a_lasting_medium_is_said_at_the_start(tmp_path, caplog):
    """A worker whose bucket keys lie on a disk says that forward secrecy at rest is not promised."""
    keeper = open_keeper(tmp_path / "data" / "keeper", settings(tmp_path))
    assert (keeper.promise() is not None) == ("not promised" in caplog.text)
    with pytest.raises(ConfigError, match="keeper must be"):
        open_keeper(tmp_path / "data" / "keeper", settings(tmp_path, keeper="vault:x"))


async def test_doctor_looks_at_the_token(tmp_path, soft_token):  # noqa: F811
    """`qflare doctor` opens the token, says what it promises or why it cannot be used, and makes nothing in it."""
    found = await examine(dsn=None, keeper=soft_token.uri(), keeper_dir=None)
    assert "SoftHSM" in found.keeper
    assert found.is_keeper_usable
    found = await examine(dsn=None, keeper="pkcs11:token=x", keeper_dir=None)
    assert found.keeper.startswith("ConfigError: setting keeper lacks")
    assert not found.is_keeper_usable
    (tmp_path / "wrong").write_text("wrong")
    (tmp_path / "wrong").chmod(0o644)
    absent = soft_token.uri(pin=tmp_path / "wrong").replace("token=qflare-test", "token=another")
    assert "another" in (await examine(dsn=None, keeper=absent, keeper_dir=None)).keeper
    assert "not promised" in (await examine(dsn=None, keeper_dir=str(tmp_path))).keeper or os.path.ismount(tmp_path)
