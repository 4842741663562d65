import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.model import ExponentialMovingAverage
from mmengine.registry import MODELS
from torch import nn

from mmakd.avatars import DropoutPerturbation, Perturbation
from mmakd.losses import ChannelWiseDivergence, FeatureMSELoss, UncertaintyFeatureLoss
from mmakd.utils.errors import ConfigError
from tests.losses.saved_for_backward import SavedForBackward

RATE = 0.3
CWD = dict(type='ChannelWiseDivergence', tau=2.0)
MSE = dict(type='FeatureMSELoss')
L1 = dict(type='mmdet.L1Loss')
FLOAT16 = pytest.param(torch.float16, marks=pytest.mark.skipif(
    torch.__version__ < '2.3', reason='torch before 2.3 has no float16 autocast on the CPU'))


@MODELS.register_module()
class RecordingDropout(DropoutPerturbation):
    """Dropout that remembers the Avatars it drew."""

    def __init__(self, drop_rate=RATE):
        super().__init__(drop_rate, fill='zero')
        self.drawn = []

    def forward(self, feature, generator=None):
        self.drawn.append(super().forward(feature, generator))
        return self.drawn[-1]


@MODELS.register_module()
class RandomShift(Perturbation):
    """A perturbation of a user, without a closed form."""

    def forward(self, feature, generator=None):
        return feature + torch.empty_like(feature).uniform_(-1, 1, generator=generator)


@MODELS.register_module()
class CosineGap(nn.Module):
    """A criterion of a user."""

    def forward(self, prediction, target):
        return 1 - torch.cosine_similarity(prediction.flatten(1), target.flatten(1)).mean()


@MODELS.register_module()
class AbsoluteDivergence(ChannelWiseDivergence):
    """A user's criterion with a ``forward`` of its own."""

    def forward(self, preds_S, preds_T):
        return (preds_S - preds_T).abs().mean()


@MODELS.register_module()
class CappedMSELoss(FeatureMSELoss):
    """A user's criterion that builds on the ``forward`` of ours."""

    def forward(self, preds_S, preds_T):
        return super().forward(preds_S.clamp(max=1), preds_T)


RECORDING = dict(type='RecordingDropout')


