"""The hook inside real Runners, on a toy model and a few tensors."""
import json
import uuid

import pytest
import torch
from mmengine.logging import MessageHub, MMLogger
from mmengine.model import BaseModel
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import Runner
from mmengine.visualization import Visualizer
from torch import nn

from mmakd.avatars import Perturbation
from mmakd.hooks import PerturbationHook
from mmakd.utils.errors import ConfigError

ITERATIONS_PER_EPOCH = 2


@pytest.fixture(autouse=True)
def mmengine_globals():
    """Leave MMEngine's instances by name as they were."""
    managers = DefaultScope, MessageHub, MMLogger, Visualizer
    before = [manager._instance_dict.copy() for manager in managers]
    yield
    for manager, instances in zip(managers, before):
        manager._instance_dict.clear()
        manager._instance_dict.update(instances)


class ToyModel(BaseModel):
    """A student, and teacher maps of 1, 2, ... a level, so that Avatars show their masks.

    It keeps the strength, sigma and the Avatars of each iteration.
    """

    def __init__(self, loss, num_levels):
        super().__init__()
        self.student = nn.Conv2d(3, 8, 1)
        self.akd = MODELS.build(loss)
        self.num_levels = num_levels
        self.strengths, self.sigmas, self.avatars = [], [], []
        for module in self.akd.modules():
            if isinstance(module, Perturbation):
                module.register_forward_hook(self.record)

    def record(self, perturbation, args, avatar):
        self.strengths.append(perturbation.strength)
        self.avatars.append(avatar)

    def forward(self, inputs, mode='loss'):
        student = self.student(inputs)
        levels = [student] * self.num_levels
        teachers = [torch.full_like(student, level + 1) for level in range(self.num_levels)]
        loss = self.akd(levels, teachers)
        self.sigmas.append([sigma.mean().item() for sigma in self.akd.sigma])
        return dict(loss=loss)


def make_loss(type='DropoutPerturbation', **perturbation):
    if type == 'DropoutPerturbation':
        perturbation['fill'] = 'zero'  # the mean of these maps is the map itself
    return dict(type='UncertaintyFeatureLoss', criterion=dict(type='FeatureMSELoss'),
                perturbation=dict(type=type, **perturbation))


NO_AVATARS = dict(type='UncertaintyFeatureLoss', criterion=dict(type='FeatureMSELoss'),
                  perturbation=None, uncertainty=None)


@pytest.fixture
def make_runner(tmp_path):

    def make(hook=None, loss=None, seed=0, by_epoch=False, length=8, num_levels=1, **options):
        train_cfg = (dict(by_epoch=True, max_epochs=length) if by_epoch else
                     dict(by_epoch=False, max_iters=length, val_interval=10**6))
        return Runner(
            ToyModel(loss or make_loss(), num_levels), str(tmp_path),
            train_dataloader=dict(
                dataset=[dict(inputs=torch.full((3, 4, 4), float(i)))
                         for i in range(2 * ITERATIONS_PER_EPOCH)],
                batch_size=2, num_workers=0, collate_fn=dict(type='default_collate'),
                sampler=dict(type='DefaultSampler' if by_epoch else 'InfiniteSampler')),
            train_cfg=train_cfg,
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=1e-3)),
            default_hooks=dict(
                logger=dict(type='LoggerHook', interval=1),
                checkpoint=dict(type='CheckpointHook', interval=3, by_epoch=False),
                perturbation=dict(type='PerturbationHook', **(hook or {}))),
            randomness=dict(seed=seed),
            experiment_name=f'test_perturbation_hook_{uuid.uuid4().hex}',
            **options)

    return make


def train(runner):
    runner.train()
    return runner.model


