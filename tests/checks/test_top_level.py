import ast
from pathlib import Path

import mmdet
import mmseg
import pytest
from mmengine.config import Config

from mmakd.checks.findings import Findings
from mmakd.checks.top_level import _KEYS, check_top_level, nearest_key


@pytest.mark.parametrize(('key', 'expected'), [
    ('model', None), ('modle', 'model'), ('Model', 'model'), ('evn_cfg', 'env_cfg'),
    ('train_datalaoder', 'train_dataloader'), ('train_data_loader', 'train_dataloader'),
    ('optimizer_wrapper', 'optim_wrapper'), ('custom_hook', 'custom_hooks'),
    ('load_form', 'load_from'), ('param_schedulers', 'param_scheduler'),
    ('train_pipeline', None), ('train_dataset', None), ('val_evaluator_coco', None),
    ('norm_cfg', None), ('data_root', None), ('optimizer', None), ('lr', None),
])
def test_nearest_key(key, expected):
    assert nearest_key(key, _KEYS) == expected


def test_variables_of_the_stock_configs_are_not_taken_for_misspelt_keys():
    names = set()
    for package in (mmdet, mmseg):
        for path in Path(package.__file__).parent.glob('.mim/configs/*/*.py'):
            for node in ast.parse(path.read_text()).body:
                if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                    names.add(node.targets[0].id)
    near = {name for name in names if nearest_key(name, _KEYS)}
    # A list of names in one config, hence no model.
    assert near <= {'models'}


SOUND = dict(default_scope='mmdet', model=dict(type='RetinaNet'), train_dataloader=dict(),
             train_cfg=dict(), optim_wrapper=dict())


@pytest.mark.parametrize(('changes', 'expected'), [
    (dict(), []),
    (dict(mode=3, models='a'), []),
    (dict(optim_wrapper=None), [
        'optim_wrapper: missing, but train_dataloader and train_cfg given; give all three or '
        'none']),
    (dict(val_cfg=dict()), [
        'val_dataloader: missing, but val_cfg given; give all three or none',
        'val_evaluator: missing, but val_cfg given; give all three or none']),
    (dict(train_cfg='x'), ["train_cfg='x': expected a dict"]),
    (dict(default_scope='mmsge'), [
        "default_scope='mmsge': no such package; did you mean 'mmseg' or 'mmdet'?"]),
])
def test_check_top_level(changes, expected):
    findings = Findings()
    check_top_level(Config({**SOUND, **changes}), findings)
    assert findings.problems == expected


def test_nothing_to_train_is_a_warning():
    findings = Findings()
    check_top_level(Config(dict(model=dict(type='RetinaNet'), default_scope='mmdet')), findings)
    assert findings.problems == [] and 'nothing to train' in findings.warnings[0]


@pytest.mark.parametrize(('dataset', 'scope'), [
    (dict(type='CityscapesDataset'), 'mmdet'),  # both know one
    (dict(type='ADE20KDataset'), 'mmseg'),
    (dict(type='RepeatDataset', dataset=dict(type='CocoDataset')), 'mmdet'),
    (3, 'mmdet'),
])
def test_missing_scope_is_guessed(dataset, scope):
    cfg = Config({**SOUND, 'default_scope': None, 'train_dataloader': dict(dataset=dataset)})
    findings = Findings()
    check_top_level(cfg, findings)
    assert [problem.split(':')[0] for problem in findings.problems] == ['default_scope']
    assert cfg.default_scope == scope