def make_maps(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    scale = torch.logspace(-1, 1, shape[1]).view(1, -1, *[1] * (len(shape) - 2))
    student, teacher = (scale * torch.randn(shape, generator=generator) for _ in range(2))
    return student.requires_grad_(), teacher


@pytest.fixture
def maps():
    return make_maps(2, 4, 6, 5)


def weight_formula(teacher, rescale):
    """The factor of DESIGN section 2: 1 / sigma, and what gives w T the RMS of T, or 1."""
    variance = RATE / (1 - RATE) * teacher.square().mean((0, 2, 3), keepdim=True)
    weight = 1 / variance.sqrt()
    rms = teacher.square().mean().sqrt() if rescale == 'teacher' else 1
    return weight * rms / (teacher * weight).square().mean().sqrt() if rescale else weight


def value_and_gradient(loss, student):
    return loss.detach(), torch.autograd.grad(loss, student)[0]


@pytest.mark.parametrize('criterion', [
    CWD, MSE, L1, dict(type='CosineGap'), dict(type='AbsoluteDivergence'),
    dict(type='CappedMSELoss')], ids=lambda cfg: cfg['type'])
@pytest.mark.parametrize('num_avatars', [1, 4])
@pytest.mark.parametrize('rescale', ['teacher', 'unit', None])
def test_loss_is_the_formula(maps, criterion, num_avatars, rescale):
    student, teacher = maps
    loss = UncertaintyFeatureLoss(
        criterion, RECORDING, dict(type='AvatarVariance', rescale=rescale), num_avatars,
        loss_weight=7.5)
    actual = value_and_gradient(loss(student, teacher), student)
    avatars = loss.perturbation.drawn
    assert len(avatars) == num_avatars
    base, weight = MODELS.build(criterion), weight_formula(teacher, rescale)
    expected = 7.5 / num_avatars * sum(base(weight * student, weight * a) for a in avatars)
    torch.testing.assert_close(actual, value_and_gradient(expected, student))


@pytest.mark.parametrize('num_avatars', [1, 4])
@pytest.mark.parametrize('perturb', [True, False])
@pytest.mark.parametrize('uncertainty', [None, dict(type='AvatarVariance')], ids=['', 'sigma'])
def test_ablation_switches(maps, uncertainty, perturb, num_avatars):
    student, teacher = maps
    loss = UncertaintyFeatureLoss(CWD, RECORDING, uncertainty, num_avatars, perturb)
    actual = loss(student, teacher)
    targets = loss.perturbation.drawn if perturb else [teacher]
    weight = 1 if uncertainty is None else weight_formula(teacher, rescale='teacher')
    base = MODELS.build(CWD)
    expected = sum(base(weight * student, weight * target) for target in targets) / len(targets)
    torch.testing.assert_close(actual, expected)
    assert bool(loss.perturbation.drawn) == perturb


@pytest.mark.parametrize('criterion', [CWD, MSE, L1], ids=lambda cfg: cfg['type'])
@pytest.mark.parametrize('uncertainty', [
    None, dict(type='AvatarVariance'), dict(type='AvatarVariance', estimator='sampled'),
    dict(type='BatchStatistics')], ids=lambda cfg: str(cfg))
def test_mean_of_the_avatars_as_the_target(maps, criterion, uncertainty):
    """The loss is that of one target, the mean of the K Avatars."""
    student, teacher = maps
    loss = UncertaintyFeatureLoss(criterion, RECORDING, uncertainty, 4, target='mean')
    actual = value_and_gradient(loss(student, teacher), student)
    mean = torch.stack(loss.perturbation.drawn[-4:]).mean(0)
    base, scale = MODELS.build(criterion), lambda feature: feature
    if loss.uncertainty is not None:
        scale = loss.uncertainty[0].scale
    torch.testing.assert_close(
        actual, value_and_gradient(base(scale(student), scale(mean)), student))


@pytest.mark.parametrize('criterion', [
    CWD, MSE, L1, dict(type='PKDLoss'), dict(type='KLDivergence'), dict(type='DISTLoss'),
    dict(type='EntropyWeightedKDLoss')],
    ids=lambda cfg: cfg['type'])
@given(seed=st.integers(0, 10**6), scale=st.floats(1e-2, 1e2), size=st.integers(1, 6))
@settings(max_examples=10, deadline=None, derandomize=True)
def test_equal_sigmas_and_no_avatars_are_the_base_criterion_exactly(criterion, seed, scale, size):
    student, teacher = make_maps(2, 3, size + 1, size, seed=seed)
    student = (scale * student).detach().requires_grad_()
    # Its noise has one deviation for all channels.
    loss = UncertaintyFeatureLoss(
        criterion, dict(type='GaussianNoisePerturbation', relative=False), perturb=False)
    actual = value_and_gradient(loss(student, scale * teacher), student)
    expected = value_and_gradient(MODELS.build(criterion)(student, scale * teacher), student)
    assert actual[0].equal(expected[0]) and actual[1].equal(expected[1])


def test_perturbation_none_is_the_bare_criterion(maps):
    loss = UncertaintyFeatureLoss(CWD, perturbation=None, uncertainty=None)
    assert loss(*maps).equal(MODELS.build(CWD)(*maps))
    assert loss.sigma == []


def test_released_code_standardises_student_and_avatar(maps):
    student, teacher = maps
    loss = UncertaintyFeatureLoss(MSE, RECORDING, dict(type='BatchStatistics', eps=1e-5))
    actual = loss(student, teacher)

    def standardise(feature):
        variance, mean = torch.var_mean(feature, (0, 2, 3), correction=0, keepdim=True)
        return (feature - mean) / (variance + 1e-5).sqrt()

    expected = (standardise(student) - standardise(loss.perturbation.drawn[0])).square().mean()
    torch.testing.assert_close(actual, expected)


def test_sampled_sigma_comes_from_the_very_avatars_compared(maps):
    student, teacher = maps
    loss = UncertaintyFeatureLoss(
        MSE, RECORDING, dict(type='AvatarVariance', estimator='sampled', rescale=None), 3)
    actual = loss(student, teacher)
    # Drawn once for sigma, and once more for the criterion.
    avatars, again = torch.stack(loss.perturbation.drawn).split(3)
    assert again.equal(avatars)
    variance = (avatars - teacher).square().mean((0, 1, 3, 4)).view(1, -1, 1, 1)
    torch.testing.assert_close(actual, ((student - avatars).square() / variance).mean())
    torch.testing.assert_close(loss.sigma[0], variance.sqrt())


def test_perturbation_without_closed_form(maps):
    with pytest.raises(ConfigError, match=r"^uncertainty\.estimator='closed_form': .*'sampled'"):
        UncertaintyFeatureLoss(MSE, dict(type='RandomShift'))(*maps)
    loss = UncertaintyFeatureLoss(MSE, dict(type='RandomShift'),
                                  dict(type='AvatarVariance', estimator='sampled'), 50)
    loss(*maps)
    # Var of U(-1, 1) is 1/3, that of its square 4/45; 50 Avatars of 2 * 6 * 5 elements a channel.
    standard_error = (4 / 45 / (50 * 60))**0.5
    assert (loss.sigma[0].square() - 1 / 3).abs().max() <= 5 * standard_error


@pytest.mark.parametrize('criterion', [CWD, MSE, dict(type='KLDivergence'), L1],
                         ids=lambda cfg: cfg['type'])
@pytest.mark.parametrize('options', [
    {}, dict(target='mean'), dict(uncertainty=dict(type='AvatarVariance', estimator='sampled'))],
    ids=['', 'mean', 'sampled'])
def test_memory_does_not_grow_with_the_number_of_avatars(criterion, options):
    student, teacher = make_maps(2, 8, 32, 32)
    base = MODELS.build(criterion)
    ours, naive = {}, {}
    for number in 2, 8:
        loss = UncertaintyFeatureLoss(criterion, num_avatars=number, **options)
        with SavedForBackward() as kept:
            value = loss(student, teacher)
        ours[number] = kept.bytes
        with SavedForBackward() as kept:
            mean = sum(base(student, teacher + k) for k in range(number)) / number
        naive[number] = kept.bytes
        del value, mean
    assert ours[8] - ours[2] < 1024  # a few scalars
    assert naive[8] - naive[2] >= 6 * student.nbytes


def test_list_of_levels_is_the_sum_over_levels():
    levels = [make_maps(2, 4, 6, 5), make_maps(2, 8, 3, 3, seed=1), make_maps(2, 4, 1, 1, seed=2)]
    students, teachers = zip(*levels)
    loss = UncertaintyFeatureLoss(CWD, RECORDING)
    actual = loss(students, list(teachers))
    avatars = loss.perturbation.drawn
    expected = 0
    for (student, teacher), avatar in zip(levels, avatars):
        weight = weight_formula(teacher, rescale='teacher')
        expected += MODELS.build(CWD)(weight * student, weight * avatar)
    torch.testing.assert_close(actual, expected)
    assert [sigma.shape for sigma in loss.sigma] == [(1, 4, 1, 1), (1, 8, 1, 1), (1, 4, 1, 1)]


def test_more_levels_may_come_later():
    (student, teacher), (student_2, teacher_2) = make_maps(2, 4, 6, 5), make_maps(2, 8, 3, 3)
    loss = UncertaintyFeatureLoss(CWD)
    loss(student, teacher)
    loss([student, student_2], [teacher, teacher_2])
    for sigma, feature in zip(loss.sigma, (teacher, teacher_2), strict=True):
        torch.testing.assert_close(
            sigma.flatten(), (0.1 / 0.9 * feature.var((2, 3), correction=0).mean(0)).sqrt())


@pytest.mark.parametrize('perturbation', [
    dict(type='DropoutPerturbation'), dict(type='ChannelDropoutPerturbation'),
    dict(type='DropBlockPerturbation'), dict(type='GaussianNoisePerturbation')
], ids=lambda cfg: cfg['type'])
@pytest.mark.parametrize('num_avatars', [1, 3])
def test_vectors_are_maps_of_one_position(perturbation, num_avatars):
    student, teacher = make_maps(6, 8)
    of_vectors, of_maps = (
        UncertaintyFeatureLoss(MSE, perturbation, num_avatars=num_avatars) for _ in range(2))
    value = of_vectors(student, teacher)
    assert value.equal(of_maps(student[..., None, None], teacher[..., None, None]))
    assert value > 0
    assert of_vectors.sigma[0].equal(of_maps.sigma[0])


def test_sigma_is_per_level_and_that_of_the_first_batch(maps):
    loss = UncertaintyFeatureLoss(CWD, RECORDING)
    loss(*maps)
    sigma, = loss.sigma
    torch.testing.assert_close(sigma, 1 / weight_formula(maps[1], rescale=None))


def test_stream_of_avatars_is_our_own(maps):
    loss = UncertaintyFeatureLoss(MSE, uncertainty=None)
    global_state = torch.get_rng_state()
    first, second = loss(*maps), loss(*maps)
    loss.reseed(0)
    again = [loss(*maps), loss(*maps)]
    loss.reseed(1)
    other = loss(*maps)
    assert [first, second] == again
    assert len({value.item() for value in (first, second, other)}) == 3
    assert torch.get_rng_state().equal(global_state)


def test_each_level_and_each_avatar_is_a_fresh_draw():
    student, teacher = torch.zeros(1, 4, 8, 8), torch.ones(1, 4, 8, 8)
    loss = UncertaintyFeatureLoss(MSE, RECORDING, num_avatars=3)
    for _ in range(2):
        loss([student, student], [teacher, teacher])
    drawn = loss.perturbation.drawn
    assert len({tuple(avatar.flatten().tolist()) for avatar in drawn}) == 2 * 2 * 3


@pytest.mark.parametrize('dtype', [FLOAT16, torch.bfloat16])
@pytest.mark.parametrize('num_avatars', [1, 3])
@pytest.mark.parametrize('criterion', [CWD, L1], ids=lambda cfg: cfg['type'])
def test_arithmetic_is_float32_under_autocast(maps, criterion, num_avatars, dtype):
    student, teacher = (feature.detach().to(dtype) for feature in maps)
    student.requires_grad_()
    reference = student.detach().float().requires_grad_()
    expected = UncertaintyFeatureLoss(criterion, num_avatars=num_avatars)(
        reference, teacher.float())
    expected.backward()
    with torch.autocast('cpu', dtype):
        loss = UncertaintyFeatureLoss(criterion, num_avatars=num_avatars)(student, teacher)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.equal(expected)
    assert student.grad.equal(reference.grad.to(dtype))


def test_teacher_gets_no_gradient(maps):
    student, teacher = maps
    teacher.requires_grad_()
    for num_avatars in 1, 3:
        UncertaintyFeatureLoss(CWD, num_avatars=num_avatars)(student, teacher).backward()
    assert teacher.grad is None
    assert student.grad.abs().sum() > 0


@pytest.mark.parametrize('criterion', [CWD, MSE], ids=lambda cfg: cfg['type'])
def test_trains_a_student_in_a_plain_loop(criterion):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(8, 3, 8, 8, generator=generator)
    mixing = torch.randn(4, 3, 1, 1, generator=generator)
    teacher = torch.conv2d(images, mixing)
    student = nn.Conv2d(3, 4, 1)
    nn.init.zeros_(student.weight)
    nn.init.zeros_(student.bias)
    loss = UncertaintyFeatureLoss(criterion)
    optimizer = torch.optim.Adam(student.parameters(), lr=0.05)
    base = MODELS.build(criterion)
    before = base(student(images), teacher).item()
    for _ in range(150):
        optimizer.zero_grad()
        loss(student(images), teacher).backward()
        optimizer.step()
    assert base(student(images), teacher).item() < 0.1 * before


def test_state_dict_with_levels_resumes_in_a_fresh_loss():
    levels = [make_maps(2, 4, 6, 5), make_maps(2, 8, 3, 3, seed=1)]
    students, teachers = zip(*levels)
    loss, resumed = UncertaintyFeatureLoss(CWD), UncertaintyFeatureLoss(CWD)
    for _ in range(2):
        loss(students, teachers)
        teachers = [2 * teacher for teacher in teachers]
    resumed.load_state_dict(copy.deepcopy(loss.state_dict()))
    assert len(resumed.sigma) == 2
    for module in loss, resumed:
        module.reseed(5)
    assert resumed(students, teachers).equal(loss(students, teachers))
    assert all(a.equal(b) for a, b in zip(resumed.sigma, loss.sigma))


class PlainModel(nn.Module):
    """A user's own: the loss stands before a part with buffers, and finds its levels late."""

    def __init__(self):
        super().__init__()
        self.loss = UncertaintyFeatureLoss(CWD)
        self.student = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))

    def forward(self, images, teacher):
        maps = self.student(images)
        return self.loss([maps, maps[..., :3]], [teacher, teacher[..., :3]])