@pytest.mark.parametrize('hook, expected', [
    (dict(), [1] * 8),
    (dict(start=0.5, end=3.0), [0.5] * 8),
    (dict(mode='linear', start=0.2, begin=2, stop=6), [.2, .2, .2, .4, .6, .8, 1, 1]),
    (dict(mode='linear', start=2, end=0), [2, 1.75, 1.5, 1.25, 1, .75, .5, .25]),
    # (1 - cos(pi / 4)) / 2 = 0.146447 of the way from 0.2 to 1, and so on.
    (dict(mode='cosine', start=0.2, begin=2, stop=6),
     [.2, .2, .2, .317157, .6, .882843, 1, 1]),
], ids=['default', 'constant', 'linear', 'to_the_end', 'cosine'])
def test_schedule_by_iteration(make_runner, hook, expected):
    assert train(make_runner(hook)).strengths == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize('hook, expected', [
    (dict(mode='linear', start=0, begin=1, stop=3), [0, 0, .5, 1]),
    (dict(mode='linear', start=0), [0, .25, .5, .75]),
    (dict(mode='cosine', start=0), [0, .146447, .5, .853553]),
])
def test_schedule_by_epoch(make_runner, hook, expected):
    model = train(make_runner(dict(hook, by_epoch=True), by_epoch=True, length=4))
    in_iterations = [value for value in expected for _ in range(ITERATIONS_PER_EPOCH)]
    assert model.strengths == pytest.approx(in_iterations, abs=1e-6)


def test_iterations_can_be_counted_in_an_epoch_based_loop(make_runner):
    hook = dict(mode='linear', start=0)
    model = train(make_runner(hook, by_epoch=True, length=2))
    assert model.strengths == pytest.approx([0, .25, .5, .75])


def test_strength_acts_on_the_avatars(make_runner):
    hook = dict(mode='linear', start=0, begin=0, stop=4)
    model = train(make_runner(hook, make_loss(drop_rate=0.5), length=5))
    dropped = torch.tensor([(avatar == 0).float().mean() for avatar in model.avatars])
    rates = torch.tensor([0, .125, .25, .375, .5])
    standard_error = (rates * (1 - rates) / model.avatars[0].numel()).sqrt()
    assert ((dropped - rates).abs() <= 5 * standard_error).all()


def test_avatars_are_those_of_seed_and_iteration(make_runner):
    first, again, other = (train(make_runner(seed=seed, length=4)).avatars for seed in (0, 0, 1))
    assert all(a.equal(b) for a, b in zip(first, again, strict=True))
    distinct = {tuple(avatar.flatten().tolist()) for avatar in first + other}
    assert len(distinct) == 8


def test_resumed_run_draws_the_same_avatars(make_runner, tmp_path):
    full = train(make_runner(length=6)).avatars
    resumed = make_runner(length=6, load_from=str(tmp_path / 'iter_3.pth'), resume=True)
    assert all(a.equal(b) for a, b in zip(train(resumed).avatars, full[3:], strict=True))


def test_sigma_and_strength_reach_the_visualizer(make_runner, tmp_path):
    runner = make_runner(dict(mode='linear', start=0.5), length=4)
    sigmas = [sigma for sigma, in train(runner).sigmas]
    # sigma^2 = p / (1 - p) of a map of ones, a running average of p = 0.05 to 0.0875
    assert sigmas[0]**2 == pytest.approx(0.05 / 0.95, rel=1e-4)
    assert sigmas == sorted(sigmas) and sigmas[-1]**2 < 0.0875 / 0.9125
    scalars = runner.message_hub.log_scalars
    assert scalars['train/perturbation_strength'].data[0].tolist() == [.5, .625, .75, .875]
    assert scalars['train/sigma/akd'].data[0].tolist() == sigmas
    log, = tmp_path.glob('*/vis_data/scalars.json')
    last = json.loads(log.read_text().splitlines()[-1])
    assert last['sigma/akd'] == pytest.approx(sigmas[3], abs=1e-4)
    assert last['perturbation_strength'] == pytest.approx(0.875)


def test_levels_are_logged_apart(make_runner):
    runner = make_runner(dict(), length=1, num_levels=2)
    (first, second), = train(runner).sigmas
    assert second == pytest.approx(2 * first, rel=1e-4)
    scalars = runner.message_hub.log_scalars
    assert scalars['train/sigma/akd.0'].current() == first
    assert scalars['train/sigma/akd.1'].current() == second


