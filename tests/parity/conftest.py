"""MMRazor's own classes. It is a development dependency: where it is missing, this fails."""
from types import ModuleType

import pytest

from benchmark.live_mmrazor import import_mmrazor


@pytest.fixture(scope='session')
def mmrazor() -> ModuleType:
    """``mmrazor.models``."""
    return import_mmrazor()