@pytest.mark.parametrize('update_buffers', [True, False])
@pytest.mark.parametrize('begin', [0, 2])
def test_average_of_a_plain_training(update_buffers, begin):
    """sigma has no size until the first batch, which an average of the model must not notice."""
    torch.manual_seed(0)
    model = PlainModel()
    average = None
    for step in range(4):
        if step == begin:
            average = ExponentialMovingAverage(model, update_buffers=update_buffers)
        model(torch.randn(2, 3, 8, 8), torch.randn(2, 4, 8, 8)).backward()
        if average:
            average.update_parameters(model)
    norm, source = average.module.student[1], model.student[1]
    assert norm.num_batches_tracked == source.num_batches_tracked or update_buffers
    assert norm.running_var.equal(source.running_var) != update_buffers
    assert not norm.running_var.equal(torch.ones(4))
    # The checkpoints hold sigma under the usual names.
    state = model.state_dict()
    for level in 0, 1:
        assert state[f'loss.uncertainty.{level}.running_variance'].shape == (4, )
        assert state[f'loss.uncertainty.{level}.running_weight'] > 0
    resumed = PlainModel()
    resumed.load_state_dict(state)
    assert all(a.equal(b) for a, b in zip(resumed.loss.sigma, model.loss.sigma, strict=True))


