"""The hook inside real Runners: on a toy model of two tasks, and on the toy configs."""
import uuid

import pytest
import torch
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn

from mmakd.distillers.distill_task import DistillTask
from mmakd.hooks import DistillationScheduleHook
from mmakd.utils.errors import ConfigError

ITERATIONS_PER_EPOCH = 2
KEY = 'DistillationScheduleHook'
LOSS = dict(type='PKDLoss', loss_weight=3.0)


class ToyModel(BaseModel):
    """Two real tasks on a student of one layer; it keeps their factors and losses."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        maps = [torch.zeros(1, 8, 4, 4)]
        self.student = nn.Conv2d(3, 8, 1)
        self.distiller = nn.ModuleDict({name: DistillTask(name, maps, maps, loss=LOSS)
                                        for name in ('neck', 'logits')})
        self.factors, self.losses = [], []

    def forward(self, inputs, mode='loss'):
        generator = torch.Generator().manual_seed(0)
        maps = self.student(inputs)
        target = torch.randn(maps.shape, generator=generator)
        losses = {f'loss_{name}': task([maps], [target]) for name, task in self.distiller.items()}
        self.factors.append([task.weight_factor for task in self.distiller.values()])
        self.losses.append([loss.item() for loss in losses.values()])
        return losses


class PlainModel(BaseModel):

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 1, 1)

    def forward(self, inputs, mode='loss'):
        return dict(loss=self.layer(inputs).mean())


@pytest.fixture
def make_runner(tmp_path):

    def make(*hooks, model=None, by_epoch=False, length=8, **options):
        train_cfg = (dict(by_epoch=True, max_epochs=length) if by_epoch else
                     dict(by_epoch=False, max_iters=length, val_interval=10**6))
        return Runner(
            model or ToyModel(), str(tmp_path),
            train_dataloader=dict(
                dataset=[dict(inputs=torch.full((3, 4, 4), float(i)))
                         for i in range(2 * ITERATIONS_PER_EPOCH)],
                batch_size=2, num_workers=0, collate_fn=dict(type='default_collate'),
                sampler=dict(type='DefaultSampler' if by_epoch else 'InfiniteSampler')),
            train_cfg=train_cfg,
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.0)),
            default_hooks=dict(
                logger=dict(type='LoggerHook', interval=1),
                checkpoint=dict(type='CheckpointHook', interval=3, by_epoch=False),
                **{f'distillation_schedule_{i}': dict(type='DistillationScheduleHook', **hook)
                   for i, hook in enumerate(hooks)}),
            experiment_name=f'test_distillation_schedule_{uuid.uuid4().hex}',
            **options)

    return make


def factors(runner):
    runner.train()
    neck, logits = zip(*runner.model.factors)
    assert neck == logits
    return list(neck)


@pytest.mark.parametrize('hook, expected', [
    (dict(), [1] * 8),
    (dict(start=0.5), [.5] * 8),
    (dict(begin=2, stop=6), [0, 0, 1, 1, 1, 1, 0, 0]),
    (dict(mode='linear'), [1, .875, .75, .625, .5, .375, .25, .125]),
    (dict(mode='linear', start=2, end=1, begin=2, stop=6), [0, 0, 2, 1.75, 1.5, 1.25, 0, 0]),
    # 2 - (1 - cos(pi / 4)) / 2 = 1.853553, and so on.
    (dict(mode='cosine', start=2, end=1, begin=2, stop=6),
     [0, 0, 2, 1.853553, 1.5, 1.146447, 0, 0]),
    (dict(warmup=3, begin=1), [0, .25, .5, .75, 1, 1, 1, 1]),
    (dict(mode='linear', warmup=1, begin=2, stop=6), [0, 0, .5, .75, .5, .25, 0, 0]),
    (dict(begin=100), [0] * 8),
], ids=['default', 'constant', 'window', 'linear', 'linear_window', 'cosine', 'warmup',
        'linear_warmup', 'never'])
def test_schedule_by_iteration(make_runner, hook, expected):
    assert factors(make_runner(hook)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize('hook, expected', [
    (dict(begin=1, stop=3), [0, 1, 1, 0]),
    (dict(mode='linear'), [1, .75, .5, .25]),
    (dict(warmup=1), [.5, 1, 1, 1]),
])
def test_schedule_by_epoch(make_runner, hook, expected):
    runner = make_runner(dict(hook, by_epoch=True), by_epoch=True, length=4)
    in_iterations = [value for value in expected for _ in range(ITERATIONS_PER_EPOCH)]
    assert factors(runner) == pytest.approx(in_iterations, abs=1e-6)


def test_tasks_apart(make_runner):
    runner = make_runner(dict(tasks=['neck'], stop=1), dict(tasks=['logits'], begin=1), length=2)
    runner.train()
    assert runner.model.factors == [[1, 0], [0, 1]]
    scalars = runner.message_hub.log_scalars
    assert scalars['train/distill_weight/neck'].data[0].tolist() == [1, 0]
    assert scalars['train/distill_weight/logits'].data[0].tolist() == [0, 1]


def test_other_tasks_keep_their_weight(make_runner):
    runner = make_runner(dict(tasks=['neck'], start=0.5), length=1)
    runner.train()
    assert runner.model.factors == [[.5, 1]]
    (neck, logits), = runner.model.losses
    assert neck == pytest.approx(0.5 * logits) and logits > 0
    assert 'train/distill_weight/logits' not in runner.message_hub.log_scalars


def test_resumed_run_goes_on(make_runner, tmp_path):
    hook = dict(mode='cosine', warmup=2, begin=1, stop=5)
    full = factors(make_runner(hook, length=6))
    resumed = make_runner(hook, length=6, load_from=str(tmp_path / 'iter_3.pth'), resume=True)
    assert factors(resumed) == full[3:]
    assert resumed.message_hub.get_scalar('train/distill_weight/neck').data[0].tolist() == full


@pytest.mark.parametrize('options, start', [
    (dict(mode='linaer'), "mode='linaer': did you mean 'linear'"),
    (dict(start=-1), 'start=-1: must be a number >= 0'),
    (dict(end=float('inf')), 'end=inf: must be a number >= 0'),
    (dict(begin=1.5), 'begin=1.5: must be an integer >= 0'),
    (dict(begin=5, stop=5), 'stop=5: must be None or an integer > begin=5'),
    (dict(warmup=-1), 'warmup=-1: must be an integer >= 0'),
    (dict(warmup='2'), "warmup='2': must be an integer >= 0"),
    (dict(warmup=5, begin=2, stop=6), 'warmup=5: is longer than from begin=2 to stop=6'),
    (dict(tasks='neck'), "tasks='neck': must be None (all tasks) or a list of names"),
    (dict(tasks=[]), 'tasks=[]: must be None'),
    (dict(tasks=[1]), 'tasks=[1]: must be None'),
])
def test_bad_argument_is_named(options, start):
    with pytest.raises(ConfigError) as caught:
        DistillationScheduleHook(**options)
    problem, = caught.value.problems
    assert problem.startswith(start)


def test_bad_arguments_are_reported_together():
    with pytest.raises(ConfigError) as caught:
        DistillationScheduleHook('neck', mode='x', start=-1, end=-1, begin=-1, warmup=-1)
    assert len(caught.value.problems) == 6


@pytest.mark.parametrize('hooks, messages', [
    ([dict(tasks=['nekc'])], [".tasks=['nekc']: the model has no task 'nekc'; did you mean 'nec"]),
    ([dict(by_epoch=True)], ['.by_epoch=True: this training counts iterations']),
    ([dict(tasks=['neck']), dict()], [".tasks=['neck']: 2 such hooks set the task 'neck'"]),
    ([dict(tasks=['x', 'logit'], by_epoch=True), dict(tasks=['neck'])],
     ["no task 'x'; valid: 'logits', 'neck'", "no task 'logit'; did you mean 'logits'",
      'by_epoch=True']),
])
def test_misfit_of_hook_and_training_stops_before_the_first_batch(make_runner, hooks, messages):
    runner = make_runner(*hooks)
    with pytest.raises(ConfigError) as caught:
        runner.train()
    problems = caught.value.problems
    assert len(problems) == len(messages)
    for problem, message in zip(problems, messages):
        assert problem.startswith(KEY) and message in problem
    assert not runner.model.factors


def test_model_without_distillation(make_runner):
    with pytest.raises(ConfigError, match=f'{KEY}: the model has no distillation tasks'):
        make_runner(dict(), model=PlainModel()).train()


def with_schedule(**schedule):
    return {'default_hooks.distillation_schedule': dict(
        type='DistillationScheduleHook', **schedule)}


@pytest.mark.parametrize('task', ['det', 'seg'])
def test_teacher_rests_while_every_factor_is_zero(task, toy):
    runner = Runner.from_cfg(toy(task, 'akd-cwd', **with_schedule(begin=1, stop=3)))
    calls = []
    runner.model.teacher.backbone.register_forward_hook(
        lambda *args: calls.append(runner.iter))
    runner.train()
    # Its first batch is tried more than once, to find out how to run it fast.
    assert sorted(set(calls)) == [1, 2] and calls.count(2) == 1
    name, = runner.model.distiller
    losses = runner.message_hub.get_scalar(f'train/distill.loss_{name}').data[0]
    assert (losses != 0).tolist() == [False, True, True, False]


WEIGHT_ZERO = {'model.distill.fpn.loss.loss_weight': 0}


@pytest.mark.parametrize('task, name, changes, stop, checkpoint', [
    # Without an adapter the plain student's optimizer has the same parameters.
    ('seg', 'student', {}, dict(stop=4), 'iter_4.pth'),
    ('det', 'akd-cwd', WEIGHT_ZERO, dict(stop=1, by_epoch=True), 'epoch_1.pth'),
])
def test_behind_the_stop_training_is_plain(task, name, changes, stop, checkpoint, toy, train):
    intervals = {'train_cfg.val_interval': 100,
                 'default_hooks.checkpoint.interval': stop['stop']}
    first = toy(task, 'akd-cwd', iters=8, **with_schedule(**stop), **intervals)
    train(first)
    again = dict(iters=8, resume=True, load_from=f'{first.work_dir}/{checkpoint}', **intervals)
    stopped = train(toy(task, 'akd-cwd', **with_schedule(**stop), **again))
    plain = train(toy(task, name, **again, **changes))
    distilled = train(toy(task, 'akd-cwd', **again))

    assert stopped.iter == plain.iter == 8
    state, other = stopped.model.state_dict(), distilled.model.state_dict()
    expected = plain.model.state_dict()
    for key, value in expected.items():
        assert torch.equal(state[key], value), key
    assert any(not torch.equal(other[key], value) for key, value in expected.items())


def test_testing_needs_nothing_of_the_training(toy):
    """MMEngine calls ``before_run`` there too; the training's data need not exist."""
    hooks = dict(perturbation=dict(type='PerturbationHook', start=100, by_epoch=True),
                 distillation_schedule=dict(type='DistillationScheduleHook', by_epoch=True),
                 teacher_eval=dict(type='TeacherEvalHook'))
    cfg = toy('seg', 'akd-cwd', default_hooks=hooks)
    cfg.train_dataloader.dataset.data_root = 'nowhere'
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    assert 'mIoU' in Runner.from_cfg(cfg).test()
