"""The distiller as a model: names, modes, numbers and errors."""
import copy
import pickle
import random

import numpy as np
import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.model import ExponentialMovingAverage, revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement

from mmakd.utils.errors import ConfigError

FPN = 'model.distill.fpn.'
FLOAT16 = pytest.mark.skipif(torch.__version__ < '2.3',
                             reason='torch before 2.3 has no float16 autocast on the CPU')


def batch(size=64, number=2):
    """Images and data samples for ``mode='loss'`` of the toy detector."""
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData
    torch.manual_seed(1)
    samples = []
    for _ in range(number):
        shape = (size, size)
        sample = DetDataSample(metainfo=dict(img_shape=shape, pad_shape=shape,
                                             batch_input_shape=shape, scale_factor=(1., 1.)))
        sample.gt_instances = InstanceData(bboxes=torch.tensor([[8., 8., 40., 40.]]),
                                           labels=torch.tensor([1]))
        samples.append(sample)
    return torch.randn(number, 3, size, size), samples


def test_names_are_the_students(model):
    for task in ('det', 'seg'):
        student, distiller = model(task, 'student'), model(task)
        names = [name for name, _ in distiller.named_parameters()]
        plain = [name for name, _ in student.named_parameters()]
        assert names[:len(plain)] == plain
        assert all(name.startswith('distiller.') for name in names[len(plain):])
        assert distiller.backbone is distiller.student.backbone
        assert list(distiller.student.state_dict()) == list(student.state_dict())
        assert distiller.with_neck == student.with_neck


def test_paramwise_cfg_of_the_student_applies(toy):
    groups = {}
    for name in ('student', 'akd-cwd'):
        cfg = toy('det', name)
        init_default_scope('mmdet')
        wrapper = build_optim_wrapper(MODELS.build(cfg.model), dict(
            optimizer=dict(type='SGD', lr=1.0, weight_decay=0.1),
            paramwise_cfg=dict(norm_decay_mult=0, custom_keys={'backbone': dict(lr_mult=0.1)})))
        groups[name] = [(group['lr'], group['weight_decay'], [p.shape for p in group['params']])
                        for group in wrapper.param_groups]
    # The last group is a placeholder of OptimWrapper's own.
    number = len(groups['student']) - 1
    assert groups['akd-cwd'][:number] == groups['student'][:number]
    assert len(groups['akd-cwd']) > number + 1


def test_teacher_is_no_part_of_the_model(model):
    distiller = model('det')
    teacher = {id(parameter) for parameter in distiller.teacher.parameters()}
    assert teacher
    assert not teacher & {id(parameter) for parameter in distiller.parameters()}
    assert distiller.teacher not in set(distiller.modules())
    assert not any('teacher' in key for key in distiller.state_dict())
    optimizer = build_optim_wrapper(distiller, dict(optimizer=dict(type='SGD', lr=1.0)))
    assert not teacher & {id(p) for group in optimizer.param_groups for p in group['params']}
    assert not any(p.requires_grad for p in distiller.teacher.parameters())


def test_modes(model):
    distiller = model('det')
    for mode in (True, False, True):
        distiller.train(mode)
        assert all(module.training == mode for module in distiller.modules())
        assert distiller.student.training == mode
        assert not any(module.training for module in distiller.teacher.modules())


def test_deepcopy_shares_the_teacher_and_nothing_else(model):
    distiller = model('det')
    twin = copy.deepcopy(distiller)
    assert twin.teacher is distiller.teacher
    shared = {id(p) for p in distiller.parameters()} & {id(p) for p in twin.parameters()}
    assert not shared
    assert twin.student.backbone is twin.backbone
    assert twin.student._parameters is twin._parameters
    average = ExponentialMovingAverage(distiller)
    average.update_parameters(distiller)
    assert average.module.teacher is distiller.teacher


