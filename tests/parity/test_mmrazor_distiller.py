"""Our loss inside MMRazor's distillers, and the same distillation on both sides.

The configs and the code are those of docs/migrate_from_mmrazor.md.
"""
import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import load_checkpoint
from torch import nn

from benchmark.variants import make_batch, prepare
from mmakd.losses import ChannelWiseDivergence, UncertaintyFeatureLoss

DOC = Path(__file__).parents[2] / 'docs' / 'migrate_from_mmrazor.md'
THEIRS, OURS, LOSS, DROP_IN, CONVERSION = re.findall('```python\n(.*?)```', DOC.read_text(), re.S)
AKD = dict(type='UncertaintyFeatureLoss', criterion=dict(type='mmengine.ChannelWiseDivergence'),
           num_avatars=2, loss_weight=3.0)


def neck(side, **kwargs):
    return dict(from_student=side == 'student', recorder='fpn', **kwargs)


def make_distiller(losses, mappings, source='neck', **kwargs):
    recorders = dict(fpn=dict(type='ModuleOutputs', source=source))
    return dict(type='ConfigurableDistiller', _scope_='mmrazor', student_recorders=recorders,
                teacher_recorders=recorders, distill_losses=losses,
                loss_forward_mappings=mappings, **kwargs)


def one_loss(loss):
    return make_distiller(dict(loss_akd=loss),
                          dict(loss_akd=dict(preds_S=neck('student'), preds_T=neck('teacher'))))


class Levels(nn.Module):
    """A small network whose ``neck`` gives two maps."""

    def __init__(self, channels):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, channels, 3, 2, 1), nn.ReLU())
        self.neck = Pyramid(channels)

    def forward(self, images):
        return self.neck(self.backbone(images))


class Pyramid(nn.Module):

    def __init__(self, channels):
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv2d(channels, 6, 1), nn.Conv2d(channels, 6, 3, 2, 1)])

    def forward(self, feature):
        return tuple(conv(feature) for conv in self.convs)


@pytest.fixture
def networks(mmrazor):
    """A small student and a small teacher with their distiller, as MMRazor joins them."""
    torch.manual_seed(0)
    student, teacher = Levels(4), Levels(16).requires_grad_(False)

    def join(loss):
        distiller = MODELS.build(one_loss(loss))
        distiller.prepare_from_student(student)
        distiller.prepare_from_teacher(teacher)

        def compute(images):
            with distiller.teacher_recorders:
                teacher(images)
            with distiller.student_recorders:
                student(images)
            return distiller.compute_distill_losses()

        return distiller, compute

    return student, teacher, join


def test_loss_in_a_configurable_distiller(networks):
    student, teacher, join = networks
    distiller, compute = join(AKD)
    assert isinstance(distiller.distill_losses.loss_akd.criterion, ChannelWiseDivergence)
    images = torch.randn(2, 3, 16, 12)
    loss = compute(images)['loss_akd']
    loss.backward()
    gradients = [parameter.grad.clone() for parameter in student.parameters()]
    assert all(gradient.any() for gradient in gradients)

    # Built anew, the Avatars are the same, and sigma is that of the first batch.
    student.zero_grad()
    direct = MODELS.build(AKD)(student(images), teacher(images))
    direct.backward()
    assert direct.equal(loss)
    assert all(parameter.grad.equal(gradient)
               for parameter, gradient in zip(student.parameters(), gradients))
    assert not compute(images)['loss_akd'].equal(loss)  # other Avatars
    assert [sigma.shape[1] for sigma in distiller.distill_losses.loss_akd.sigma] == [6, 6]


def test_a_bare_name_is_mmrazors_criterion(mmrazor, networks):
    _, _, join = networks
    images = torch.randn(2, 3, 16, 12)
    losses = []
    for name in 'ChannelWiseDivergence', 'mmengine.ChannelWiseDivergence':
        distiller, compute = join(dict(AKD, criterion=dict(type=name, tau=2.0)))
        losses.append(compute(images)['loss_akd'])
        ours = name.startswith('mmengine')
        expected = ChannelWiseDivergence if ours else mmrazor.ChannelWiseDivergence
        assert type(distiller.distill_losses.loss_akd.criterion) is expected
    torch.testing.assert_close(*losses)


def test_a_criterion_that_learns_is_told_its_channels(networks):
    _, _, join = networks
    criterion = dict(type='mmengine.MGDLoss', alpha_mgd=1.0, channels=6)
    distiller, compute = join(dict(AKD, criterion=criterion))
    compute(torch.randn(2, 3, 16, 12))['loss_akd'].backward()
    assert all(parameter.grad.any() for parameter in distiller.parameters())


def scoped(model):
    """Have MMRazor build a network of mmdet."""
    return dict(model, _scope_='mmdet')


