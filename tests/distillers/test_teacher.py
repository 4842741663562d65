"""The teacher: weights, images, depth, precision."""
import copy

import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import save_checkpoint
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from mmakd.distillers.roi import RoIRecorder
from mmakd.distillers.teacher import Teacher
from mmakd.hooks.teacher_eval_hook import digest
from mmakd.utils.errors import ConfigError
from tests.distillers.norms import assert_close, randomize_norms
from tests.integration.comparison import same
from tests.integration.small_models import distilled, small_model


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
    distiller._teacher.features(distiller._taps.values(), **student,
                                student_preprocessor=distiller.data_preprocessor)
    handle.remove()
    torch.testing.assert_close(seen[0], teacher['inputs'], rtol=1e-4, atol=1e-3)
    assert not seen[0][1, :, 40:].any() and not seen[0][1, :, :, 50:].any()


def test_alike_preprocessors_share_the_images(model):
    distiller = model('det')
    images = torch.randn(1, 3, 64, 64)
    seen = []
    distiller.teacher.backbone.register_forward_pre_hook(
        lambda module, args: seen.append(args[0]))
    distiller._teacher.features(distiller._taps.values(), images, None,
                                distiller.data_preprocessor)
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
    distiller._teacher.features(distiller._taps.values(), torch.randn(1, 3, 64, 64), None,
                                distiller.data_preprocessor)
    assert seen == ran


def test_features_need_no_gradient_and_dropout_is_off(model):
    distiller = model('seg').train()
    images = torch.randn(1, 3, 64, 64)
    first, second = (
        distiller._teacher.features(distiller._taps.values(), images, None,
                                    distiller.data_preprocessor).features for _ in range(2))
    (first, ), (second, ) = first.values(), second.values()
    assert torch.equal(first[0], second[0])
    assert not first[0].requires_grad


@pytest.mark.parametrize(('precision', 'autocast', 'expected'), [
    (None, False, torch.float32), (None, True, torch.bfloat16),
    ('bfloat16', False, torch.bfloat16), ('float32', True, torch.float32)])
def test_precision(toy, precision, autocast, expected):
    distiller = build(toy('det', 'akd-cwd', **{'model.teacher_precision': precision}))
    seen = []
    distiller.teacher.neck.lateral_convs[0].conv.register_forward_hook(
        lambda module, args, output: seen.append(output.dtype))
    with torch.autocast('cpu', torch.bfloat16, enabled=autocast):
        distiller._teacher.features(distiller._taps.values(), torch.randn(1, 3, 64, 64), None,
                                distiller.data_preprocessor)
    assert seen == [expected]


@pytest.fixture
def loaded(model):
    """Build a toy distiller as it is before its first batch, the teacher's BatchNorms trained."""

    def build_loaded(task, **changes):
        distiller = model(task, **changes)
        distiller.init_weights()
        randomize_norms(distiller.teacher)
        return distiller

    return build_loaded


@pytest.fixture
def trained(model, tmp_path):
    """A teacher's checkpoint that gives features of a usual size."""
    state = randomize_norms(model('det', 'teacher')).state_dict()
    save_checkpoint(dict(state_dict=state, meta={}), str(tmp_path / 'trained.pth'))
    return tmp_path / 'trained.pth'


def images(number=2, height=64, width=64):
    return torch.randn(number, 3, height, width, generator=torch.Generator().manual_seed(4))


def features(distiller, inputs, *tasks, teacher=None):
    """What the teacher gives at the taps of tasks, of all where none is named."""
    pairs = [distiller._taps[task] for task in tasks or distiller._taps]
    taps = (teacher or distiller._teacher).features(pairs, inputs, None,
                                                    distiller.data_preprocessor)
    return [feature for maps in taps.features.values() for feature in maps]


def slow_teacher(distiller):
    """A teacher of the same weights that stays as it is."""
    return Teacher(copy.deepcopy(distiller.teacher), distiller.data_preprocessor, None, True,
                   distiller._teacher.precision)


