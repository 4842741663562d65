import copy
import re

import pytest
import torch
from mmengine.registry import MODELS

from mmakd.avatars import (
    AvatarVariance,
    BatchStatistics,
    DropoutPerturbation,
    GaussianNoisePerturbation,
    Perturbation,
)
from mmakd.utils.build import build
from mmakd.utils.errors import ConfigError
from tests.avatars.sigma import update

RATE = 0.3


@pytest.fixture
def dropout():
    return DropoutPerturbation(RATE, fill='zero')


class RandomSign(Perturbation):
    """Moves every element up or down by one; says nothing of its variance, which is 1."""

    def forward(self, feature, generator=None):
        sign = torch.empty_like(feature).bernoulli_(0.5, generator=generator)
        return feature + 2 * sign - 1


def make_batches(number, channels=4):
    """Batches of unlike size and scale; channels of unlike scale."""
    generator = torch.Generator().manual_seed(0)
    scale = torch.logspace(-1, 1, channels).view(1, -1, 1, 1)
    return [(i + 1) * scale * torch.randn(2, channels, 5 + i, 7, generator=generator)
            for i in range(number)]


def formula(feature):
    """sigma^2 = p / (1 - p) E[T^2] for each channel, in float64."""
    return RATE / (1 - RATE) * feature.double().square().mean((0, 2, 3))


def draw(perturbation, feature, number):
    generator = torch.Generator().manual_seed(0)
    return [perturbation(feature, generator) for _ in range(number)]


def assert_sigma(uncertainty, variance):
    expected = variance.sqrt().float().view(1, -1, 1, 1)
    torch.testing.assert_close(uncertainty.sigma, expected)


def test_sigma_after_the_first_batch_is_that_batchs(dropout):
    uncertainty, (feature, ) = AvatarVariance(), make_batches(1)
    update(uncertainty, feature, dropout)
    assert_sigma(uncertainty, formula(feature))


@pytest.mark.parametrize('momentum', [0.1, 0.5, 1])
def test_running_average_is_bias_corrected(dropout, momentum):
    uncertainty, batches = AvatarVariance(momentum), make_batches(4)
    for feature in batches:
        update(uncertainty, feature, dropout)
    weights = [(1 - momentum)**age for age in (3, 2, 1, 0)]
    weighted = sum(w * formula(feature) for w, feature in zip(weights, batches))
    assert_sigma(uncertainty, weighted / sum(weights))


def test_sigma_of_noise_is_its_deviation():
    uncertainty, (feature, ) = AvatarVariance(eps=0), make_batches(1)
    update(uncertainty, feature, GaussianNoisePerturbation(0.4, relative=False))
    assert_sigma(uncertainty, torch.full((4, ), 0.16))


def test_eval_mode_uses_sigma_and_does_not_update_it(dropout):
    uncertainty, (first, second) = AvatarVariance(rescale=None), make_batches(2)
    update(uncertainty, first, dropout)
    sigma = uncertainty.sigma.clone()
    divide = update(uncertainty.eval(), second, dropout)
    assert uncertainty.sigma.equal(sigma)
    torch.testing.assert_close(divide(second), second / sigma)


def test_eval_mode_before_any_training_goes_by_the_batch(dropout):
    uncertainty, (first, second) = AvatarVariance(rescale=None).eval(), make_batches(2)
    for feature in first, second:
        expected = feature / formula(feature).sqrt().float().view(1, -1, 1, 1)
        torch.testing.assert_close(update(uncertainty, feature, dropout)(feature), expected)
    update(uncertainty.train(), second, dropout)
    assert_sigma(uncertainty, formula(second))


@pytest.mark.parametrize('rescale, new', [(True, "'unit' (formerly True)"),
                                          (False, 'None (formerly False)')])