def test_same_step_with_adapters(mmrazor, toy):
    """A narrow student: MMRazor's connectors against our adapters, CWD on three levels."""
    cfg = toy('det', 'cwd')
    init_default_scope('mmdet')
    torch.manual_seed(0)
    ours = MODELS.build(cfg.model).train()
    levels = range(3)
    theirs = MODELS.build(dict(
        type='FpnTeacherDistill', _scope_='mmrazor', architecture=scoped(cfg.model.student),
        teacher=scoped(Config.fromfile(cfg.model.teacher).model),
        distiller=make_distiller(
            {f'loss_{i}': dict(type='ChannelWiseDivergence', loss_weight=7.5) for i in levels},
            {f'loss_{i}': dict(preds_S=neck('student', data_idx=i, connector=f'conv_{i}'),
                               preds_T=neck('teacher', data_idx=i)) for i in levels},
            connectors={f'conv_{i}': dict(type='ConvModuleConnector', in_channel=32,
                                          out_channel=64, act_cfg=None) for i in levels})))
    theirs.student.load_state_dict(ours.student.state_dict(), strict=False)
    theirs.teacher.load_state_dict(ours.teacher.state_dict())
    adapters = list(ours.distiller.fpn.adapters.parameters())
    connectors = list(theirs.distiller.connectors.parameters())
    for adapter, connector in zip(adapters, connectors, strict=True):
        connector.data.copy_(adapter.data)

    theirs.train()
    data = ours.data_preprocessor(make_batch('mmdet', (64, 64), 2), True)
    our_losses, their_losses = ours(**data, mode='loss'), theirs(**data, mode='loss')
    torch.testing.assert_close(our_losses['distill.loss_fpn'],
                               sum(their_losses[f'distill.loss_{i}'] for i in levels))
    for name in 'loss_cls', 'loss_bbox':
        for mine, other in zip(our_losses[name], their_losses[f'student.{name}'], strict=True):
            assert mine.equal(other)
    ours.parse_losses(our_losses)[0].backward()
    theirs.parse_losses(their_losses)[0].backward()
    pairs = [*zip(ours.student.parameters(), theirs.student.parameters(), strict=True),
             # Not the biases: CWD does not see a shift of a channel.
             *zip(adapters[::2], connectors[::2], strict=True)]
    for mine, other in pairs:
        assert mine.grad.any()
        assert (mine.grad - other.grad).norm() <= 1e-4 * other.grad.norm()


@pytest.fixture
def config(tmp_path):
    """Load a config of the document from a file."""

    def load(text, name='config.py'):
        (tmp_path / name).write_text(text)
        return Config.fromfile(tmp_path / name)

    return load


def test_documented_configs_at_real_size(mmrazor, config):
    theirs, ours = config(THEIRS), config(OURS)
    assert theirs.optim_wrapper == ours.optim_wrapper and theirs.val_cfg != ours.val_cfg
    theirs.model.teacher.pretrained = False
    ours.model.teacher_ckpt = None
    init_default_scope(theirs.default_scope)
    torch.manual_seed(0)
    theirs, ours = MODELS.build(theirs.model), MODELS.build(ours.model)
    for model in theirs, ours:
        prepare(model, (128, 128), 'cpu')
    ours.student.load_state_dict(theirs.student.state_dict())
    ours.teacher.load_state_dict(theirs.teacher.state_dict())
    data = ours.data_preprocessor(make_batch('mmdet', (128, 128), 2), True)
    with torch.no_grad():
        our_losses, their_losses = ours(**data, mode='loss'), theirs(**data, mode='loss')
    torch.testing.assert_close(
        our_losses['distill.loss_fpn'],
        sum(their_losses[f'distill.loss_cwd_fpn{level}'] for level in range(5)))
    assert len(their_losses) == 2 + 5 and len(our_losses) == 2 + 1
    assert our_losses['loss_cls'][0].equal(their_losses['student.loss_cls'][0])


def test_documented_loss_builds(config):
    assert isinstance(MODELS.build(config(LOSS).loss), UncertaintyFeatureLoss)


@pytest.mark.parametrize('algorithm', ['FpnTeacherDistill', 'SingleTeacherDistill'])
def test_documented_drop_in_trains(mmrazor, toy, train, workspace, config, algorithm):
    """The toy networks stand in for the document's; the teacher is another student."""
    base = toy('det', 'student')
    losses = {'loss_cwd_fpn0': dict(type='ChannelWiseDivergence')}
    mappings = {'loss_cwd_fpn0': dict(preds_S=neck('student', data_idx=0),
                                      preds_T=neck('teacher', data_idx=0))}
    base.model = dict(_scope_='mmrazor', type=algorithm, architecture=scoped(base.model),
                      teacher=scoped(base.model), distiller=make_distiller(losses, mappings))
    base.val_cfg = dict(type='mmrazor.SingleTeacherDistillValLoop')
    base.dump(workspace / 'cwd.py')
    cfg = config(DROP_IN)
    assert list(cfg.model.distiller.distill_losses) == ['loss_akd']

    runner = train(cfg)
    logged = runner.message_hub.log_scalars
    assert logged['train/distill.loss_akd'].data[0].min() > 0
    for level in range(3):
        assert logged[f'train/sigma/distill_losses.loss_akd.{level}'].current() > 0

    saved = torch.load(runner.work_dir + '/epoch_1.pth', weights_only=False)
    keys = saved['state_dict']
    assert {key.split('.')[0] for key in keys} == {'architecture', 'teacher', 'distiller'}
    assert all(key.startswith('distiller.distill_losses.loss_akd.uncertainty.') for key in keys
               if key.startswith('distiller.'))

    torch.save(saved, 'epoch_12.pth')
    exec(CONVERSION, {})
    init_default_scope('mmdet')
    student = MODELS.build(toy('det', 'student').model)
    load_checkpoint(student, 'student.pth', strict=True)
    for key, value in student.state_dict().items():
        assert value.equal(keys[f'architecture.{key}'])
    ours = MODELS.build(toy('det', 'akd-cwd').model)
    load_checkpoint(ours, 'student.pth', strict=True)
