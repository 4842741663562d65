"""The teacher: weights, images, depth, precision."""
import copy

import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import save_checkpoint

from mmakd.utils.errors import ConfigError
from tests.distillers.norms import randomize_norms
from tests.integration.comparison import same


def features(distiller, inputs=None):
    """What the teacher gives at the taps of all tasks."""
    if inputs is None:
        inputs = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(4))
    taps = distiller.teachers['teacher'].run(distiller.taps.values(), inputs, None)
    return [feature for maps in taps.features.values() for feature in maps]


def build(cfg):
    init_default_scope(cfg.default_scope)
    return MODELS.build(cfg.model)


@pytest.fixture
def checkpoint(model, tmp_path):
    """A teacher's checkpoint whose weights no other network has."""
    torch.manual_seed(5)
    state = {key: torch.rand_like(value) if value.is_floating_point() else value
             for key, value in model('det', 'teacher').state_dict().items()}
    save_checkpoint(dict(state_dict=state, meta={}), str(tmp_path / 'teacher.pth'))
    return tmp_path / 'teacher.pth'


def test_weights_come_with_init_weights(model, checkpoint):
    distiller = model('det', **{'model.teacher_ckpt': str(checkpoint)})
    weight = torch.load(checkpoint)['state_dict']['backbone.conv1.weight']
    assert not torch.equal(distiller.teacher.backbone.conv1.weight, weight)
    distiller.init_weights()
    assert torch.equal(distiller.teacher.backbone.conv1.weight, weight)


def test_building_does_not_need_the_checkpoint(model):
    distiller = model('det', **{'model.teacher_ckpt': 'nowhere.pth'})
    with pytest.raises(ConfigError, match=r"model\.teacher_ckpt='nowhere.pth': no such file"):
        distiller.init_weights()


def test_wrong_checkpoint_leaves_the_teacher_as_it_was(model, checkpoint):
    distiller = model('seg', **{'model.teacher_ckpt': str(checkpoint)})
    before = distiller.teacher.state_dict()['decode_head.conv_seg.weight'].clone()
    with pytest.raises(ConfigError, match=r'missing: .*unexpected: '):
        distiller.init_weights()
    assert torch.equal(distiller.teacher.decode_head.conv_seg.weight, before)


def test_images_are_normalised_the_teachers_way(toy):
    cfg = toy('det', 'akd-cwd')
    other = dict(mean=[10., 20., 30.], std=[2., 3., 4.], bgr_to_rgb=False)
    cfg.model.teacher = dict(cfg=cfg.model.teacher, data_preprocessor=other)
    distiller = build(cfg)
    torch.manual_seed(0)
    images = [torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8),
              torch.randint(0, 256, (3, 40, 50), dtype=torch.uint8)]
    samples = [DetDataSample(metainfo=dict(img_shape=tuple(image.shape[1:]))) for image in images]
    student = distiller.data_preprocessor(dict(inputs=images, data_samples=samples), training=True)
    teacher = distiller.teacher.data_preprocessor(dict(inputs=images, data_samples=samples),
                                                  training=True)
    seen = []
    handle = distiller.teacher.backbone.register_forward_pre_hook(
        lambda module, args: seen.append(args[0]))
    distiller.teachers['teacher'].run(distiller.taps.values(), **student)
    handle.remove()
    torch.testing.assert_close(seen[0], teacher['inputs'], rtol=1e-4, atol=1e-3)
    assert not seen[0][1, :, 40:].any() and not seen[0][1, :, :, 50:].any()


def test_alike_preprocessors_share_the_images(model):
    distiller = model('det')
    images = torch.randn(1, 3, 64, 64)
    seen = []
    distiller.teacher.backbone.register_forward_pre_hook(
        lambda module, args: seen.append(args[0]))
    features(distiller, images)
    assert seen[0] is images


@pytest.mark.parametrize(('tap', 'ran'), [
    ('backbone', {'backbone'}), ('backbone.layer2', {'backbone'}), ('neck', {'backbone', 'neck'}),
    ('bbox_head.retina_cls', {'backbone', 'neck', 'bbox_head.retina_cls'})])
def test_runs_no_further_than_the_deepest_tap(toy, tap, ran):
    cfg = toy('det', 'akd-cwd')
    cfg.model.distill = dict(any=dict(tap=tap, loss=dict(type='FeatureMSELoss')))
    distiller = build(cfg)
    seen = set()
    for name in ('backbone', 'neck', 'bbox_head.retina_cls'):
        module = distiller.teacher.get_submodule(name)
        module.register_forward_hook(lambda *args, name=name: seen.add(name))
    features(distiller)
    assert seen == ran


def test_features_need_no_gradient_and_dropout_is_off(model):
    distiller = model('seg').train()
    (first, ), (second, ) = features(distiller), features(distiller)
    assert torch.equal(first, second)
    assert not first.requires_grad


@pytest.mark.parametrize(('precision', 'autocast', 'expected'), [
    (None, False, torch.float32), (None, True, torch.bfloat16),
    ('bfloat16', False, torch.bfloat16), ('float32', True, torch.float32)])
def test_precision(toy, precision, autocast, expected):
    distiller = build(toy('det', 'akd-cwd', **{'model.teacher_precision': precision}))
    seen = []
    distiller.teacher.neck.lateral_convs[0].conv.register_forward_hook(
        lambda module, args, output: seen.append(output.dtype))
    with torch.autocast('cpu', torch.bfloat16, enabled=autocast):
        features(distiller)
    assert seen == [expected]


@pytest.fixture
def trained(model, tmp_path):
    """A teacher's checkpoint whose BatchNorms count."""
    state = randomize_norms(model('det', 'teacher')).state_dict()
    save_checkpoint(dict(state_dict=state, meta={}), str(tmp_path / 'trained.pth'))
    return tmp_path / 'trained.pth'


def test_inherited_weights_are_those_loaded(toy, trained):
    cfg = toy('det', 'akd-cwd')
    cfg.model.update(teacher_ckpt=str(trained), inherit=['neck'], student=cfg.model.teacher)
    distiller = build(cfg)
    loaded_weights = torch.load(trained)['state_dict']
    distiller.init_weights()
    for key, value in distiller.neck.state_dict().items():
        assert torch.equal(value, loaded_weights[f'neck.{key}']), key


def test_running_changes_nothing(model, trained):
    distiller = model('det', **{'model.teacher_ckpt': str(trained)})
    distiller.init_weights()
    loaded_weights = torch.load(trained)['state_dict']
    first, second = (features(distiller) for _ in range(2))
    assert all(map(torch.equal, first, second)) and len(first) == 3
    assert same(dict(distiller.teacher.state_dict()), dict(loaded_weights))


def test_second_init_weights_does_nothing(model, trained):
    distiller = model('det', **{'model.teacher_ckpt': str(trained)})
    distiller.init_weights()
    expected = features(distiller)
    torch.nn.init.constant_(distiller.backbone.conv1.weight, 7.0)
    trained.unlink()
    distiller.init_weights()
    assert (distiller.backbone.conv1.weight == 7).all()
    assert all(map(torch.equal, features(distiller), expected))


def test_copies_made_before_are_initialised_too(model, trained):
    """The teacher that they share is loaded once."""
    distiller = model('det', **{'model.teacher_ckpt': str(trained)})
    twin = copy.deepcopy(distiller)
    torch.nn.init.constant_(twin.neck.fpn_convs[0].conv.weight, 7.0)
    distiller.init_weights()
    trained.unlink()
    twin.init_weights()
    assert twin.teacher is distiller.teacher
    assert twin.neck.fpn_convs[0].conv.weight.std() > 0