def test_a_former_setting_names_its_new_value(rescale, new):
    with pytest.raises(ConfigError, match=re.escape(new)):
        build(dict(type='AvatarVariance', rescale=rescale))


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
@pytest.mark.parametrize('estimator', ['closed_form', 'sampled'])
@pytest.mark.parametrize('begin', [0, 1])
def test_a_batch_that_is_not_finite_leaves_sigma_as_it_is(dropout, value, estimator, begin):
    uncertainty, batches = AvatarVariance(estimator=estimator), make_batches(3)
    expected = AvatarVariance(estimator=estimator)
    for number, feature in enumerate(batches):
        avatars = draw(dropout, feature, 2)
        update(expected, feature, dropout, avatars)
        if number == begin:
            wrong = feature.clone()
            wrong[0, 1, 2, 3] = value
            update(uncertainty, wrong, dropout, draw(dropout, wrong, 2))
        update(uncertainty, feature, dropout, avatars)
    assert uncertainty.sigma.equal(expected.sigma) and expected.sigma.isfinite().all()
    assert uncertainty.running_weight == expected.running_weight


def test_channels_that_are_known_make_buffers_of_their_size(dropout):
    known, found, feature = AvatarVariance(channels=4), AvatarVariance(), make_batches(1)[0]
    assert {name: tuple(value.shape) for name, value in known.named_buffers()} == dict(
        running_variance=(4, ), running_weight=())
    assert known.sigma.isnan().all() and known.sigma.shape == (1, 4, 1, 1)
    assert not list(found.buffers()) and not found.state_dict()
    assert update(known, feature, dropout)(feature).equal(update(found, feature, dropout)(feature))
    assert list(known.state_dict()) == list(found.state_dict())
    for resumed in AvatarVariance(channels=4), AvatarVariance():
        resumed.load_state_dict(found.state_dict())
        assert resumed.sigma.equal(known.sigma)


@pytest.mark.parametrize('cfg', [
    dict(type='DropoutPerturbation', drop_rate=RATE),
    dict(type='DropBlockPerturbation', drop_rate=RATE, block_size=2),
    dict(type='GaussianNoisePerturbation', std=0.5),
], ids=lambda cfg: cfg['type'])
def test_sampled_estimate_comes_to_the_closed_form(cfg):
    perturbation = MODELS.build(cfg)
    feature = make_batches(1)[0]
    avatars = draw(perturbation, feature, 400)
    closed_form, sampled = AvatarVariance(), AvatarVariance(estimator='sampled')
    update(closed_form, feature, perturbation)
    update(sampled, feature, perturbation, avatars)
    # One estimate of sigma^2 an Avatar; these are independent.
    estimates = torch.stack([(a - feature).square().mean((0, 2, 3)) for a in avatars])
    standard_error = (estimates.std(0) / len(avatars)**0.5).view(1, -1, 1, 1)
    gap = (sampled.sigma.square() - closed_form.sigma.square()).abs()
    assert (gap <= 5 * standard_error).all()
    assert (standard_error < 0.02 * closed_form.sigma.square()).all()  # else it shows nothing


def test_sampled_estimate_is_the_mean_square_over_the_avatars_given(dropout):
    uncertainty, (feature, ) = AvatarVariance(estimator='sampled'), make_batches(1)
    avatars = draw(dropout, feature, 3)
    update(uncertainty, feature, dropout, avatars)
    spread = torch.stack(avatars).double().sub(feature).square().mean((0, 1, 3, 4))
    assert_sigma(uncertainty, spread)


def test_perturbation_without_closed_form_needs_the_sampled_estimator():
    feature, perturbation = make_batches(1)[0], RandomSign()
    with pytest.raises(ConfigError, match=r"^uncertainty\.estimator='closed_form': .*'sampled'"):
        update(AvatarVariance(), feature, perturbation)
    uncertainty = AvatarVariance(estimator='sampled')
    update(uncertainty, feature, perturbation, draw(perturbation, feature, 2))
    assert_sigma(uncertainty, torch.ones(4))


@pytest.mark.parametrize('shape', [(), (4, 1, 1), (1, 1, 1, 1), (2, 1, 3, 3)], ids=str)
def test_closed_form_of_any_shape_that_broadcasts(shape):

    class Stated(RandomSign):

        def variance(self, feature):
            return torch.full(shape, 0.25)

    uncertainty = AvatarVariance(eps=0)
    update(uncertainty, torch.randn(2, 4, 3, 3), Stated())
    assert_sigma(uncertainty, torch.full((4, ), 0.25))


