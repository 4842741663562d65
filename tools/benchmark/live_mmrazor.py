"""MMRazor 1.0.0, imported live on a stack that it does not know.

The parity tests compare our losses with its classes, the benchmark our training step with its own.
MMRazor 1.0.0 refuses any mmcv above 2.1.0, its quantisation needs parts that torch no longer has,
and its architecture search needs joblib, which it does not ask pip for. Its distillation needs
none of the three.
"""
import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import ModuleType
from unittest import mock

_NEWEST_MMCV = '2.1.0'
_LEFT_OUT = ('mmrazor.structures.quantization', 'mmrazor.models.task_modules.predictor')


class _StandIn(ModuleType):
    """An empty module, out of which every name can be imported."""

    __all__: list[str] = []

    def __getattr__(self, name: str) -> type:
        if name.startswith('__'):
            raise AttributeError(name)
        return type(name, (), {})


@contextmanager
def _stand_ins() -> Iterator[None]:
    """Put empty modules in the place of those that do not import, and take them out again."""
    stand_ins = {name: _StandIn(name) for name in _LEFT_OUT}
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        for name in stand_ins:
            del sys.modules[name]


@cache
def import_mmrazor() -> ModuleType:
    """Import MMRazor and register its components, ``'mmrazor.L2Loss'`` and the like.

    Returns:
        ModuleType: ``mmrazor.models``, which has the algorithms (``SingleTeacherDistill``,
        ``FpnTeacherDistill``), ``ConfigurableDistiller``, the losses and the connectors; recorders
        and deliveries are in its ``task_modules``.

    Raises:
        ImportError: If it is not installed.
    """
    mmcv = importlib.import_module('mmcv')
    try:
        # MMRazor itself only: what it imports beyond must see the true version.
        with mock.patch.object(mmcv, '__version__', _NEWEST_MMCV):
            importlib.import_module('mmrazor')
        with _stand_ins():
            registries = importlib.import_module('mmrazor.registry')
            # Each registry would else register everything at its first use, without the stand-ins.
            for name in registries.__all__:
                registry = getattr(registries, name)
                if hasattr(registry, 'import_from_location'):
                    registry.import_from_location()
    except ModuleNotFoundError as error:
        if error.name not in ('mmrazor', 'ordered_set'):
            raise
        raise ImportError(f'{error.name} is not installed; run '
                          'pip install --no-deps mmrazor==1.0.0 ordered-set') from error
    return importlib.import_module('mmrazor.models')
