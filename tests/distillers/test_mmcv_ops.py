"""Layers of mmcv.ops, which have no kernel for bfloat16."""
import pytest
import torch
from mmdet.testing import demo_mm_inputs
from mmengine.registry import MODELS, init_default_scope

from mmakd.distillers.mmcv_ops import float32_instead_of_bfloat16, mmcv_layers
from mmakd.utils.errors import ConfigError
from tests.distillers.norms import randomize_norms
from tests.integration.small_models import distilled, small_model

MSE = dict(type='FeatureMSELoss')


def deformable(kind):
    """A RetinaNet with deformable convolutions, whose offsets are not zero."""
    cfg = small_model('retinanet')
    # BasicBlock has none.
    cfg['backbone'].update(depth=50, stage_with_dcn=(False, True, True, False),
                           dcn=dict(type=kind, deform_groups=1, fallback_on_stride=False))
    cfg['neck']['in_channels'] = [4 * channels for channels in cfg['neck']['in_channels']]
    return cfg


def build(student, teacher, tap, **options):
    init_default_scope('mmdet')
    torch.manual_seed(0)
    model = MODELS.build(dict(
        type='AvatarDistiller', student=student, teacher=teacher, teacher_ckpt=None,
        distill=dict(task=dict(tap=tap, loss=MSE)), **options))
    randomize_norms(model.teacher)
    for name, parameter in model.teacher.named_parameters():
        if 'conv_offset' in name:
            torch.nn.init.normal_(parameter, 0, 0.1)
    return model


def batch(model):
    data = demo_mm_inputs(2, (3, 128, 128), num_items=[3, 2], num_classes=2)
    return model.data_preprocessor(data, True)


def neck(model, dtype=None):
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.autocast('cpu', dtype, enabled=dtype is not None):
        taps = model.teachers['teacher'].run(model.taps.values(), images, None)
    return taps.features['neck']


@pytest.mark.parametrize('own', [True, False])
@pytest.mark.parametrize('kind', ['DCN', 'DCNv2'])
def test_deformable_convolutions_of_the_teacher(kind, own):
    student = small_model('retinanet')
    expected = neck(build(student, deformable(kind), 'neck'))
    model = build(student, deformable(kind), 'neck',
                  teacher_precision='bfloat16' if own else None)
    layers = mmcv_layers(model.teacher)
    assert len(layers) == 10 and 'backbone.layer2.0.conv2' in layers
    found = neck(model, None if own else torch.bfloat16)
    for feature, exact in zip(found, expected, strict=True):
        assert feature.dtype == torch.bfloat16
        error = (feature.float() - exact).norm() / exact.norm()
        assert 0 < error < 0.05
    assert not any('forward' in vars(layer) for layer in layers.values())


def test_float32_is_as_it_was():
    model = build(small_model('retinanet'), deformable('DCNv2'), 'neck')
    plain = model.teacher.extract_feat(torch.randn(
        2, 3, 64, 64, generator=torch.Generator().manual_seed(1)))
    assert all(map(torch.equal, neck(model), plain))


def test_an_error_inside_leaves_no_trace():
    layers = mmcv_layers(MODELS.build(deformable('DCN'))).values()
    with pytest.raises(KeyError), float32_instead_of_bfloat16(layers):
        raise KeyError
    assert layers and not any('forward' in vars(layer) for layer in layers)


def test_roi_heads_of_the_teacher():
    cfg = small_model('faster_rcnn')
    tap = 'roi_head.bbox_head.fc_cls'
    exact, model = (build(cfg, cfg, tap, teacher_precision=precision)
                    for precision in ('float32', 'bfloat16'))
    model.load_state_dict(exact.state_dict())
    model.teacher.load_state_dict(exact.teacher.state_dict())
    maps, rois = [], []
    for distiller in exact, model:
        for side in distiller.student, distiller.teacher:
            layer = side.roi_head.bbox_roi_extractor
            layer.register_forward_pre_hook(lambda module, args: rois.append(args[1]))
        torch.manual_seed(1)
        data = batch(distiller)
        _, found = distiller.run_with_teacher(['task'], **data, mode='loss')
        maps.append(found['task'][1][0])
    # The student's RoIs, to the last bit.
    assert rois[2].equal(rois[3])
    assert maps[1].dtype == torch.bfloat16
    error = (maps[1].float() - maps[0]).norm() / maps[0].norm()
    assert 0 < error < 0.05


@pytest.mark.parametrize(('student', 'named'), [
    (deformable('DCN'), 'backbone.layer2.0.conv2 (DeformConv2dPack)'),
    # It fails in a function, the suppression of overlapping boxes.
    (small_model('faster_rcnn'), 'roi_head.bbox_roi_extractor.roi_layers.0 (RoIAlign)')],
    ids=['DCN', 'Faster R-CNN'])
def test_a_student_that_cannot_be_trained_in_bfloat16(student, named):
    model = MODELS.build(distilled(student, 'backbone'))
    with torch.autocast('cpu', torch.bfloat16):
        with pytest.raises(RuntimeError, match='BFloat16'):
            model.student(**batch(model), mode='loss')
        with pytest.raises(ConfigError) as caught:
            model(**batch(model), mode='loss')
    problem = str(caught.value)
    assert problem.startswith('optim_wrapper: the student cannot be trained in bfloat16, with or ')
    assert named in problem and "set optim_wrapper.dtype='float16'" in problem
    assert model(**batch(model), mode='loss')['distill.loss_task'].isfinite()


@pytest.mark.parametrize('precision', [None, 'bfloat16'])
def test_avatars_behind_a_deformable_convolution(precision):
    """Recording its input, and running it in float32, both stand in for its forward method."""
    path = 'backbone.layer2.0.conv2'
    loss = dict(type='UncertaintyFeatureLoss', criterion=dict(type='ChannelWiseDivergence'),
                uncertainty=dict(type='AvatarVariance', estimator='sampled'))
    init_default_scope('mmdet')
    model = MODELS.build(dict(
        type='AvatarDistiller', student=small_model('retinanet'), teacher=deformable('DCN'),
        teacher_ckpt=None, teacher_precision=precision, distill=dict(task=dict(
            student_tap='backbone.layer2', teacher_tap=path, perturb_at=path, resize=True,
            loss=loss))))
    data = batch(model)
    for _ in range(2):
        value = model(**data, mode='loss')['distill.loss_task']
    assert value.isfinite() and value > 0
    assert 'forward' not in vars(model.teacher.get_submodule(path))
