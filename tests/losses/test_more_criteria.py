"""PKD, DIST and two kinds of KD against NumPy formulas and hand-computed cases."""
import math

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS

from mmakd.losses import (
    DISTLoss,
    EntropyWeightedKDLoss,
    KLDivergence,
    PKDLoss,
    UncertaintyFeatureLoss,
)
from mmakd.utils.errors import ConfigError

SHAPES = [(2, 5, 4, 3), (1, 3, 6, 6), (4, 7)]


def softmax(logits):
    exponent = np.exp(logits - logits.max(1, keepdims=True))
    return exponent / exponent.sum(1, keepdims=True)


def rows(values):
    """Samples and positions as rows of classes."""
    return np.moveaxis(values, 1, -1).reshape(-1, values.shape[1])


def pkd(student, teacher):
    channels = student.shape[1]
    correlation = [np.corrcoef(np.moveaxis(student, 1, 0).reshape(channels, -1)[c],
                               np.moveaxis(teacher, 1, 0).reshape(channels, -1)[c])[0, 1]
                   for c in range(channels)]
    count = student.size // channels
    # With the unbiased deviation the squared length is count - 1.
    return (1 - np.mean(correlation)) * (count - 1) / count


def dist(student, teacher, tau=1.0):
    student, teacher = softmax(rows(student) / tau), softmax(rows(teacher) / tau)
    between_classes = np.mean([np.corrcoef(s, t)[0, 1] for s, t in zip(student, teacher)])
    between_samples = np.mean([np.corrcoef(s, t)[0, 1] for s, t in zip(student.T, teacher.T)])
    return tau**2 * (2 - between_classes - between_samples)


def kd(student, teacher, tau=1.0):
    student, teacher = softmax(rows(student) / tau), softmax(rows(teacher) / tau)
    return tau**2 * (teacher * np.log(teacher / student)).sum(1).mean()


def kd_of_a_soft_teacher(student, teacher, tau):
    student, teacher = softmax(rows(student)), softmax(rows(teacher) / tau)
    return (teacher * np.log(teacher / student)).sum(1).mean()


def weighted_kd(student, teacher, tau=4.0, gamma=1.0):
    student, teacher = rows(student), rows(teacher)
    sure = softmax(teacher)
    confidence = 1 + (sure * np.log(sure)).sum(1) / np.log(teacher.shape[1])
    weight = np.maximum(confidence, 1e-3)**gamma
    soft, target = softmax(student / tau), softmax(teacher / tau)
    return tau**2 * (weight * (target * np.log(target / soft)).sum(1)).sum() / weight.sum()


def sigmoid_weighted_kd(student, teacher, tau=4.0, gamma=1.0):
    total = weights = 0
    for of_student, of_teacher in zip(rows(student), rows(teacher)):
        best = max(1 / (1 + np.exp(-of_teacher)))
        for s, t in zip(of_student, of_teacher):
            score, p, q = (1 / (1 + np.exp(-x)) for x in (t, t / tau, s / tau))
            entropy = -score * np.log2(score) - (1 - score) * np.log2(1 - score)
            weight = best * max(1 - entropy, 1e-3)**gamma
            total += weight * (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q)))
            weights += weight
    return tau**2 * total / weights


CASES = [(PKDLoss(), pkd), (DISTLoss(), dist), (DISTLoss(tau=4.), lambda s, t: dist(s, t, 4.)),
         (KLDivergence(), kd), (KLDivergence(tau=3.), lambda s, t: kd(s, t, 3.)),
         (EntropyWeightedKDLoss(), weighted_kd),
         (EntropyWeightedKDLoss(tau=1., gamma=-.5), lambda s, t: weighted_kd(s, t, 1., -.5)),
         (EntropyWeightedKDLoss(gamma=0), lambda s, t: kd(s, t, 4.)),
         (EntropyWeightedKDLoss(foreground=True), sigmoid_weighted_kd),
         (EntropyWeightedKDLoss(2., .5, True), lambda s, t: sigmoid_weighted_kd(s, t, 2., .5))]
SOFT_TEACHER = (KLDivergence(3., temperature_on='teacher'),
                lambda s, t: kd_of_a_soft_teacher(s, t, 3.))