def folded(distiller):
    return {name for name, module in distiller.teacher.named_modules()
            if type(module) is torch.nn.Identity}


def task(tap, **options):
    return dict(tap=tap, loss=dict(type='FeatureMSELoss'), adapter=dict(type='ConvAdapter'),
                **options)


@pytest.mark.parametrize('name', ['det', 'seg'])
def test_fast_features_are_the_slow_ones(name, loaded):
    distiller = loaded(name)
    slow = slow_teacher(distiller)
    fast = features(distiller, images())
    assert len(folded(distiller)) > 15
    # The first batch, a second one, and other shapes.
    for inputs, found in [(images(), fast), *((inputs, None) for inputs in (
            images(), images(3, 64, 96), images(1, 96, 32), images()))]:
        expected = features(distiller, inputs, teacher=slow)
        found = found or features(distiller, inputs)
        assert len(found) == len(expected)
        for new, old in zip(found, expected):
            assert_close(new, old)
            assert new.is_contiguous() and not new.requires_grad and new.dtype == old.dtype


@pytest.mark.parametrize('own', [False, True])
@pytest.mark.parametrize('name', ['det', 'seg'])
def test_fast_features_are_as_exact_in_bfloat16(name, own, loaded):
    """A layer rounds by 2**-9; where two round as one, the sum of the errors gets no larger."""
    distiller = loaded(name, **{'model.teacher_precision': 'bfloat16' if own else None})
    slow = slow_teacher(distiller)
    exact_teacher = slow_teacher(distiller)
    exact_teacher.precision = None
    exact = features(distiller, images(), teacher=exact_teacher)
    with torch.autocast('cpu', torch.bfloat16, enabled=not own):
        expected = features(distiller, images(), teacher=slow)
        found = features(distiller, images())
    assert folded(distiller)
    for new, old, right in zip(found, expected, exact):
        assert new.dtype == old.dtype == torch.bfloat16
        error = (old.float() - right).norm()
        assert 0 < error < 0.05 * right.norm()
        # A tenth for chance.
        assert (new.float() - right).norm() <= 1.1 * error


def test_weights_take_half_the_memory_in_half_precision(loaded):
    distiller = loaded('det', **{'model.teacher_precision': 'bfloat16'})
    features(distiller, images())
    convolutions = [module for module in distiller.teacher.modules()
                    if isinstance(module, torch.nn.Conv2d)]
    assert convolutions and {module.weight.dtype for module in convolutions} == {torch.bfloat16}
    follows = loaded('det')
    with torch.autocast('cpu', torch.bfloat16):
        assert features(follows, images())[0].dtype == torch.bfloat16
    # That of the student's step may be off for a while, as in a validation.
    assert features(follows, images())[0].dtype == torch.float32


def test_without_weights_nothing_is_changed(model):
    distiller = model('det')
    randomize_norms(distiller.teacher)
    state = copy.deepcopy(distiller.teacher.state_dict())
    first = features(distiller, images())
    expected = distiller.teacher.extract_feat(images())
    assert not folded(distiller)
    assert list(distiller.teacher.state_dict()) == list(state)
    for key, value in distiller.teacher.state_dict().items():
        assert torch.equal(value, state[key]) and value.stride() == state[key].stride()
    assert all(map(torch.equal, first, expected))


@pytest.mark.parametrize(('tap', 'is_folded'), [
    ('backbone.conv1', False), ('neck.lateral_convs.1.conv', False),
    ('neck.lateral_convs.1.bn', True), ('neck.lateral_convs.1', True)])
def test_tapped_layer_keeps_its_own_output(tap, is_folded, loaded):
    distiller = loaded('det', **{'model.distill': dict(
        _delete_=True, part=task(tap), fpn=task('neck'))})
    slow = slow_teacher(distiller)
    # The task of the layer rests at first.
    for tasks in (['fpn'], ['fpn', 'part'], ['part']):
        found, expected = (features(distiller, images(), *tasks, teacher=teacher)
                           for teacher in (None, slow))
        assert len(found) == len(expected)
        for new, old in zip(found, expected):
            assert_close(new, old)
    norm = 'backbone.bn1' if tap == 'backbone.conv1' else 'neck.lateral_convs.1.bn'
    assert (norm in folded(distiller)) == is_folded


