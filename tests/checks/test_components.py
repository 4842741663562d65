import pytest
from mmengine.registry import MODELS, OPTIMIZERS, TRANSFORMS, init_default_scope

import mmakd  # noqa: F401
from mmakd.checks.components import build_component, check_component, nested_configs, wrong_parts
from mmakd.checks.findings import Findings
from mmakd.utils.errors import ConfigError


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmdet')


@pytest.fixture
def findings():
    return Findings()


def test_attempt_notes_any_error_under_its_key(findings):
    with findings.attempt('a.b'):
        raise ConfigError(['=3: wrong', 'c=4: wrong'])
    with findings.attempt('d'):
        raise KeyError('missing')
    with findings.attempt('e'):
        pass
    assert findings.problems == ['a.b=3: wrong', 'a.b.c=4: wrong', 'd: KeyError: missing']


def test_sound_component(findings):
    cfg = dict(type='Resize', scale=(8, 4), keep_ratio=True)
    assert build_component(cfg, 'pipeline.0', TRANSFORMS, findings).scale == (8, 4)
    assert cfg == dict(type='Resize', scale=(8, 4), keep_ratio=True)
    assert check_component(cfg, 'pipeline.0', TRANSFORMS, findings).__name__ == 'Resize'
    assert findings.problems == []


@pytest.mark.parametrize(('cfg', 'expected'), [
    ('Resize', "key='Resize': expected dict(type=...)"),
    (dict(scale=3), "key.type: missing in {'scale': 3}; name a registered class"),
    (dict(type=3), 'key.type=3: expected the name of a registered class'),
    (dict(type='Rezise'), "key.type='Rezise': not registered; did you mean 'Resize'"),
    # An argument of the class itself, and one of its base, which gets it by **kwargs.
    (dict(type='LoadAnnotations', poly2masks=True),
     "key.poly2masks=True: LoadAnnotations has no such argument; did you mean 'poly2mask'"),
    (dict(type='LoadAnnotations', with_bbx=True),
     "key.with_bbx=True: LoadAnnotations has no such argument; did you mean 'with_bbox'"),
    (dict(type='RandomFlip', prob=7), "key.type='RandomFlip': ValueError: probs must be float"),
])
def test_wrong_component(findings, cfg, expected):
    assert build_component(cfg, 'key', TRANSFORMS, findings) is None
    assert len(findings.problems) == 1 and findings.problems[0].startswith(expected)


@pytest.mark.parametrize(('cfg', 'given', 'expected'), [
    (dict(type='AdamW'), ('params', ), []),
    (dict(type='AdamW'), (), ['key.params: missing; AdamW needs it']),
    # A misspelt one is reported once, with its right name.
    (dict(type='AdamW', param=1), (), [
        "key.param=1: AdamW has no such argument; did you mean 'params'?"]),
])
def test_missing_arguments(findings, cfg, given, expected):
    check_component(cfg, 'key', OPTIMIZERS, findings, given)
    assert findings.problems == expected


def test_the_part_at_fault_is_named(findings):
    cfg = dict(type='RetinaNet', backbone=dict(type='ResNet', depth=18),
               neck=dict(type='FPN', in_channels=3, out_channels=1, num_outs=5),
               bbox_head=dict(type='RetinaHead', num_classes=1, in_channels=1))
    build_component(cfg, 'model', MODELS, findings)
    assert len(findings.problems) == 1
    assert findings.problems[0].startswith("model.neck.type='FPN': AssertionError")


def test_several_wrong_parts():
    cfg = dict(_scope_='mmdet', type='RetinaNet',
               backbone=dict(type='ResNett', norm_cfg=dict(type='BN', requires_grad=True)),
               neck=dict(type='FPN', numouts=5),
               bbox_head=dict(type='RetinaHead', loss_cls=dict(type='FocalLos'),
                              anchor_generator=dict(type='AnchorGeneratr')),
               test_cfg=dict(nms=dict(type='nms', iou_threshold=0.5)))
    problems = wrong_parts(cfg, 'model')
    assert [problem.split(' or ')[0].rstrip('?') for problem in problems] == [
        "model.backbone.type='ResNett': not registered; did you mean 'ResNet'",
        "model.neck.numouts=5: FPN has no such argument; did you mean 'num_outs'",
        "model.bbox_head.loss_cls.type='FocalLos': not registered; did you mean 'FocalLoss'",
        "model.bbox_head.anchor_generator.type='AnchorGeneratr': not registered; did you mean "
        "'AnchorGenerator'"]


def test_missing_files_are_forgiven(findings):

    class NeedsFile:

        def __init__(self):
            raise FileNotFoundError('nowhere.txt')

    cfg = dict(type=NeedsFile)
    assert build_component(cfg, 'key', MODELS, findings, forgive=(OSError, )) is None
    assert findings.problems == [] and 'FileNotFoundError: nowhere.txt' in findings.warnings[0]
    build_component(cfg, 'key', MODELS, findings)
    assert 'FileNotFoundError: nowhere.txt' in findings.problems[0]


def test_nested_configs():
    cfg = dict(a=dict(b=1), c=[dict(d=dict(e=2)), 3], f=(dict(g=4), ))
    assert list(nested_configs(cfg, 'x')) == [
        ('x.a', dict(b=1)), ('x.c.0', dict(d=dict(e=2))), ('x.c.0.d', dict(e=2)),
        ('x.f.0', dict(g=4))]
