import dataclasses
from pathlib import Path

import pytest

from qflare.errors import ConfigError
from qflare.manager.settings import ManagerSettings
from qflare.service.config import is_debug, read_data_dir, read_dsn, read_settings


@pytest.mark.parametrize(
    "change",
    [
        {"bucket_width_s": 0},
        {"bucket_width_s": 1.5},
        {"lifetime": 289},
        {"batch_max": 0},
        {"threads": True},
        {"store_timeout_s": 0},
        {"store_timeout_s": "5"},
        {"pool_size_min": 9, "pool_size_max": 3},
        {"log_origin": "has space"},
        {"log_origin": "a+b"},
        {"log_origin": ""},
        {"record_bytes_max": 2**40},
    ],
)
def test_impossible_settings_are_refused_by_name(change):
    """A value out of its range is refused before anything starts, and the error names the setting."""
    with pytest.raises(ConfigError, match=next(iter(change)).split("_m")[0]):
        ManagerSettings(**change)


def test_settings_come_from_the_environment():
    """Each field has a variable; what is not set keeps its default."""
    made = read_settings(
        ManagerSettings,
        {
            "QFLARE_BUCKET_WIDTH_S": "2",
            "QFLARE_STORE_TIMEOUT_S": "1.5",
            "QFLARE_LOG_ORIGIN": "log.example",
            "HOME": "/",
        },
    )
    assert (2, 1.5, "log.example") == (made.bucket_width_s, made.store_timeout_s, made.log_origin)
    assert (
        dataclasses.replace(ManagerSettings(), bucket_width_s=2, store_timeout_s=1.5, log_origin="log.example") == made
    )


def test_unreadable_variable_is_named():
    """A variable that is no number is refused by its name."""
    with pytest.raises(ConfigError, match="QFLARE_BATCH_MAX"):
        read_settings(ManagerSettings, {"QFLARE_BATCH_MAX": "many"})


def test_data_folder_and_dsn_are_found():
    """QFLARE_DATA_DIR wins, then XDG_DATA_HOME, then the home folder; without any, the error says what to set."""
    assert Path("/a") == read_data_dir({"QFLARE_DATA_DIR": "/a", "XDG_DATA_HOME": "/b", "HOME": "/c"})
    assert Path("/b/qflare") == read_data_dir({"XDG_DATA_HOME": "/b", "HOME": "/c"})
    assert Path("/c/.local/share/qflare") == read_data_dir({"HOME": "/c"})
    with pytest.raises(ConfigError, match="QFLARE_DATA_DIR"):
        read_data_dir({})
    assert "postgresql://x" == read_dsn({"QFLARE_DSN": "postgresql://x"})
    assert read_dsn({"QFLARE_DSN": ""}) is None
    assert is_debug({"QFLARE_DEBUG": "1"})
    assert not is_debug({})