@pytest.mark.parametrize('shallow', ['backbone.layer2', 'decode_head.bottleneck.conv'])
def test_same_network_whichever_task_is_active_first(shallow, loaded):
    """A training that is resumed may begin with another one."""
    found = []
    for first in ('shallow', 'logits'), ('shallow', ):
        distiller = loaded('seg', **{'model.distill': dict(
            _delete_=True, shallow=task(shallow), logits=task('decode_head.conv_seg'))})
        features(distiller, images(), *first)
        found.append((folded(distiller), *features(distiller, images(), 'shallow', 'logits')))
    assert found[0][0] == found[1][0]
    assert all(map(torch.equal, found[0][1:], found[1][1:]))


def losses_and_gradient(distiller):
    """Of the student alone."""
    sample = SegDataSample(metainfo=dict(img_shape=(64, 64)))
    sample.gt_sem_seg = PixelData(data=torch.randint(
        0, 7, (1, 64, 64), generator=torch.Generator().manual_seed(2)))
    torch.manual_seed(6)
    losses = distiller.train()(images(), [sample] * 2, mode='loss')
    plain = {key: value for key, value in losses.items() if not key.startswith('distill.')}
    plain['decode.loss_ce'].backward()
    return plain, {name: parameter.grad for name, parameter in distiller.named_parameters()
                   if parameter.grad is not None}, torch.rand(3)


def test_student_does_not_notice(model):
    """Losses, gradients and random numbers are equal, bit for bit, in the first two steps."""
    slow, fast = model('seg'), model('seg')
    slow.init_weights()
    fast.init_weights()
    fast.load_state_dict(slow.state_dict())
    slow._teacher.is_loaded = False
    for _ in range(2):
        (losses, gradients, drawn), (fast_losses, fast_gradients, fast_drawn) = (
            losses_and_gradient(distiller) for distiller in (slow, fast))
        assert same(losses, fast_losses) and losses
        assert same(gradients, fast_gradients) and len(gradients) > 50
        assert torch.equal(drawn, fast_drawn)
    assert folded(fast) and not folded(slow)


def test_inherited_weights_are_those_loaded(toy, trained):
    cfg = toy('det', 'akd-cwd')
    cfg.model.update(teacher_ckpt=str(trained), inherit=['neck'], student=cfg.model.teacher)
    distiller = build(cfg)
    loaded_weights = torch.load(trained)['state_dict']
    distiller.init_weights()
    for _ in range(2):
        for key, value in distiller.neck.state_dict().items():
            assert torch.equal(value, loaded_weights[f'neck.{key}']), key
        features(distiller, images())
    assert 'neck.fpn_convs.0.bn' in folded(distiller)


def test_second_init_weights_does_nothing(model, trained):
    distiller = model('det', **{'model.teacher_ckpt': str(trained)})
    distiller.init_weights()
    expected = features(distiller, images())
    torch.nn.init.constant_(distiller.backbone.conv1.weight, 7.0)
    state = copy.deepcopy(distiller.teacher.state_dict())
    trained.unlink()
    distiller.init_weights()
    assert (distiller.backbone.conv1.weight == 7).all()
    assert same(dict(distiller.teacher.state_dict()), dict(state))
    assert all(map(torch.equal, features(distiller, images()), expected))


def test_copies_made_before_are_initialised_too(model):
    """They share the teacher, whether or not it is faster by now."""
    distiller = model('det')
    twin = copy.deepcopy(distiller)
    torch.nn.init.constant_(twin.neck.fpn_convs[0].conv.weight, 7.0)
    distiller.init_weights()
    features(distiller, images())
    twin.init_weights()
    assert twin.teacher is distiller.teacher and folded(twin)
    assert twin.neck.fpn_convs[0].conv.weight.std() > 0