def make_pair(shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (2 * torch.randn(shape, generator=generator) for _ in range(2))
    return student.requires_grad_(), teacher


@pytest.mark.parametrize('shape', SHAPES)
@pytest.mark.parametrize('loss, formula', [*CASES, SOFT_TEACHER])
def test_value_and_gradient(loss, formula, shape):
    student, teacher = make_pair(shape)
    value = loss(student, teacher)
    arrays = student.detach().double().numpy(), teacher.double().numpy()
    assert value.item() == pytest.approx(formula(*arrays), rel=1e-4, abs=1e-6)

    value.backward()
    direction = np.random.default_rng(0).standard_normal(shape)
    ahead, behind = (formula(arrays[0] + step * direction, arrays[1]) for step in (1e-5, -1e-5))
    slope = (student.grad.double().numpy() * direction).sum()
    assert slope == pytest.approx((ahead - behind) / 2e-5, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize('loss, formula', CASES)
def test_equal_predictions_cost_nothing(loss, formula):
    student, _ = make_pair((2, 5, 4, 3))
    assert loss(student, student.detach()).item() == pytest.approx(0, abs=2e-5)


def test_pkd_and_dist_ignore_scale_and_shift():
    student, teacher = make_pair((2, 5, 4, 3))
    factor = torch.tensor([1., 2., 30., .5, 4.]).view(1, -1, 1, 1)
    assert PKDLoss()(factor * student + factor, teacher).item() == pytest.approx(
        PKDLoss()(student, teacher).item(), rel=1e-4)
    assert DISTLoss()(student + 7, teacher).item() == pytest.approx(
        DISTLoss()(student, teacher).item(), rel=1e-4)


def test_kd_by_hand():
    # softmax(log 3, 0) = (3/4, 1/4) against (1/2, 1/2)
    teacher, student = torch.tensor([[math.log(3), 0.]]), torch.zeros(1, 2)
    expected = .75 * math.log(1.5) + .25 * math.log(.5)
    assert KLDivergence(loss_weight=2.)(student, teacher).item() == pytest.approx(2 * expected)


def test_a_student_learns_the_soft_prediction_itself():
    student, teacher = make_pair((2, 5, 4, 3))
    loss = KLDivergence(4., temperature_on='teacher')
    assert loss(teacher / 4, teacher).item() == pytest.approx(0, abs=1e-6)
    assert loss(teacher, teacher) > 0.1
    # One Avatar's loss differs from that of its mean by a constant, as of any Bregman divergence.
    akd = UncertaintyFeatureLoss(dict(type='KLDivergence', tau=4., temperature_on='teacher'),
                                 num_avatars=3, uncertainty=None)
    akd.reseed(5)
    avatars = []
    akd.perturbation.register_forward_hook(lambda module, args, avatar: avatars.append(avatar))
    value = akd(student, teacher)
    mean = torch.stack([loss(student, avatar) for avatar in avatars]).mean()
    torch.testing.assert_close(*([value, *torch.autograd.grad(value, student)]
                                 for value in (value, mean)))


def test_kd_refuses_another_side():
    with pytest.raises(ConfigError, match=r"^temperature_on='teachers': did you mean 'teacher'"):
        KLDivergence(temperature_on='teachers')


def test_shares_of_positions_by_hand():
    # Two equal classes, and softmax(log 3, 0) = (3/4, 1/4), of entropy 0.8113 bits.
    teacher = torch.tensor([[0., 0.], [math.log(3), 0.]])
    entropy = -.75 * math.log2(.75) - .25 * math.log2(.25)
    sure = 1 - entropy
    for gamma in 1, 2, -.5, -2:
        # No confidence at all counts as 1e-3.
        expected = sure**gamma / (sure**gamma + 1e-3**gamma)
        shares = EntropyWeightedKDLoss(gamma=gamma).shares(teacher)
        assert shares.tolist() == pytest.approx([1 - expected, expected], rel=1e-4)
    for gamma in 100, -100, 1000, -1000:
        shares = EntropyWeightedKDLoss(gamma=gamma).shares(teacher)
        assert shares.tolist() == [float(gamma < 0), float(gamma > 0)]


def test_shares_of_classes_by_hand():
    # Scores 3/4 and 1/4 at one position, 1/4 and 1/4 at the other: all equally certain.
    teacher = math.log(3) * torch.tensor([[1., -1.], [-1., -1.]]).view(1, 2, 2).mT[..., None]
    shares = EntropyWeightedKDLoss(foreground=True).shares(teacher)
    assert shares.shape == (1, 2, 2, 1)
    assert shares[0, :, 0].flatten().tolist() == pytest.approx([3 / 8] * 2)
    assert shares[0, :, 1].flatten().tolist() == pytest.approx([1 / 8] * 2)


@pytest.mark.parametrize('gamma', [None, 'high', float('nan'), float('inf'), True])
def test_entropy_weight_needs_numbers(gamma):
    with pytest.raises(ConfigError, match=r'(?s)tau=0: must be .*gamma=.*: must be a number, e.g'):
        EntropyWeightedKDLoss(tau=0, gamma=gamma)


@pytest.mark.parametrize('loss', [PKDLoss(), DISTLoss(), KLDivergence(),
                                  KLDivergence(3., temperature_on='teacher'),
                                  EntropyWeightedKDLoss(gamma=-2.),
                                  EntropyWeightedKDLoss(gamma=2.),
                                  EntropyWeightedKDLoss(gamma=-2., foreground=True)])
@pytest.mark.parametrize('shape', [(1, 3, 1, 1), (2, 3, 4, 4), (1, 3), (0, 3, 4, 4),
                                   (2, 1, 4, 4)])
@pytest.mark.parametrize('scale', [0., 1e4, 1e-6])
def test_degenerate_features_stay_finite(loss, shape, scale):
    student, teacher = make_pair(shape)
    student = (scale * student.detach()).requires_grad_()
    value = loss(student, scale * teacher)
    value.backward()
    assert value.isfinite() and student.grad.isfinite().all()


@pytest.mark.parametrize('kind', ['PKDLoss', 'DISTLoss', 'KLDivergence', 'EntropyWeightedKDLoss'])
def test_precision_errors_and_avatars(kind):
    student, teacher = make_pair((2, 5, 4, 3))
    loss = MODELS.build(dict(type=kind))
    with torch.autocast('cpu', torch.bfloat16):
        low = loss(student.bfloat16(), teacher.bfloat16())
    assert low.dtype == torch.float32
    assert low.item() == loss(student.bfloat16().float(), teacher.bfloat16().float()).item()
    with pytest.raises(ValueError, match='student map'):
        loss(student, teacher[:1])
    for target in 'each', 'mean':
        akd = UncertaintyFeatureLoss(dict(type=kind), num_avatars=3, target=target)
        gradient, = torch.autograd.grad(akd(student, teacher), student)
        assert gradient.any()
