"""A server computes with the engine that its settings name, and says which."""

import pytest

import qflare
from manager_world import settings
from qflare.errors import ConfigError
from qflare.manager.settings import ManagerSettings
from qflare.primitives import engine as engines
from qflare.service.config import read_settings
from qflare.service.key_manager import QuantumKeyManager

WIDEST = "lanes" if engines.lanes_items() >= engines.WIDE_ITEMS_MIN else "liboqs"


@pytest.fixture
def keep_engine():
    """Give the process's choice back after the test."""
    before = engines.engine()
    yield
    engines.choose_engine(before)


@pytest.mark.usefixtures("keep_engine")
@pytest.mark.parametrize(("named", "runs"), [("liboqs", "liboqs"), (None, WIDEST), (WIDEST, WIDEST)])
async def test_the_named_engine_runs(database_dsn, tmp_path, named, runs):
    """QFLARE_ENGINE names it; unset takes the lanes where the processor has them; `about()` tells which."""
    environment = {} if named is None else {"QFLARE_ENGINE": named}
    assert named == read_settings(ManagerSettings, environment).engine
    async with QuantumKeyManager(
        database_dsn, data_dir=tmp_path / "data", config=settings(tmp_path, engine=named)
    ) as manager:
        await manager.generate_device_keypair("edge-node-001")
        assert runs == qflare.about().engine


@pytest.mark.usefixtures("keep_engine")
async def test_an_unknown_engine_stops_the_start(database_dsn, tmp_path):
    """A name that is no engine is refused at the start, with the names that are."""
    manager = QuantumKeyManager(database_dsn, data_dir=tmp_path / "data", config=settings(tmp_path, engine="openssl"))
    with pytest.raises(ConfigError, match="liboqs or lanes"):
        await manager.generate_device_keypair("edge-node-001")
    await manager.close()