@pytest.mark.parametrize('options, start', [
    (dict(mode='linaer'), "mode='linaer': did you mean 'linear'"),
    (dict(start=-1), 'start=-1: must be a number >= 0'),
    (dict(end='1'), "end='1': must be a number >= 0"),
    (dict(end=float('nan')), 'end=nan: must be a number >= 0'),
    (dict(begin=-1), 'begin=-1: must be an integer >= 0'),
    (dict(begin=1.5), 'begin=1.5: must be an integer >= 0'),
    (dict(begin=5, stop=5), 'stop=5: must be None or an integer > begin=5'),
    (dict(stop=2.5), 'stop=2.5: must be None or an integer > begin=0'),
])
def test_bad_argument_is_named(options, start):
    with pytest.raises(ConfigError) as caught:
        PerturbationHook(**options)
    problem, = caught.value.problems
    assert problem.startswith(start)


def test_bad_arguments_are_reported_together():
    with pytest.raises(ConfigError) as caught:
        PerturbationHook(mode='x', start=-1, end=-1, begin=-1)
    assert len(caught.value.problems) == 4


@pytest.mark.parametrize('hook, loss, messages', [
    (dict(by_epoch=True), None, ['by_epoch=True: this training counts iterations']),
    (dict(start=2), make_loss(drop_rate=0.5), ["the drop rate of 'akd' reaches 1.0"]),
    (dict(mode='linear', end=4), make_loss(type='DropBlockPerturbation', drop_rate=0.3),
     ["the drop rate of 'akd' reaches 1.2"]),
    (dict(by_epoch=True, mode='cosine', end=10), None,
     ["the drop rate of 'akd' reaches 1.0", 'by_epoch=True: ']),
])
def test_misfit_of_hook_and_training_stops_before_the_first_batch(make_runner, hook, loss,
                                                                  messages):
    runner = make_runner(hook, loss)
    with pytest.raises(ConfigError) as caught:
        runner.train()
    problems = caught.value.problems
    assert len(problems) == len(messages)
    for problem, message in zip(problems, messages):
        assert problem.startswith('PerturbationHook.') and message in problem
    assert not runner.model.strengths


@pytest.mark.parametrize('hook, loss', [
    (dict(end=100), make_loss(drop_rate=0.5)),  # constant: the end is not used
    (dict(start=100), make_loss(type='GaussianNoisePerturbation')),  # a deviation has no bound
    (dict(start=100), NO_AVATARS),
], ids=['constant', 'deviation', 'no_avatars'])
def test_fitting_schedule_trains(make_runner, hook, loss):
    runner = make_runner(hook, loss, length=1)
    runner.train()
    assert runner.iter == 1


def test_model_without_avatars_is_left_alone(toy, train):
    hook = {'default_hooks.perturbation': dict(type='PerturbationHook', mode='linear', end=0)}
    scalars = train(toy('seg', 'cwd', **hook)).message_hub.log_scalars
    assert 'train/distill.loss_logits' in scalars
    assert not any('perturbation' in name or 'sigma' in name for name in scalars)


def test_one_hook_a_training(make_runner):
    runner = make_runner(custom_hooks=[dict(type='PerturbationHook', mode='linear')])
    with pytest.raises(ConfigError, match=r'^PerturbationHook: the config has 2 such hooks'):
        runner.train()


def test_modules_are_not_searched_in_every_iteration(make_runner, monkeypatch):
    searched = []
    named_modules = ToyModel.named_modules

    def counted(self, *args, **kwargs):
        searched.append(self)
        return named_modules(self, *args, **kwargs)

    monkeypatch.setattr(ToyModel, 'named_modules', counted)
    counts = []
    for length in (1, 5):
        train(make_runner(length=length))
        counts.append(len(searched))
        searched.clear()
    assert counts[0] == counts[1]
