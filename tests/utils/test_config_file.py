import re
from pathlib import Path

import pytest
from mmengine.registry import MODELS, DefaultScope

from mmakd.utils.config_file import read_config
from mmakd.utils.errors import ConfigError, describe


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def to(name, text):
        (tmp_path / name).write_text(text)
        return name

    return to


def test_options_override_the_file(write):
    path = write('a.py', 'a = dict(b=1, c=[dict(x=1), dict(x=2)])\n')
    cfg = read_config(path, {'a.b': 2, 'a.c.1.x': 3, 'd': 'new'})
    assert cfg.a == dict(b=2, c=[dict(x=1), dict(x=3)]) and cfg.d == 'new'


@pytest.mark.parametrize(('text', 'message'), [
    ('a = dict(b=1\n', "config='a.py': SyntaxError: '(' was never closed"),
    ('b = 1\n\na = foo\n', "config='a.py': NameError: name 'foo' is not defined"),
    ("_base_ = 'broken.py'\n", "config='a.py': ZeroDivisionError: "),
    ("_base_ = 'bse.py'\n", 'bse.py'),
    ("_base_ = 'base.py'\na = dict(b=dict(c=1))\n", 'You may set `_delete_=True`'),
    ("_base_ = ['base.py', 'base2.py']\n", 'KeyError: Duplicate key is not allowed among bases'),
    ('import sys\nsys.exit(1)\n', "config='a.py': SystemExit: 1"),
    ('import no_such_module\na = no_such_module.b\n', 'no_such_module'),
    ("custom_imports = dict(imports=['mmakdd'])\n", 'Failed to import'),
    ("custom_imports = dict(imports=['broken'])\n", 'ZeroDivisionError'),
])
def test_unreadable_file_is_one_line(write, monkeypatch, text, message):
    write('base.py', 'a = dict(b=1)\n')
    write('base2.py', 'a = dict(b=2)\n')
    write('broken.py', 'a = 1\nb = 1 / 0\n')
    monkeypatch.syspath_prepend(Path.cwd())
    with pytest.raises(ConfigError) as caught:
        read_config(write('a.py', text))
    assert message in str(caught.value)
    assert len(caught.value.problems) == 1 and '\n' not in str(caught.value)


def test_missing_file_suggests_its_neighbours(write):
    write('student.py', '')
    with pytest.raises(ConfigError, match=re.escape(
            "config='studnet.py': no such file; did you mean 'student.py'?")):
        read_config('studnet.py')


def test_pure_python_becomes_registered_names(write):
    write('student.py', """\
from mmcv.ops import nms
from mmcv.transforms import LoadAnnotations
from mmdet.datasets.transforms import LoadAnnotations as LoadBoxes
from mmdet.models import L1Loss
from mmseg.models import TverskyLoss
default_scope = 'mmdet'
model = dict(loss=dict(type=L1Loss), nms=dict(type=nms))
steps = [dict(type=LoadBoxes), dict(type=LoadAnnotations), dict(losses=(dict(type=TverskyLoss), ))]
default_hooks = dict()
""")
    path = write('akd.py', """\
from mmengine.config import read_base
with read_base():
    from .student import *
from mmakd.distillers import AvatarDistiller
from mmakd.hooks import PerturbationHook
model = dict(type=AvatarDistiller, student=model)
default_hooks.update(perturbation=dict(type=PerturbationHook))
""")
    cfg = read_config(path)
    assert cfg.model.type == 'AvatarDistiller'
    assert cfg.default_hooks.perturbation == dict(type='PerturbationHook')
    assert cfg.steps == [dict(type='LoadAnnotations'), dict(type='mmengine.LoadAnnotations'),
                         dict(losses=(dict(type='mmseg.TverskyLoss'), ))]
    assert callable(cfg.model.student.nms.type)  # not registered
    assert {name.split('.')[0] for name in cfg.custom_imports.imports} == {'mmakd'}
    cfg.dump('saved.py')
    saved = read_config('saved.py')
    with DefaultScope.overwrite_default_scope('mmdet'):
        assert type(MODELS.build(saved.model.student.loss)).__name__ == 'L1Loss'


@pytest.mark.parametrize('options', [{'a.c.5': 1}, {'a.b.d': 1}, {'a.c.x': 1}])
def test_options_that_do_not_fit(write, options):
    path = write('a.py', 'a = dict(b=1, c=[1, 2])\n')
    with pytest.raises(ConfigError, match=r'^--cfg-options: \w+Error: '):
        read_config(path, options)


@pytest.mark.parametrize(('error', 'expected'), [
    (KeyError('metric'), 'KeyError: metric'),
    (ValueError('too   large\nreally'), 'ValueError: too large'),
    (AssertionError(), 'AssertionError'),
    (KeyError('PKDLos is not in the mmengine::model registry. Please check whether'),
     "KeyError: PKDLos is not in the mmengine::model registry; did you mean 'PKDLoss'"),
    (TypeError("PKDLoss.__init__() got an unexpected keyword argument 'loss_wight'"),
     "TypeError: PKDLoss.__init__() got an unexpected keyword argument 'loss_wight'; did you mean "
     "'loss_weight'?"),
])
def test_describe(error, expected):
    assert describe(error).startswith(expected)
