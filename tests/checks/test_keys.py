import ast
from pathlib import Path

import mmdet
import mmseg
import pytest
from mmengine.config import Config

from mmakd.checks.keys import check_keys, nearest_key
from mmakd.utils.errors import ConfigProblems


@pytest.mark.parametrize(('key', 'expected'), [
    ('model', None), ('modle', 'model'), ('Model', 'model'), ('evn_cfg', 'env_cfg'),
    ('train_datalaoder', 'train_dataloader'), ('train_data_loader', 'train_dataloader'),
    ('optimizer_wrapper', 'optim_wrapper'), ('custom_hook', 'custom_hooks'),
    ('load_form', 'load_from'), ('param_schedulers', 'param_scheduler'),
    ('train_pipeline', None), ('train_dataset', None), ('val_evaluator_coco', None),
    ('norm_cfg', None), ('data_root', None), ('optimizer', None), ('lr', None),
])
def test_nearest_key(key, expected):
    assert nearest_key(key) == expected


def test_variables_of_the_stock_configs_are_not_taken_for_misspelt_keys():
    names = set()
    for package in (mmdet, mmseg):
        for path in Path(package.__file__).parent.glob('.mim/configs/*/*.py'):
            for node in ast.parse(path.read_text()).body:
                if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                    names.add(node.targets[0].id)
    near = {name for name in names if nearest_key(name)}
    # A list of names in one config, hence no model.
    assert near <= {'models'}


@pytest.mark.parametrize(('cfg', 'expected'), [
    (dict(default_scope='mmdet', model=dict(), mode=3, models='a'), []),
    (dict(default_scope='mmdet', optim_wraper=dict()), [
        "optim_wraper: the Runner does not know this key and ignores it; did you mean "
        "'optim_wrapper'?"]),
    (dict(default_scope='mmsge'), [
        "default_scope='mmsge': no such package; did you mean 'mmseg' or 'mmdet'?"]),
    (dict(), ["default_scope=None: no such package; valid: 'mmdet', 'mmseg'"]),
])
def test_check_keys(cfg, expected):
    problems = ConfigProblems()
    check_keys(Config(cfg), problems)
    assert problems.problems == expected