@pytest.mark.parametrize('rescale', ['teacher', 'unit'])
def test_rms_of_the_rescaled_teacher_map_in_every_batch(dropout, rescale):
    uncertainty = AvatarVariance(momentum=0.5, rescale=rescale)
    for feature in make_batches(4):
        normalized = update(uncertainty, feature, dropout)(feature)
        wanted = feature.square().mean() if rescale == 'teacher' else torch.tensor(1.)
        torch.testing.assert_close(normalized.square().mean(), wanted)
        # One scalar: the channels keep their weights 1 / sigma against each other.
        ratio = normalized / (feature / uncertainty.sigma)
        torch.testing.assert_close(ratio, ratio.mean().expand_as(ratio))


def test_rescaled_map_does_not_depend_on_the_drop_rate():
    feature = make_batches(1)[0]
    weak, strong = (update(AvatarVariance(eps=1e-12), feature, DropoutPerturbation(rate))(feature)
                    for rate in (0.05, 0.6))
    torch.testing.assert_close(weak, strong)


def test_equal_sigmas_leave_the_map_exactly_as_it_is():
    uncertainty = AvatarVariance()
    for feature in make_batches(3):
        divide = update(uncertainty, feature, GaussianNoisePerturbation(0.4, relative=False))
        assert divide(feature).equal(feature)


def test_without_rescale_maps_are_divided_by_sigma(dropout):
    uncertainty = AvatarVariance(rescale=None)
    for feature in make_batches(3):
        student = torch.randn_like(feature)
        divided = update(uncertainty, feature, dropout)(student)
        torch.testing.assert_close(divided, student / uncertainty.sigma)


CONSTANT_CHANNEL = torch.randn(2, 4, 5, 5, generator=torch.Generator().manual_seed(0))
CONSTANT_CHANNEL[:, 1], CONSTANT_CHANNEL[:, 2] = 3., 0.


@pytest.mark.parametrize('feature', [
    torch.zeros(2, 4, 5, 5), CONSTANT_CHANNEL, torch.randn(2, 4, 1, 1), torch.randn(1, 4, 5, 5),
    1e4 * torch.randn(2, 4, 5, 5), 1e-6 * torch.randn(2, 4, 5, 5), torch.randn(1, 1, 1, 1)
], ids=['zero', 'constant_channel', 'one_pixel', 'batch_of_one', 'large', 'tiny', 'one_value'])
@pytest.mark.parametrize('rescale', ['teacher', 'unit', None])
@pytest.mark.parametrize('estimator', ['closed_form', 'sampled'])
def test_degenerate_maps_stay_finite(dropout, feature, rescale, estimator):
    uncertainty = AvatarVariance(estimator=estimator, rescale=rescale)
    student = torch.ones_like(feature).requires_grad_()
    for _ in range(2):
        divide = update(uncertainty, feature, dropout, draw(dropout, feature, 2))
    difference = divide(student) - divide(feature)
    difference.square().mean().backward()
    assert difference.isfinite().all()
    assert student.grad.isfinite().all()
    assert uncertainty.sigma.isfinite().all()


def test_sigma_carries_no_gradient(dropout):
    feature = make_batches(1)[0].requires_grad_()
    student = torch.randn_like(feature).requires_grad_()
    divide = update(AvatarVariance(), feature, dropout)
    divide(student).sum().backward()
    assert feature.grad is None
    # The division is linear with a constant factor.
    torch.testing.assert_close(student.grad, divide(torch.ones_like(student)))


def test_state_dict_resumes_in_a_fresh_module(dropout):
    first, second, third = make_batches(3)
    uncertainty, resumed = AvatarVariance(), AvatarVariance()
    update(uncertainty, first, dropout)
    update(uncertainty, second, dropout)
    resumed.load_state_dict(copy.deepcopy(uncertainty.state_dict()))
    assert resumed.sigma.equal(uncertainty.sigma)
    assert update(resumed, third, dropout)(third).equal(update(uncertainty, third, dropout)(third))
    assert resumed.sigma.equal(uncertainty.sigma)


