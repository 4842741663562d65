"""PKD, DIST and KD against NumPy, MMRazor's formulas and hand-computed cases."""
import math

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS

from mmakd.losses import DISTLoss, KLDivergence, PKDLoss, UncertaintyFeatureLoss

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


CASES = [(PKDLoss(), pkd), (DISTLoss(), dist), (DISTLoss(tau=4.), lambda s, t: dist(s, t, 4.)),
         (KLDivergence(), kd), (KLDivergence(tau=3.), lambda s, t: kd(s, t, 3.))]


def make_pair(shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (2 * torch.randn(shape, generator=generator) for _ in range(2))
    return student.requires_grad_(), teacher


@pytest.mark.parametrize('shape', SHAPES)
@pytest.mark.parametrize('loss, formula', CASES)
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


@pytest.mark.parametrize('loss', [PKDLoss(), DISTLoss(), KLDivergence()])
@pytest.mark.parametrize('shape', [(1, 3, 1, 1), (2, 3, 4, 4), (1, 3)])
@pytest.mark.parametrize('scale', [0., 1e4, 1e-6])
def test_degenerate_features_stay_finite(loss, shape, scale):
    student, teacher = make_pair(shape)
    student = (scale * student.detach()).requires_grad_()
    value = loss(student, scale * teacher)
    value.backward()
    assert value.isfinite() and student.grad.isfinite().all()


@pytest.mark.parametrize('kind', ['PKDLoss', 'DISTLoss', 'KLDivergence'])
def test_precision_errors_and_avatars(kind):
    student, teacher = make_pair((2, 5, 4, 3))
    loss = MODELS.build(dict(type=kind))
    with torch.autocast('cpu', torch.bfloat16):
        low = loss(student.bfloat16(), teacher.bfloat16())
    assert low.dtype == torch.float32
    assert low.item() == loss(student.bfloat16().float(), teacher.bfloat16().float()).item()
    with pytest.raises(ValueError, match='student map'):
        loss(student, teacher[:1])
    akd = UncertaintyFeatureLoss(dict(type=kind), num_avatars=3)
    akd(student, teacher).backward()
    assert student.grad.any()