def test_all_problems_of_a_config_are_reported_together():
    with pytest.raises(ConfigError) as caught:
        UncertaintyFeatureLoss(
            criterion=dict(type='ChannelWiseDivergense'),
            perturbation=dict(type='DropoutPerturbation', drop_rate=1.0),
            uncertainty=dict(type='AvatarVariance', moment=0.1),
            num_avatars=0,
            target='means',
            loss_weight='7.5')
    (criterion, perturbation, uncertainty, num_avatars, target,
     loss_weight) = caught.value.problems
    assert criterion.startswith("criterion.type='ChannelWiseDivergense': not registered")
    assert "did you mean 'ChannelWiseDivergence'" in criterion
    assert perturbation.startswith('perturbation.drop_rate=1.0: ')
    assert uncertainty.startswith('uncertainty.moment=0.1: AvatarVariance has no such argument')
    assert "'momentum'" in uncertainty
    assert num_avatars.startswith('num_avatars=0: ')
    assert target.startswith("target='means': did you mean 'mean'")
    assert loss_weight.startswith("loss_weight='7.5': ")
    assert all(problem in str(caught.value) for problem in caught.value.problems)


def test_a_component_in_the_wrong_place_is_named():
    with pytest.raises(ConfigError) as caught:
        UncertaintyFeatureLoss(criterion=dict(type='DropoutPerturbation'),
                               perturbation=dict(type='PKDLoss'),
                               uncertainty=dict(type='GaussianNoisePerturbation'))
    assert caught.value.problems == [
        "criterion.type='DropoutPerturbation': is no loss; give e.g. ChannelWiseDivergence",
        "perturbation.type='PKDLoss': is no perturbation; give e.g. DropoutPerturbation",
        "uncertainty.type='GaussianNoisePerturbation': is no uncertainty; give e.g. "
        'AvatarVariance']
    with pytest.raises(ConfigError, match=r"^criterion\.type='AvatarVariance': is no loss"):
        UncertaintyFeatureLoss(dict(type='AvatarVariance'))


@pytest.mark.parametrize('number', [0, -1, 1.5, '2', None])
def test_bad_number_of_avatars_is_named(number):
    with pytest.raises(ConfigError, match=r'^num_avatars=.*integer >= 1'):
        UncertaintyFeatureLoss(CWD, num_avatars=number)


def test_sigma_needs_a_perturbation():
    with pytest.raises(ConfigError, match=r'^perturbation=None: .*perturb=False'):
        UncertaintyFeatureLoss(CWD, perturbation=None)


@pytest.mark.parametrize('student, teacher, message', [
    ([torch.ones(1, 2, 3, 3)], [torch.ones(1, 2, 3, 3)] * 2, '1 student maps, but 2 teacher maps'),
    (torch.ones(1, 2, 3, 3), torch.ones(1, 2, 3, 1), r'\(1, 2, 3, 3\).*\(1, 2, 3, 1\)'),
])
def test_unlike_maps_are_an_error(student, teacher, message):
    with pytest.raises(ValueError, match=message):
        UncertaintyFeatureLoss(MSE)(student, teacher)
