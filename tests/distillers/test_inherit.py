"""Parts of the student that start from the teacher's weights."""
import pytest
import torch
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import save_checkpoint

from mmakd.utils.errors import ConfigError


@pytest.fixture
def distiller(toy):

    def build(inherit, classes=6):
        cfg = toy('det', 'akd-cwd')
        # The student's widths behind the backbone, so that the parts fit.
        overrides = dict(neck=dict(out_channels=32), bbox_head=dict(
            in_channels=32, feat_channels=32, stacked_convs=1, num_classes=classes))
        cfg.model.teacher = dict(cfg=cfg.model.teacher, **overrides)
        cfg.model.inherit = inherit
        init_default_scope('mmdet')
        return MODELS.build(cfg.model)

    return build


def test_the_parts_are_the_checkpoints(distiller, tmp_path):
    source = distiller([]).teacher
    state = {key: torch.rand_like(value) if value.is_floating_point() else value
             for key, value in source.state_dict().items()}
    save_checkpoint(dict(state_dict=state), str(tmp_path / 'teacher.pth'))
    model = distiller(['neck.fpn_convs', 'bbox_head'])
    model.teachers['teacher'].checkpoint = str(tmp_path / 'teacher.pth')
    model.init_weights()
    own = model.student.state_dict()
    for key, value in own.items():
        inherited = key.startswith(('neck.fpn_convs.', 'bbox_head.'))
        assert torch.equal(value, state.get(key, torch.empty(0))) == inherited or (
            'num_batches_tracked' in key), key
    # a copy, not the teacher's own
    with torch.no_grad():
        model.bbox_head.retina_reg.weight.zero_()
    assert model.teacher.bbox_head.retina_reg.weight.any()


def test_what_does_not_fit_stays_and_is_logged(distiller, monkeypatch):
    lines = []
    monkeypatch.setattr('mmakd.distillers.inherit.print_log', lambda text, *_: lines.append(text))
    model = distiller(['bbox_head'], classes=3)
    model.init_weights()
    own, given = (network.bbox_head.retina_reg.weight for network in (model, model.teacher))
    assert torch.equal(own, given)
    log, = lines
    assert 'starts with 6 weights of the teacher: bbox_head.cls_convs' in log
    assert 'its own stay: bbox_head.retina_cls.weight, bbox_head.retina_cls.bias' in log


@pytest.mark.parametrize('inherit, problems', [
    (['nek'], ["model.inherit=['nek']", "student (RetinaNet) has no module 'nek'", "'neck'"]),
    (['backbone.conv1', 'nek'], ["none of the 1 weights of 'backbone.conv1'", "'nek'"]),
    ('neck', ["model.inherit='neck'", "['neck']"]),
])
def test_nothing_to_inherit(distiller, inherit, problems):
    with pytest.raises(ConfigError) as caught:
        distiller(inherit)
    for problem in problems:
        assert problem in str(caught.value)


def test_nothing_inherited_is_not_logged(distiller, monkeypatch):
    lines = []
    monkeypatch.setattr('mmakd.distillers.inherit.print_log', lambda text, *_: lines.append(text))
    distiller([]).init_weights()
    assert not lines