def test_moves_and_casts_take_the_teacher_along(model):
    distiller = model('det')
    weight = distiller.teacher.backbone.conv1.weight
    before = weight.detach().clone()
    distiller.to(torch.float64)
    assert {p.dtype for p in distiller.parameters()} == {torch.float64}
    assert {p.dtype for p in distiller.teacher.parameters()} == {torch.float64}
    distiller.float()
    assert torch.equal(distiller.teacher.backbone.conv1.weight, before)
    distiller.to('meta')
    assert {p.device.type for p in distiller.teacher.parameters()} == {'meta'}
    assert distiller.student.backbone.conv1.weight.device.type == 'meta'


def test_a_copy_leaves_the_teacher_where_it_is(model):
    distiller = model('det')
    twin = copy.deepcopy(distiller).half()
    assert {p.dtype for p in twin.parameters()} == {torch.float16}
    average = ExponentialMovingAverage(distiller, device='meta')
    assert {p.device.type for p in average.parameters()} == {'meta'}
    for network in distiller, copy.deepcopy(twin).double(), distiller.to(torch.float32):
        assert {(p.dtype, p.device.type) for p in network.teacher.parameters()} == {
            (torch.float32, 'cpu')}
    losses = distiller(*batch(), mode='loss')
    assert losses['distill.loss_fpn'] > 0
    distiller.double()
    assert {p.dtype for p in twin.teacher.parameters()} == {torch.float64}
    # One that was stored and read moves its own.
    stored = pickle.loads(pickle.dumps(distiller)).float()
    assert {p.dtype for p in stored.teacher.parameters()} == {torch.float32}
    assert {p.dtype for p in distiller.teacher.parameters()} == {torch.float64}


def test_replaced_children_reach_the_student(model):
    distiller = model('det')
    converted = torch.nn.SyncBatchNorm.convert_sync_batchnorm(distiller)
    assert isinstance(converted.student.backbone.bn1, torch.nn.SyncBatchNorm)
    reverted = revert_sync_batchnorm(converted)
    assert not any(isinstance(module, torch.nn.SyncBatchNorm)
                   for module in reverted.student.modules())
    reverted.neck = torch.nn.Identity()
    assert reverted.student.neck is reverted.neck
    reverted.add_module('neck', torch.nn.ReLU())
    assert reverted.student.neck is reverted.neck


def test_global_streams_are_those_of_the_plain_student(toy):
    def streams():
        return random.random(), np.random.rand(), torch.rand(1).item()

    after = {}
    for name in ('student', 'akd-cwd'):
        cfg = toy('seg', name)
        init_default_scope('mmseg')
        random.seed(0), np.random.seed(0), torch.manual_seed(0)
        network = MODELS.build(cfg.model)
        network.init_weights()
        after[name] = streams(), network.backbone.stem[0].weight
    assert after['student'][0] == after['akd-cwd'][0]
    assert torch.equal(after['student'][1], after['akd-cwd'][1])


def test_a_step_leaves_the_global_stream_to_the_student(toy):
    """The shapes' RetinaNet draws nothing itself, so the stream must not move at all."""
    init_default_scope('mmdet')
    distiller = MODELS.build(toy('det', 'akd-cwd').model)
    state = torch.get_rng_state()
    inputs, samples = batch()
    torch.set_rng_state(state)
    distiller(inputs, samples, mode='loss')
    assert torch.equal(torch.get_rng_state(), state)


def test_losses_keep_their_names(model):
    student, distiller = model('det', 'student'), model('det')
    inputs, samples = batch()
    plain, ours = (network(inputs, samples, mode='loss') for network in (student, distiller))
    assert set(ours) == {*plain, 'distill.loss_fpn'}
    assert ours['distill.loss_fpn'].dim() == 0
    assert ours['distill.loss_fpn'].dtype == torch.float32


def test_other_modes_are_the_students(model):
    distiller = model('det').eval()
    inputs, samples = batch()
    with torch.no_grad():
        for mine, theirs in zip(distiller(inputs, mode='tensor'),
                                distiller.student(inputs, mode='tensor')):
            assert all(torch.equal(a, b) for a, b in zip(mine, theirs))
        assert len(distiller(inputs, samples, mode='predict')) == 2


