"""The engines that verify ML-DSA-44 on this machine, for tests that take each of them."""

import pytest

from qflare._native import sig as native
from qflare.primitives import engine as engines
from qflare.primitives.engine import Engine, choose_engine

SIG_ENGINES = [Engine.LIBOQS, *([Engine.LANES] if native.lanes_items() else [])]


@pytest.fixture(params=SIG_ENGINES)
def sig_engine(request):
    """Let the process verify with each engine in turn."""
    before = engines.engine()
    yield choose_engine(request.param)
    choose_engine(before)