def test_state_dict_before_the_first_batch_loads_too(dropout):
    fresh, feature = AvatarVariance(), make_batches(1)[0]
    fresh.load_state_dict(AvatarVariance().state_dict())
    update(fresh, feature, dropout)
    assert_sigma(fresh, formula(feature))


@pytest.mark.parametrize('key, value', [
    ('momentum', 0), ('momentum', 1.5), ('momentum', float('nan')), ('momentum', '0.1'),
    ('estimator', 'sample'), ('estimator', None), ('channels', 0), ('channels', 2.0),
    ('rescale', True), ('rescale', False), ('rescale', 'student')])
def test_bad_setting_is_named(key, value):
    with pytest.raises(ConfigError, match=f'^{key}='):
        AvatarVariance(**{key: value})


class TestBatchStatistics:

    def test_standardises_by_the_maps_own_statistics_with_their_gradient(self):
        feature = make_batches(1)[0].add(2).requires_grad_()
        standardise = update(BatchStatistics(eps=1e-3), torch.zeros_like(feature))
        mean = feature.mean((0, 2, 3), keepdim=True)
        variance = (feature - mean).square().mean((0, 2, 3), keepdim=True)
        expected = (feature - mean) / (variance + 1e-3).sqrt()
        torch.testing.assert_close(standardise(feature), expected)
        # A non-linear function, since the sum of a standardised map has no gradient at all.
        actual_grad, expected_grad = (
            torch.autograd.grad(out.exp().sum(), feature)[0]
            for out in (standardise(feature), expected))
        torch.testing.assert_close(actual_grad, expected_grad, rtol=1e-4, atol=1e-4)

    def test_keeps_no_state(self):
        uncertainty = BatchStatistics()
        update(uncertainty, torch.randn(2, 3, 4, 4))(torch.randn(2, 3, 4, 4))
        assert not uncertainty.state_dict()
        feature = torch.randn(2, 3, 4, 4)
        train, evaluation = (update(uncertainty.train(mode), feature)(feature)
                             for mode in (True, False))
        assert train.equal(evaluation)

    @pytest.mark.parametrize('mean', [0., 1.5])
    def test_correlation_with_an_avatar_is_as_derived(self, mean):
        """rho(S, A) = rho(S, T) sqrt(Var T / (Var T + p / (1 - p) E[T^2])), REFERENCES 1."""
        generator = torch.Generator().manual_seed(0)
        size = (4, 1, 200, 200)
        teacher = mean + torch.randn(size, generator=generator)
        student = teacher + 0.7 * torch.randn(size, generator=generator)
        avatar = DropoutPerturbation(RATE, 'zero')(teacher, generator)
        standardise = update(BatchStatistics(), teacher)
        correlation = (standardise(student) * standardise(avatar)).mean()
        rho = torch.corrcoef(torch.stack([student.flatten(), teacher.flatten()]))[0, 1]
        variance, square = teacher.var(), teacher.square().mean()
        expected = rho * (variance / (variance + RATE / (1 - RATE) * square)).sqrt()
        assert abs(correlation - expected) <= 5 / teacher.numel()**0.5
        assert expected < 0.9 * rho


@pytest.mark.parametrize('scale', [1e4, 1e-2, 1e-6])
def test_scale_of_the_features_does_not_matter(dropout, scale):
    (feature, ) = make_batches(1)
    expected = update(AvatarVariance(), feature, dropout)(feature)
    scaled = update(AvatarVariance(), scale * feature, dropout)(scale * feature)
    torch.testing.assert_close(scaled, scale * expected, rtol=1e-5, atol=0)
    unit = AvatarVariance(rescale='unit')
    torch.testing.assert_close(update(unit, scale * feature, dropout)(scale * feature),
                               expected / feature.square().mean().sqrt(), rtol=1e-5, atol=0)