def test_score_belongs_to_the_weights_as_loaded(model, trained):
    """The name of a kept score is the digest before the first batch, when it is evaluated."""
    distiller = model('det', **{'model.teacher_ckpt': str(trained)})
    plain = model('det', 'teacher')
    plain.load_state_dict(torch.load(trained)['state_dict'])
    distiller.init_weights()
    assert digest(distiller.teacher) == digest(plain)
    features(distiller, images())
    assert digest(distiller.teacher) != digest(plain)


def retinanet(**backbone):
    cfg = small_model('retinanet')
    cfg['backbone'].update(backbone)
    cfg['neck']['in_channels'] = [channels * (4 if 'dcn' in backbone else 1)
                                  for channels in cfg['neck']['in_channels']]
    return cfg


def dcn(kind):
    # BasicBlock has none.
    return dict(depth=50, stage_with_dcn=(False, True, True, False),
                dcn=dict(type=kind, deform_groups=1, fallback_on_stride=False))


def dmnet():
    cfg = small_model('pspnet')
    cfg['decode_head'] = dict(type='DMHead', in_channels=64, in_index=3, channels=16,
                              filter_sizes=(1, 3), num_classes=7, norm_cfg=dict(type='BN'))
    cfg['auxiliary_head'] = None
    return cfg


@pytest.mark.parametrize(('make', 'tap', 'number'), [
    (lambda: retinanet(**dcn('DCN')), 'neck', 40), (lambda: retinanet(**dcn('DCNv2')), 'neck', 40),
    (lambda: retinanet(conv_cfg=dict(type='ConvWS')), 'neck', 0),
    (dmnet, 'decode_head.conv_seg', 20)],
    ids=['DCN', 'DCNv2', 'ConvWS', 'DMHead'])
def test_layers_that_take_one_memory_format(make, tap, number):
    """They read memory themselves: some would fail, some give other numbers without a word."""
    init_default_scope('mmseg' if tap == 'decode_head.conv_seg' else 'mmdet')
    torch.manual_seed(0)
    distiller = MODELS.build(distilled(make(), tap))
    distiller.init_weights()
    randomize_norms(distiller.teacher)
    for name, parameter in distiller.teacher.named_parameters():
        if 'conv_offset' in name:
            torch.nn.init.normal_(parameter, 0, 0.1)
    slow = slow_teacher(distiller)
    for inputs in images(), images(3, 64, 96):
        expected = features(distiller, inputs, teacher=slow)
        for new, old in zip(features(distiller, inputs), expected):
            assert_close(new, old)
    assert len(folded(distiller)) >= number


@pytest.mark.parametrize(('name', 'tap', 'conv'), [
    ('faster_rcnn', 'roi_head.bbox_head.fc_cls', None),
    ('mask_rcnn', 'roi_head.mask_head.convs.0', None),
    ('mask_rcnn', 'roi_head.mask_head.convs.0', dict(type='ConvWS'))])
def test_roi_heads(name, tap, conv):
    """They run on RoIs, apart from what is tried when the teacher is made faster."""
    cfg = small_model(name)
    if conv:
        cfg['roi_head']['mask_head']['conv_cfg'] = conv
    init_default_scope('mmdet')
    torch.manual_seed(0)
    distiller = MODELS.build(distilled(cfg, tap))
    distiller.init_weights()
    randomize_norms(distiller.teacher)
    recorder = RoIRecorder(distiller, [])
    pair, = distiller._taps.values()
    recorder.rois[pair.branches[0]] = [torch.tensor([[0., 4, 4, 40, 60], [1, 9, 1, 50, 20]])]
    found = []
    for teacher in slow_teacher(distiller), distiller._teacher:
        dense = teacher.features([pair], images(), None, distiller.data_preprocessor)
        maps, = teacher.roi_features([pair], dense, recorder).values()
        found.append(maps.features[tap])
    assert folded(distiller)
    for old, new in zip(*found, strict=True):
        assert_close(new, old)
