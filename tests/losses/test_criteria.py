"""The two base criteria, against independent formulas in float64."""
from math import log

import numpy as np
import pytest
import torch

from mmakd.losses import ChannelWiseDivergence, FeatureMSELoss
from mmakd.utils.errors import ConfigError


def cwd_formula(student, teacher, tau=1.0):
    """tau^2 / (N C) sum KL(softmax(T / tau) || softmax(S / tau)), arXiv 2011.13256, Eq. 4."""

    def softmax(feature):
        odds = np.exp(feature.reshape(*feature.shape[:2], -1) / tau)
        return odds / odds.sum(-1, keepdims=True)

    p, q = softmax(teacher), softmax(student)
    return tau**2 * (p * np.log(p / q)).sum() / (p.shape[0] * p.shape[1])


def mse_formula(student, teacher):
    return np.mean((student - teacher)**2)


CASES = {
    'cwd': (ChannelWiseDivergence(), cwd_formula),
    'cwd_tau': (ChannelWiseDivergence(tau=3), lambda s, t: cwd_formula(s, t, tau=3)),
    'cwd_weight': (ChannelWiseDivergence(loss_weight=7.5), lambda s, t: 7.5 * cwd_formula(s, t)),
    'mse': (FeatureMSELoss(), mse_formula),
    'mse_weight': (FeatureMSELoss(loss_weight=0.5), lambda s, t: 0.5 * mse_formula(s, t)),
}
each_case = pytest.mark.parametrize('criterion, formula', CASES.values(), ids=CASES)
each_criterion = pytest.mark.parametrize('criterion', [case[0] for case in CASES.values()],
                                         ids=CASES)


@pytest.fixture
def maps():
    generator = torch.Generator().manual_seed(0)
    return [2 * torch.randn(2, 3, 4, 5, generator=generator) for _ in range(2)]


def test_cwd_by_hand():
    """Two positions: softmax (1/2, 1/2) of the student, (3/4, 1/4) of the teacher."""
    student, teacher = torch.zeros(1, 1, 1, 2), torch.tensor([[[[log(3), 0.]]]])
    divergence = 0.75 * log(0.75 / 0.5) + 0.25 * log(0.25 / 0.5)  # 0.130812
    assert ChannelWiseDivergence()(student, teacher).item() == pytest.approx(divergence)
    # tau = 2 on twice the logits: the same distributions, times tau^2.
    loss = ChannelWiseDivergence(tau=2, loss_weight=3)(student, 2 * teacher)
    assert loss.item() == pytest.approx(3 * 4 * divergence)
    # Averaged over images and channels, not summed.
    loss = ChannelWiseDivergence()(student.expand(4, 5, 1, 2), teacher.expand(4, 5, 1, 2))
    assert loss.item() == pytest.approx(divergence)


def test_mse_by_hand():
    student, teacher = torch.tensor([[[[1., 2.]]]]), torch.tensor([[[[4., 0.]]]])
    assert FeatureMSELoss(loss_weight=2)(student, teacher).item() == 2 * (9 + 4) / 2


@each_case
def test_value(criterion, formula, maps):
    expected = formula(*(feature.double().numpy() for feature in maps))
    assert criterion(*maps).item() == pytest.approx(expected, rel=1e-5)


@each_case
def test_gradient_by_finite_differences(criterion, formula, maps):
    student, teacher = maps
    student.requires_grad_()
    criterion(student, teacher).backward()
    student, gradient, teacher = (
        x.detach().double().numpy() for x in (student, student.grad, teacher))
    for position in np.ndindex(student.shape):
        step = np.zeros_like(student)
        step[position] = 1e-4
        difference = formula(student + step, teacher) - formula(student - step, teacher)
        assert gradient[position] == pytest.approx(difference / 2e-4, rel=1e-3, abs=1e-7)


def test_cwd_gradient_is_the_difference_of_the_soft_maps(maps):
    student, teacher = maps
    student.requires_grad_()
    ChannelWiseDivergence(tau=2)(student, teacher).backward()
    q, p = ((feature.detach().flatten(2) / 2).softmax(2) for feature in maps)
    torch.testing.assert_close(student.grad.flatten(2), 2 * (q - p) / (2 * 3))


@each_criterion
def test_equal_maps_give_zero(criterion, maps):
    student = maps[0].requires_grad_()
    loss = criterion(student, maps[0].detach())
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    torch.testing.assert_close(student.grad, torch.zeros_like(student))


def test_cwd_does_not_see_a_shift_of_a_channel(maps):
    student, teacher = maps
    shift = torch.arange(6.).view(2, 3, 1, 1)
    criterion = ChannelWiseDivergence()
    torch.testing.assert_close(criterion(student + shift, teacher - shift),
                               criterion(student, teacher))


@pytest.mark.parametrize('scale', [1e4, 1e-6])
@each_criterion
def test_extreme_features_stay_finite(criterion, scale, maps):
    student, teacher = (scale * feature for feature in maps)
    student.requires_grad_()
    loss = criterion(student, teacher)
    loss.backward()
    assert loss.isfinite() and student.grad.isfinite().all()


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('autocast', [True, False], ids=['autocast', 'plain'])
@each_criterion
def test_arithmetic_is_float32(criterion, autocast, dtype, maps):
    student, teacher = (feature.to(dtype) for feature in maps)
    expected = criterion(student.float(), teacher.float())
    with torch.autocast('cpu', torch.bfloat16, enabled=autocast):
        loss = criterion(student, teacher)
    assert loss.dtype == torch.float32
    assert loss.equal(expected)


@pytest.mark.parametrize('number', [1, 3, 8])
@each_criterion
def test_mean_target_is_the_mean_over_the_targets(criterion, number, maps):
    """A Bregman divergence from several targets is that from their mean, and a gap."""
    student, teacher = maps[0].requires_grad_(), maps[1]
    generator = torch.Generator().manual_seed(1)
    avatars = [teacher + torch.randn(teacher.shape, generator=generator) for _ in range(number)]
    mean = sum(criterion(student, avatar) for avatar in avatars) / number
    expected, = torch.autograd.grad(mean, student)
    targets = torch.stack([criterion.target(avatar) for avatar in avatars])
    gap = torch.stack([criterion.potential(target) for target in targets]).mean()
    divergence = criterion.divergence(student, targets.mean(0))
    torch.testing.assert_close(divergence + gap - criterion.potential(targets.mean(0)), mean)
    gradient, = torch.autograd.grad(divergence, student)
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize('tau', [0, -1, float('nan'), '1', None])
def test_bad_temperature_is_named(tau):
    with pytest.raises(ConfigError, match=r'^tau=.*> 0'):
        ChannelWiseDivergence(tau=tau)
