import pytest
import torch
from mmengine.model import BaseModel
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from mmakd.checks.complexity import (
    count_flops,
    count_parameters,
    measure_network,
    measure_tasks,
    measure_teacher,
)
from mmakd.checks.inspection import inspect_config
from mmakd.distillers.dry_run import dry_run_tasks
from mmakd.utils.errors import ConfigProblems
from tests.conftest import ROOT, TOY
from tests.distillers.small_beit import beit


class Tiny(BaseModel):
    """A network whose work is known: two convolutions, the second in the head."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.head = nn.Sequential(nn.Conv2d(4, 5, 1), nn.BatchNorm2d(5))
        self.decode_head = None

    def forward(self, inputs, data_samples=None, mode='tensor'):
        return self.head(self.backbone(inputs))


BACKBONE = 2 * 64 * 64 * 4 * 3 * 9
HEAD = 2 * 64 * 64 * 5 * 4


def test_flops_and_parameters_of_known_layers():
    network = Tiny()
    found = measure_network(network)
    assert found.image_size == (128, 128)
    assert found.flops == BACKBONE + HEAD
    assert count_parameters(network) == (4 * 3 * 9 + 4) + (5 * 4 + 5) + 2 * 5
    assert found.uncounted == ()
    assert count_flops(network, ['backbone'], (128, 128)) == BACKBONE


def test_measuring_leaves_the_network_as_it_was():
    network = Tiny()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    measure_network(network)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(module.training for module in network.modules())


def test_frozen_parameters_are_not_learned():
    network = Tiny()
    network.backbone.requires_grad_(False)
    assert count_parameters(network, learned_only=True) == 5 * 4 + 5 + 2 * 5


@pytest.mark.parametrize('kind', ['det', 'seg'])
def test_the_teacher_runs_only_to_its_deepest_tap(model, kind):
    distiller = model(kind)
    whole = measure_network(distiller.teacher).flops
    teaching = measure_teacher(distiller, 'teacher', (128, 128))
    if kind == 'det':  # tapped at the neck, before the head
        assert 0 < teaching < whole
    else:  # tapped at the last layer
        assert teaching == whole


def test_each_of_several_teachers_runs_to_its_own_deepest_tap(model):
    one = model('det')
    cfg = dict(cfg=str(ROOT / TOY['det'].format('teacher')), ckpt=None)
    task = dict(tap='backbone.layer1', teacher='other', loss=dict(type='FeatureMSELoss'))
    two = model('det', **{
        'model.teacher': dict(_delete_=True, big=cfg, other=cfg), 'model.teacher_ckpt': 'auto',
        'model.distill.fpn.teacher': 'big', 'model.distill.early': task})
    size = (128, 128)
    assert measure_teacher(two, 'big', size) == measure_teacher(one, 'teacher', size)
    assert measure_teacher(two, 'other', size) == count_flops(one.teacher, ['backbone'], size)


@pytest.mark.parametrize('kind, changes, times', [
    # Adapters: forward, and the gradients of their weights and of their inputs.
    ('det', {}, 3),
    # Avatars upstream of the tapped layer: four runs of the teacher's, without a gradient.
    ('seg', {'model.distill.logits.perturb_at': 'decode_head.conv_seg',
             'model.distill.logits.loss.uncertainty': None,
             'model.distill.logits.loss.num_avatars': 4}, 4),
    ('seg', {}, 0),
])
def test_what_the_tasks_add(model, kind, changes, times):
    distiller = model(kind, **changes)
    maps = dry_run_tasks(distiller.students, distiller.teachers, distiller.taps,
                         ConfigProblems())
    (of_student, of_teacher, _), = maps.values()
    if kind == 'seg':
        of_student = [torch.zeros(1, distiller.teacher.decode_head.conv_seg.in_channels,
                                  *of_teacher[0].shape[2:])]
    once = sum(2 * student.size(1) * teacher.numel()
               for student, teacher in zip(of_student, of_teacher))
    assert measure_tasks(distiller, maps) == times * once


def test_both_are_measured_on_what_both_take(toy):
    cfg = toy('seg', 'akd-cwd')
    cfg.model.teacher = beit(64, (64, 64))
    cfg.model.student.data_preprocessor.update(size=(64, 64), size_divisor=None)
    found = inspect_config(cfg)
    assert not found.problems.problems
    complexities = [found.networks[side][1] for side in ('student', 'teacher')]
    assert [complexity.image_size for complexity in complexities] == [(64, 64), (64, 64)]
    init_default_scope('mmseg')
    student = MODELS.build(cfg.model.student)
    assert complexities[0].flops == measure_network(student, (64, 64)).flops
    assert complexities[0].flops < measure_network(student).flops
    assert found.teacher_flops == dict(teacher=complexities[1].flops)
