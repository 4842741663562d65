"""What the live import leaves behind."""
import sys

import mmcv
import pytest
from mmengine.registry import LOOPS, MODELS

from benchmark.live_mmrazor import import_mmrazor


def test_nothing_stays_patched():
    version = mmcv.__version__
    models = import_mmrazor()
    assert import_mmrazor() is models
    assert mmcv.__version__ == version
    assert 'mmrazor.structures.quantization' not in sys.modules
    with pytest.raises(ImportError, match='torch'):
        import mmrazor.structures.quantization  # noqa: F401


def test_components_are_registered():
    models = import_mmrazor()
    for name in 'FpnTeacherDistill', 'ConfigurableDistiller', 'MGDConnector', 'PKDLoss':
        assert MODELS.get(f'mmrazor.{name}') is getattr(models, name)
    assert LOOPS.get('mmrazor.SingleTeacherDistillValLoop').__module__.startswith('mmrazor.')


def test_absence_is_told_with_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, 'mmrazor', None)
    with pytest.raises(ImportError, match=r'pip install --no-deps mmrazor==1\.0\.0'):
        import_mmrazor.__wrapped__()
