import pytest
import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import nn

import mmakd  # noqa: F401
from mmakd.avatars import Perturbation
from mmakd.distillers import ConvAdapter
from mmakd.distillers.distill_task import DistillTask, task_taps
from mmakd.utils.errors import ConfigError

MSE = dict(type='FeatureMSELoss')
AKD = dict(type='UncertaintyFeatureLoss', criterion=dict(type='ChannelWiseDivergence'))


@MODELS.register_module()
class NormedAdapter(nn.Sequential):
    """A user's adapter that keeps statistics of what it saw."""

    def __init__(self, in_channels, out_channels):
        super().__init__(nn.Conv2d(in_channels, out_channels, 1), nn.BatchNorm2d(out_channels))


@MODELS.register_module()
class NoModule:
    """Something registered that is no loss at all."""


@MODELS.register_module()
class RandomSign(Perturbation):
    """Says nothing of its variance."""

    def forward(self, feature, generator=None):
        return feature + 2 * torch.bernoulli(torch.full_like(feature, 0.5)) - 1


@MODELS.register_module()
class NoScalar(nn.Module):

    def forward(self, preds_S, preds_T):
        return preds_S - preds_T


def make_maps(channels=4, sizes=(8, 4), batch=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, channels, size, size, generator=generator) for size in sizes]


@pytest.mark.parametrize('cfg, expected', [
    (dict(tap='neck'), ('neck', 'neck')),
    (dict(student_tap='a', teacher_tap='b'), ('a', 'b')),
])
def test_taps_of_a_task(cfg, expected):
    assert task_taps(dict(cfg, loss=MSE, adapter=None, resize=True, levels=[0])) == expected


@pytest.mark.parametrize('cfg, starts', [
    (dict(tap='a'), ['loss: missing']),
    (dict(loss=MSE), ['tap: give either tap ']),
    (dict(student_tap='a', loss=MSE), ['tap: give either tap ']),
    (dict(tap='a', teacher_tap='b', loss=MSE), ['tap: give either tap ']),
    (dict(tap='a', student_tap='a', teacher_tap='b', loss=MSE), ['tap: give either tap ']),
    (dict(tap='a', loss=MSE, adaptor=None), ["adaptor=None: a task has no such key; did you mean "
                                             "'adapter'?"]),
    (dict(taps='a', level=[0]), ['level=[0]: ', "taps='a': ", 'loss: missing', 'tap: give ']),
    ('neck', ["tap: expected dict(tap=..., loss=...), got 'neck'"]),
    (None, ['tap: expected dict(tap=..., loss=...), got None']),
])
def test_problems_of_a_task_are_reported_together(cfg, starts):
    with pytest.raises(ConfigError) as caught:
        task_taps(cfg)
    problems = caught.value.problems
    assert len(problems) == len(starts)
    assert all(problem.startswith(start) for problem, start in zip(problems, starts))


@pytest.mark.parametrize('adapter', ['auto', None])
def test_no_adapter_where_channels_agree(adapter):
    students, teachers = make_maps(), make_maps(seed=1)
    task = DistillTask('fpn', students, teachers, MSE, adapter)
    assert not list(task.parameters())
    expected = sum(F.mse_loss(s, t) for s, t in zip(students, teachers))
    torch.testing.assert_close(task(students, teachers), expected)