def test_gradient_reaches_student_and_adapter(model):
    distiller = model('det')
    inputs, samples = batch()
    distiller(inputs, samples, mode='loss')['distill.loss_fpn'].backward()
    assert distiller.backbone.conv1.weight.grad.abs().sum() > 0
    assert all(p.grad.abs().sum() > 0 for p in distiller.distiller.parameters())
    assert all(p.grad is None for p in distiller.teacher.parameters())
    assert all(p.grad is None for p in distiller.bbox_head.parameters())


def test_no_hook_is_left_behind(model):
    distiller = model('det')
    distiller(*batch(), mode='loss')
    for network in (distiller, distiller.teacher):
        assert not any(module._forward_hooks for module in network.modules())


def test_loss_is_float32_under_autocast(model):
    distiller = model('det')
    inputs, samples = batch()
    with torch.autocast('cpu', torch.bfloat16):
        losses = distiller(inputs, samples, mode='loss')
    assert losses['distill.loss_fpn'].dtype == torch.float32
    assert losses['distill.loss_fpn'].isfinite()


@pytest.mark.parametrize('side', ['student', 'teacher'])
def test_non_finite_feature_names_tap_side_and_level(model, side):
    distiller = model('det')
    network = getattr(distiller, side)
    with torch.no_grad():
        network.neck.fpn_convs[1].conv.weight.fill_(float('nan'))
    losses = distiller.distiller['fpn'].losses
    with pytest.raises(FloatingPointError, match=rf"the {side}'s tap 'neck' \(map 1\)") as caught:
        distiller(*batch(), mode='loss')
    assert 'iteration' in str(caught.value) and 'the loss' not in str(caught.value)
    # sigma is the teacher's, and takes in what is finite.
    assert [loss.sigma[0].isfinite().all().item() for loss in losses] == [
        True, side == 'student', True]


@pytest.mark.parametrize(('changes', 'problems'), [
    ({'distill.fpn.tap': 'nek'}, [FPN + "tap='nek'", "did you mean 'neck'"]),
    ({'distill.fpn.tap': 'bbox_head.retina_rge'}, ["'bbox_head.retina_reg'"]),
    ({'distill.fpn.levels': [0, 7]}, [FPN + 'levels=[0, 7]', 'below 3']),
    ({'distill.fpn.adapter': None}, [FPN + 'adapter', '32 channels', '64', "adapter='auto'"]),
    ({'distill.fpn.adapter': dict(type='ConvAdapter', out_channels=5)},
     [FPN + 'adapter', '5 channels', '64']),
    ({'distill.fpn.adaptor': 'auto'}, [FPN + 'adaptor', "did you mean 'adapter'"]),
    ({'distill.fpn.loss.perturbation.drop_rate': 1.0},
     [FPN + 'loss.perturbation.drop_rate=1.0', '[0, 1)']),
    ({'distill.fpn.loss.num_avatars': 0}, [FPN + 'loss.num_avatars=0', '>= 1']),
    ({'distill.fpn.loss.criterion.type': 'ChannelDivergence'},
     [FPN + "loss.criterion.type='ChannelDivergence'", "'ChannelWiseDivergence'"]),
    ({'distill.fpn.loss.criterion.tua': 2}, [FPN + 'loss.criterion.tua=2', "'tau'"]),
    ({'teacher_ckpt': 'auto'}, ["model.teacher_ckpt='auto'", 'path or the URL']),
    ({'teacher_precision': 'fp16'}, ["model.teacher_precision='fp16'", 'float16']),
    ({'teacher': 'nowhere.py'}, ["model.teacher='nowhere.py'", 'no such config file']),
    ({'student.backbone.depth': 17}, ['model.student.type', '17']),
    ({'distill': {}, '_delete': True}, ['model.distill={}']),
])
def test_errors_name_the_key_and_the_fix(toy, changes, problems):
    cfg = toy('det', 'akd-cwd')
    if changes.pop('_delete', False):
        cfg.model.distill = {}
    cfg.merge_from_dict({f'model.{key}': value for key, value in changes.items()})
    init_default_scope('mmdet')
    with pytest.raises(ConfigError) as caught:
        MODELS.build(cfg.model)
    for problem in problems:
        assert problem in str(caught.value)


