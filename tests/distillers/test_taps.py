import re

import pytest
import torch
from mmengine.registry import MODELS
from torch import nn

import mmakd  # noqa: F401
from mmakd.distillers.taps import FeatureTaps, check_tap, forward_to_taps
from mmakd.utils.errors import ConfigError
from mmakd.utils.references import resolve_model

DETECTOR = dict(
    cfg='mmdet::retinanet/retinanet_r50_fpn_1x_coco.py',
    backbone=dict(depth=18, base_channels=8, init_cfg=None),
    neck=dict(in_channels=[8, 16, 32, 64], out_channels=16),
    bbox_head=dict(in_channels=16, feat_channels=16, stacked_convs=1))
SEGMENTOR = dict(
    cfg='mmseg::fcn/fcn_r18-d8_4xb2-80k_cityscapes-512x1024.py',
    pretrained=None,
    backbone=dict(base_channels=8, stem_channels=8, norm_cfg=dict(type='BN')),
    decode_head=dict(in_channels=64, channels=16, norm_cfg=dict(type='BN')),
    auxiliary_head=None)


@pytest.fixture(scope='module')
def networks():
    return {side: MODELS.build(resolve_model(cfg)).eval()
            for side, cfg in (('detector', DETECTOR), ('segmentor', SEGMENTOR))}


class Outputs(nn.Module):
    """Gives whatever it was told to, of its input."""

    def __init__(self, make):
        super().__init__()
        self.make = make

    def forward(self, x):
        return self.make(x)


class Net(nn.Module):
    """One module that is called once a level, as the heads of detectors are."""

    def __init__(self, make):
        super().__init__()
        self.block = nn.Sequential(Outputs(make))

    def forward(self, levels):
        return [self.block(level) for level in levels]


def number_of_hooks(model):
    return sum(len(module._forward_hooks) for module in model.modules())


@pytest.mark.parametrize('make, factors', [
    (lambda x: x, [1]),
    (lambda x: (x, 2 * x), [1, 2]),
    (lambda x: [x, (2 * x, [3 * x])], [1, 2, 3]),
    (lambda x: dict(a=x, b=(2 * x, 3 * x)), [1, 2, 3]),
    (lambda x: (x, None, 'text', 5), [1]),
    (lambda x: None, []),
], ids=['tensor', 'tuple', 'nested', 'dict', 'other_values', 'none'])
def test_every_tensor_of_every_call_is_a_map(make, factors):
    model, levels = Net(make), [torch.randn(1, 2, size, size) for size in (4, 2)]
    with FeatureTaps(model, ['block.0', 'block']) as taps:
        model(levels)
    for tap in 'block', 'block.0':
        maps = taps.features[tap]
        expected = [factor * level for level in levels for factor in factors]
        assert len(maps) == len(expected)
        assert all(actual.equal(wanted) for actual, wanted in zip(maps, expected))


def test_maps_keep_their_gradient():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())
    with FeatureTaps(model, ['0']) as taps:
        model(torch.randn(1, 3, 2, 2))
    taps.features['0'][0].sum().backward()
    assert model[0].weight.grad.abs().sum() > 0


@pytest.mark.parametrize('error', [None, KeyError])
def test_hooks_are_removed_after_the_block(error):
    model = Net(lambda x: x)
    try:
        with FeatureTaps(model, ['block', 'block.0']) as taps:
            assert number_of_hooks(model) == 2
            if error:
                raise error
    except KeyError:
        pass
    assert number_of_hooks(model) == 0
    model([torch.ones(1, 1, 1, 1)])
    assert taps.features == {'block': [], 'block.0': []}


@pytest.mark.parametrize('tap', ['block', 'block.0'])
def test_good_tap_passes(tap):
    check_tap(Net(lambda x: x), 'tap', tap, 'student')


@pytest.mark.parametrize('tap, nearest', [
    ('blok', "'block'"), ('block.o', "'block.0'"), ('', "'block'"), (None, 'valid: '),
    (3, 'valid: ')])
def test_unknown_tap_is_named_with_the_nearest_modules(tap, nearest):
    with pytest.raises(ConfigError) as caught:
        check_tap(Net(lambda x: x), 'teacher_tap', tap, 'teacher')
    assert str(caught.value).startswith(
        f'teacher_tap={tap!r}: the teacher (Net) has no such module; ')
    assert nearest in str(caught.value)


def test_nearest_module_of_a_detector(networks):
    with pytest.raises(ConfigError, match=re.escape("did you mean 'bbox_head.retina_reg'")):
        check_tap(networks['detector'], 'tap', 'bbox_head.retina_regs', 'student')


# The maps that a module gives in one run of its stage. Heads are seen through a layer of theirs,
# since mmdet and mmseg call the ``forward`` of a head itself past its hooks.
REGRESSION, LOGITS = 'bbox_head.retina_reg', 'decode_head.conv_seg'
MAPS = {'backbone': 4, 'neck': 5, REGRESSION: 5, LOGITS: 1}


@pytest.mark.parametrize('network, taps, run, not_run', [
    ('detector', ['backbone'], ['backbone'], ['neck', REGRESSION]),
    ('detector', ['backbone.layer3', 'backbone'], ['backbone'], ['neck', REGRESSION]),
    ('detector', ['neck.fpn_convs.0'], ['backbone', 'neck'], [REGRESSION]),
    ('detector', ['neck', 'backbone.layer4'], ['backbone', 'neck'], [REGRESSION]),
    ('detector', [REGRESSION, 'neck'], ['backbone', 'neck', REGRESSION], []),
    ('segmentor', ['backbone.layer4'], ['backbone'], [LOGITS]),
    ('segmentor', [LOGITS], ['backbone', LOGITS], []),
])
def test_only_the_stages_up_to_the_deepest_tap_run_and_once(networks, network, taps, run, not_run):
    model = networks[network]
    with FeatureTaps(model, [*run, *not_run]) as stages, FeatureTaps(model, taps) as recorded:
        with torch.no_grad():
            forward_to_taps(model, taps, torch.zeros(1, 3, 64, 64), None)
        assert all(recorded.features.values())
    counts = {stage: len(maps) for stage, maps in stages.features.items()}
    assert counts == {**{stage: MAPS[stage] for stage in run}, **dict.fromkeys(not_run, 0)}


def test_head_called_once_a_level_gives_a_map_a_level(networks):
    with FeatureTaps(networks['detector'], ['bbox_head.retina_reg']) as taps, torch.no_grad():
        forward_to_taps(networks['detector'], taps.features, torch.zeros(1, 3, 64, 64), None)
    maps = taps.features['bbox_head.retina_reg']
    assert [tuple(level.shape) for level in maps] == [(1, 36, s, s) for s in (8, 4, 2, 1, 1)]