@pytest.mark.parametrize('adapter', ['auto', dict(type='ConvAdapter', kernel_size=3)])
def test_one_adapter_a_level_where_channels_differ(adapter):
    students, teachers = make_maps(3, batch=2), make_maps(5, batch=2, seed=1)
    task = DistillTask('fpn', students[:2], teachers[:2], MSE, adapter)
    kernel = 1 if adapter == 'auto' else 3
    assert all(isinstance(adapter, ConvAdapter) for adapter in task.adapters)
    assert {name: tuple(p.shape) for name, p in task.named_parameters()} == {
        f'adapters.{level}.conv.{name}': shape for level in (0, 1)
        for name, shape in dict(weight=(5, 3, kernel, kernel), bias=(5, )).items()}
    convs = [adapter.conv for adapter in task.adapters]
    expected = sum(F.mse_loss(F.conv2d(s, conv.weight, conv.bias, padding=kernel // 2), t)
                   for s, t, conv in zip(students, teachers, convs))
    loss = task(students, teachers)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert all(parameter.grad.any() for parameter in task.parameters())


def test_adapter_follows_the_channels_of_each_level():
    students = [torch.randn(1, 3, 8, 8), torch.randn(1, 5, 4, 4)]
    teachers = [torch.randn(1, 6, 8, 8), torch.randn(1, 5, 4, 4)]
    task = DistillTask('backbone', students, teachers, MSE)
    assert [type(adapter) for adapter in task.adapters] == [ConvAdapter, nn.Identity]


def test_building_leaves_the_statistics_of_an_adapter_alone():
    task = DistillTask('fpn', make_maps(3), make_maps(5), MSE, dict(type='NormedAdapter'))
    norm = task.adapters[0][1]
    assert norm.num_batches_tracked == 0
    assert not norm.running_mean.any()


@pytest.mark.parametrize('student, teacher', [((6, 3), (6, 5)), ((1, 3, 1, 1), (1, 5, 1, 1))])
def test_vectors_and_maps_of_one_position(student, teacher):
    student, teacher = torch.randn(student), torch.randn(teacher)
    task = DistillTask('roi', [student], [teacher], MSE)
    expected = F.mse_loss(task.adapters[0](student), teacher)
    torch.testing.assert_close(task([student], [teacher]), expected)


@pytest.mark.parametrize('adapter, message', [
    (None, "the student's map has 3 channels, the teacher's 5; set adapter='auto'"),
    (dict(type='ConvAdapter', out_channels=4), "gives 4 channels, but the teacher's map has 5"),
    (dict(type='ConvAdapter', in_channels=4), "type='ConvAdapter': fails on student maps (1, 3, "),
    (dict(type='ConvAdapter', kernel_size=2), 'kernel_size=2: must be an odd integer'),
    (dict(type='ConvAdaptor'), "type='ConvAdaptor': not registered; did you mean 'ConvAdapter'"),
    (dict(type='ConvAdapter', kernel=3), "no such argument; did you mean 'kernel_size'"),
    ('Auto', "adapter='Auto': expected dict"),
    (dict(type='PKDLoss'), "adapter.type='PKDLoss': is no adapter; give e.g. ConvAdapter"),
    (dict(type='DropoutPerturbation'), "adapter.type='DropoutPerturbation': is no adapter; "),
])
def test_adapter_that_does_not_join_is_named(adapter, message):
    with pytest.raises(ConfigError) as caught:
        DistillTask('fpn', make_maps(3), make_maps(5), MSE, adapter)
    problem, = caught.value.problems
    assert problem.startswith('adapter') and message in problem


def test_resize_is_bilinear_to_the_teachers_size():
    students, teachers = make_maps(sizes=(8, 4)), make_maps(sizes=(4, 7), seed=1)
    task = DistillTask('fpn', students, teachers, MSE, resize=True)
    expected = sum(
        F.mse_loss(F.interpolate(s, t.shape[2:], mode='bilinear', align_corners=False), t)
        for s, t in zip(students, teachers))
    torch.testing.assert_close(task(students, teachers), expected)


def test_unlike_sizes_without_resize_are_named():
    with pytest.raises(ConfigError, match=r'^resize=False: .*level 1 .*\(4, 4\) and \(2, 2\)'):
        DistillTask('fpn', make_maps(sizes=(8, 4)), make_maps(sizes=(8, 2)), MSE)
    task = DistillTask('fpn', make_maps(), make_maps(), MSE)
    with pytest.raises(ConfigError, match='resize=True'):
        task(make_maps(sizes=(8, 4)), make_maps(sizes=(4, 4)))


@pytest.mark.parametrize('levels', [[0], [2], [0, 2], [-1], [2, 0], (1, )])
def test_levels_select_the_maps_of_both_sides(levels):
    students, teachers = make_maps(sizes=(8, 4, 2)), make_maps(sizes=(8, 4, 2), seed=1)
    task = DistillTask('fpn', students, teachers, MSE, levels=levels)
    assert len(task.losses) == len(levels)
    expected = sum(F.mse_loss(students[level], teachers[level]) for level in levels)
    torch.testing.assert_close(task(students, teachers), expected)


def test_levels_join_taps_of_unlike_numbers_of_maps():
    students, teachers = make_maps(sizes=(8, 4, 2)), make_maps(sizes=(8, 4), seed=1)
    task = DistillTask('fpn', students, teachers, MSE, levels=[0, 1])
    expected = sum(F.mse_loss(s, t) for s, t in zip(students[:2], teachers))
    torch.testing.assert_close(task(students, teachers), expected)


@pytest.mark.parametrize('levels', [[2], [0, -3], [], ['0'], [0.0], 1, 'all'])
def test_bad_levels_are_named(levels):
    with pytest.raises(ConfigError) as caught:
        DistillTask('fpn', make_maps(), make_maps(), MSE, levels=levels)
    assert str(caught.value).startswith(f'levels={levels!r}: must be integers')


@pytest.mark.parametrize('students, teachers, message', [
    (make_maps(), make_maps(sizes=(8, )), 'the student gives 2 maps, the teacher 1; .*levels='),
    ([], make_maps(), 'the student gives no map'),
    (make_maps(), [], 'the teacher gives no map'),
])
def test_unlike_numbers_of_maps_are_named(students, teachers, message):
    with pytest.raises(ConfigError, match=f'^tap: {message}'):
        DistillTask('fpn', students, teachers, MSE)


@pytest.mark.parametrize('loss, start', [
    (dict(type='FeatureMSELos'), "loss.type='FeatureMSELos': not registered; did you mean "),
    (dict(AKD, criterion=dict(type='ChannelWiseDivergence', tau=0)), 'loss.criterion.tau=0: '),
    (dict(type='NoScalar'), 'loss: NoScalar gives no scalar'),
    # Takes boxes, four numbers each.
    (dict(type='mmdet.GIoULoss'), 'loss: GIoULoss fails on student maps (1, 4, 8, 8) and '),
    (dict(AKD, perturbation=dict(type='GaussianNoisePerturbation', std=-1)),
     'loss.perturbation.std=-1: '),
    (dict(AKD, perturbation=dict(type='RandomSign')),
     "loss.uncertainty.estimator='closed_form': the perturbation has no closed form"),
    (dict(type='NoModule'), "loss.type='NoModule': is no loss; give e.g. "),
    (dict(type='DropoutPerturbation'), "loss.type='DropoutPerturbation': is no loss; give e.g. "),
    (dict(type='BatchStatistics'), "loss.type='BatchStatistics': is no loss; give e.g. "),
])
def test_loss_that_fails_is_named(loss, start):
    with pytest.raises(ConfigError) as caught:
        DistillTask('fpn', make_maps(), make_maps(), loss)
    assert str(caught.value).startswith(start)


def test_criterion_for_maps_on_vectors_is_named():
    vectors = [torch.randn(6, 4)]
    with pytest.raises(ConfigError, match=r'^loss: ChannelWiseDivergence fails on .*\(6, 4\)'):
        DistillTask('roi', vectors, vectors, dict(type='ChannelWiseDivergence'))


def test_problems_of_adapter_and_loss_are_reported_together():
    with pytest.raises(ConfigError) as caught:
        DistillTask('fpn', make_maps(3), make_maps(5), dict(AKD, num_avatars=0), adapter=None)
    adapter, loss = caught.value.problems
    assert adapter.startswith('adapter') and loss.startswith('loss.num_avatars=0: ')


def test_loss_weight_is_that_of_the_loss():
    losses = {0: dict(AKD, loss_weight=0), 3: dict(type='mmdet.L1Loss', loss_weight=3),
              1: dict(type='torch.nn.L1Loss')}
    for weight, loss in losses.items():
        assert DistillTask('fpn', make_maps(), make_maps(), loss).loss_weight == weight


def test_state_is_sized_by_the_dry_run_and_resumes():
    students, teachers = make_maps(3, batch=2), make_maps(5, batch=2, seed=1)
    task, resumed = (DistillTask('fpn', students, teachers, AKD) for _ in range(2))
    shapes = {name: tuple(value.shape) for name, value in task.state_dict().items()}
    for level in 0, 1:
        assert shapes[f'losses.{level}.uncertainty.0.running_variance'] == (5, )
    # The dry run teaches sigma nothing.
    assert all(loss.sigma[0].isnan().all() for loss in task.losses)
    assert all(module.training for module in task.modules())
    task(students, teachers)
    resumed.load_state_dict(task.state_dict())
    for module in task, resumed:
        for loss in module.losses:
            loss.reseed(3)
    assert resumed(students, teachers).equal(task(students, teachers))


def test_levels_and_tasks_draw_different_avatars():
    feature = make_maps(sizes=(8, ))[0]
    teachers = [feature, feature]
    loss = dict(type='UncertaintyFeatureLoss', criterion=MSE, uncertainty=None)
    tasks = [DistillTask(name, teachers, teachers, loss) for name in ('fpn', 'head', 'fpn')]
    values = [[level(feature, feature).item() for level in task.losses] for task in tasks]
    assert values[0] == values[2]
    assert len({*values[0], *values[1]}) == 4


def test_losses_are_float32_under_autocast():
    students, teachers = make_maps(3), make_maps(5, seed=1)
    task = DistillTask('fpn', students, teachers, dict(type='mmdet.L1Loss'))
    with torch.autocast('cpu', torch.bfloat16):
        loss = task(students, [teacher.bfloat16() for teacher in teachers])
        # The adapter itself follows the autocast of the step.
        adapted = [adapter(s) for adapter, s in zip(task.adapters, students)]
    assert {a.dtype for a in adapted} == {torch.bfloat16}
    expected = sum((a.float() - t.bfloat16().float()).abs().mean()
                   for a, t in zip(adapted, teachers))
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected)