def test_unequal_numbers_of_maps(toy):
    cfg = toy('det', 'akd-cwd')
    cfg.model.distill = dict(both=dict(student_tap='neck', teacher_tap='backbone',
                                       loss=dict(type='FeatureMSELoss')))
    init_default_scope('mmdet')
    with pytest.raises(ConfigError, match=r'model\.distill\.both\.tap: .* 3 maps, .* 4'):
        MODELS.build(cfg.model)
    cfg.model.distill.both.update(levels=[0], resize=False)
    with pytest.raises(ConfigError, match=r'model\.distill\.both\.resize=False: .*resize=True'):
        MODELS.build(cfg.model)
    cfg.model.distill.both.resize = True
    MODELS.build(cfg.model)(*batch(), mode='loss')


def test_several_mistakes_come_together(toy):
    cfg = toy('det', 'akd-cwd', **{
        FPN + 'tap': 'nek', FPN + 'loss.num_avatars': 0, FPN + 'loss.criterion.tau': -1,
        'model.teacher_precision': 'half'})
    init_default_scope('mmdet')
    with pytest.raises(ConfigError) as caught:
        MODELS.build(cfg.model)
    for key in ("tap='nek'", 'num_avatars=0', 'criterion.tau=-1', "teacher_precision='half'"):
        assert key in str(caught.value)


@pytest.mark.parametrize('loss', [
    dict(type='mmdet.L1Loss', loss_weight=0.5), dict(type='FeatureMSELoss'),
    dict(type='UncertaintyFeatureLoss', criterion=dict(type='mmdet.SmoothL1Loss'), num_avatars=2)])
@pytest.mark.parametrize('tap', ['backbone', 'backbone.layer4', 'bbox_head.retina_cls'])
def test_any_tap_and_any_loss(toy, loss, tap):
    cfg = toy('det', 'akd-cwd')
    cfg.model.distill = dict(any=dict(tap=tap, loss=loss))
    init_default_scope('mmdet')
    loss = MODELS.build(cfg.model)(*batch(), mode='loss')['distill.loss_any']
    assert loss > 0
    loss.backward()


def test_data_samples_may_carry_no_shape(model):
    distiller = model('seg')
    taps = distiller.teachers['teacher'].run(distiller.taps.values(), torch.randn(1, 3, 64, 64),
                                        [BaseDataElement()])
    assert set(taps.features) == {'decode_head.conv_seg'}


def test_a_step_that_is_not_finite_is_skipped_and_counted(model):
    distiller = model('det', **{'model.skip_nonfinite': True})
    inputs, samples = batch()
    good = distiller(inputs, samples, mode='loss')
    assert good['distill.loss_fpn'] > 0 and good['distill.skipped_steps'] == 0
    weight = distiller.teacher.neck.fpn_convs[1].conv.weight
    kept = weight.clone()
    with torch.no_grad():
        weight.fill_(float('nan'))
    plain = distiller.student(inputs, samples, mode='loss')
    bad = distiller(inputs, samples, mode='loss')
    assert bad['distill.loss_fpn'] == 0 and bad['distill.skipped_steps'] == 1
    assert all(torch.equal(torch.stack(bad[key]), torch.stack(value))
               for key, value in plain.items())
    total, logged = distiller.parse_losses(bad)
    total.backward()
    assert 'distill.skipped_steps' in logged
    assert torch.equal(total, distiller.student.parse_losses(plain)[0])
    assert all(p.grad is None for p in distiller.distiller.parameters())
    with torch.no_grad():
        weight.copy_(kept)
    assert distiller(inputs, samples, mode='loss')['distill.loss_fpn'] > 0
    assert distiller.state_dict()['distiller.skipped_steps'] == 1


@pytest.mark.parametrize('skip', [True, False])
def test_a_loss_that_is_not_finite(toy, skip):
    """A squared error of 1e30 overflows, its features do not."""
    cfg = toy('det', 'akd-cwd', **{'model.skip_nonfinite': skip})
    cfg.model.distill.fpn.loss = dict(type='FeatureMSELoss')
    init_default_scope('mmdet')
    distiller = MODELS.build(cfg.model)
    with torch.no_grad():
        for conv in distiller.teacher.neck.fpn_convs:
            conv.conv.bias.fill_(1e30)
    if skip:
        assert distiller(*batch(), mode='loss')['distill.loss_fpn'] == 0
    else:
        with pytest.raises(FloatingPointError, match="the loss of task 'fpn'"):
            distiller(*batch(), mode='loss')


@pytest.fixture
def log(caplog):
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


def spoil(network):
    with torch.no_grad():
        network.neck.fpn_convs[1].conv.weight.fill_(float('inf'))


@FLOAT16
@pytest.mark.parametrize('spoilt', ['features', 'loss'])
def test_overflow_of_the_student_is_left_to_the_scaler(toy, spoilt, log):
    cfg = toy('det', 'akd-cwd')
    cfg.model.distill.fpn.loss.criterion = dict(type='FeatureMSELoss')
    init_default_scope('mmdet')
    distiller = MODELS.build(cfg.model)
    optimizer = torch.optim.SGD(distiller.parameters(), 0.1)
    scaler = torch.amp.GradScaler('cpu')
    if spoilt == 'features':
        spoil(distiller.student)
    else:
        # The squares of such an adapter's maps overflow, its maps do not.
        distiller.distiller['fpn'].adapters[0].conv.register_forward_hook(
            lambda module, args, output: output.float() + 1e30)
    before = [parameter.detach().clone() for parameter in distiller.parameters()]
    for _ in range(2):
        with torch.autocast('cpu', torch.float16):
            losses = distiller(*batch(), mode='loss')
        assert not losses['distill.loss_fpn'].isfinite()
        optimizer.zero_grad()
        scaler.scale(distiller.parse_losses(losses)[0]).backward()
        scaler.step(optimizer)
        scaler.update()
    assert all(torch.equal(now, then) for now, then in zip(distiller.parameters(), before))
    assert scaler.get_scale() == 2.0**14
    warnings = [record.message for record in log.records if 'not finite' in record.message]
    assert len(warnings) == 1 and 'gradient scaler' in warnings[0]
    # Without a scaler, in bfloat16 and float32, it ends the training.
    for dtype in torch.bfloat16, None:
        with pytest.raises(FloatingPointError), torch.autocast(
                'cpu', dtype, enabled=dtype is not None):
            distiller(*batch(), mode='loss')


@FLOAT16
@pytest.mark.parametrize('skip', [True, False])
def test_a_spoilt_teacher_is_no_overflow(model, skip):
    distiller = model('det', **{'model.skip_nonfinite': skip})
    spoil(distiller.teacher)
    with torch.autocast('cpu', torch.float16):
        if skip:
            losses = distiller(*batch(), mode='loss')
            assert losses['distill.loss_fpn'] == 0 and losses['distill.skipped_steps'] == 1
        else:
            with pytest.raises(FloatingPointError, match="the teacher's tap 'neck'"):
                distiller(*batch(), mode='loss')


@pytest.mark.parametrize('own', [True, False])
def test_data_preprocessor_at_the_top_of_the_config(toy, own):
    """Where mmseg's configs have it, the Runner hands it to every model."""
    cfg = toy('seg', 'akd-cwd')
    cfg.data_preprocessor = dict(cfg.model.student.data_preprocessor, mean=[1., 2., 3.])
    if not own:
        cfg.model.student.pop('data_preprocessor')
    mean = Runner.from_cfg(cfg).model.data_preprocessor.mean.flatten().tolist()
    assert (mean == [1., 2., 3.]) != own
