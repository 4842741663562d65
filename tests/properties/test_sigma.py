"""What sigma promises on any map."""
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmakd.avatars import AvatarVariance
from mmakd.utils.build import build
from tests.avatars.sigma import update
from tests.properties.criteria import SEEDS, make_map
from tests.properties.test_perturbations import PERTURBATIONS, generator

SHAPES = st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5), st.integers(1, 5))
RESCALE = st.sampled_from(['teacher', 'unit', None])


def weight(uncertainty, feature, perturbation):
    """What a map is multiplied by."""
    return update(uncertainty, feature, perturbation)(torch.ones_like(feature[:1, :, :1, :1]))


@settings(max_examples=20)
@given(cfg=PERTURBATIONS, seed=SEEDS, shape=SHAPES, rescale=RESCALE)
def test_sampled_comes_to_the_closed_form(cfg, seed, shape, rescale):
    perturbation, feature = build(cfg), make_map(shape, seed) + 1
    source = generator(seed)
    avatars = [perturbation(feature, source) for _ in range(2000)]
    closed = AvatarVariance(rescale=rescale)
    update(closed, feature, perturbation)
    sampled = AvatarVariance(rescale=rescale, estimator='sampled')
    update(sampled, feature, perturbation, avatars)
    # One channel may be one number, dropped with a rate of 5 %.
    torch.testing.assert_close(sampled.sigma, closed.sigma, rtol=0.25, atol=1e-5)


@given(cfg=PERTURBATIONS, seed=SEEDS, shape=SHAPES, rescale=RESCALE)
def test_orders(cfg, seed, shape, rescale):
    """Images and positions may come in any order; channels take their sigma along."""
    perturbation, feature = build(cfg), make_map(shape, seed)
    expected = weight(AvatarVariance(rescale=rescale), feature, perturbation)
    images, channels, positions = (torch.randperm(size, generator=generator(seed)) for size in (
        shape[0], shape[1], shape[2] * shape[3]))
    turned = feature[images].flatten(2)[..., positions].view(shape)
    torch.testing.assert_close(weight(AvatarVariance(rescale=rescale), turned, perturbation),
                               expected)
    torch.testing.assert_close(
        weight(AvatarVariance(rescale=rescale), feature[:, channels], perturbation),
        expected[:, channels])


@given(seed=SEEDS, shape=SHAPES, scale=st.floats(1e-5, 1e5), rate=st.floats(0.01, 0.9))
def test_scale_has_no_influence(seed, shape, scale, rate):
    """The normalised map is the same at any drop rate, of the map's or of unit RMS."""
    feature = make_map(shape, seed)
    plain, other = (build(dict(type='DropoutPerturbation', drop_rate=p, fill='zero'))
                    for p in (0.1, rate))
    for rescale, wanted in ('teacher', feature.square().mean()), ('unit', torch.ones(())):
        normalised = update(AvatarVariance(rescale=rescale), feature, plain)(feature)
        torch.testing.assert_close(normalised.square().mean(), wanted)
        again = update(AvatarVariance(rescale=rescale), scale * feature, other)(scale * feature)
        torch.testing.assert_close(again / (scale if rescale == 'teacher' else 1), normalised,
                                   rtol=1e-3, atol=1e-5)


@given(seed=SEEDS, shape=SHAPES, rate=st.floats(0.01, 0.9))
def test_without_rescale_it_is_the_formula(seed, shape, rate):
    feature = make_map(shape, seed) + 3
    uncertainty = AvatarVariance(rescale=None)
    divide = update(uncertainty, feature, build(dict(
        type='DropoutPerturbation', drop_rate=rate, fill='zero')))
    sigma = (rate / (1 - rate) * feature.double().square().mean((0, 2, 3), keepdim=True)).sqrt()
    torch.testing.assert_close(uncertainty.sigma.double(), sigma, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(divide(feature).double(), feature / sigma, rtol=1e-4, atol=1e-6)


@given(seed=SEEDS, momentum=st.floats(0.01, 1), number=st.integers(1, 6))
def test_running_average(seed, momentum, number):
    """Weights of the batches, newest first: m, m (1 - m), m (1 - m)^2 ..., brought to sum 1."""
    perturbation = build(dict(type='GaussianNoisePerturbation', std=0.5))
    uncertainty = AvatarVariance(momentum=momentum, rescale=None)
    squares = []
    for i in range(number):
        batch = make_map((2, 3, 4, 5), seed + i, 1 + i)
        update(uncertainty, batch, perturbation)
        squares.append(0.25 * batch.double().square().mean((0, 2, 3)))
    weights = momentum * (1 - momentum)**torch.arange(number - 1, -1, -1.0).double()
    expected = (weights[:, None] * torch.stack(squares)).sum(0) / weights.sum()
    torch.testing.assert_close(uncertainty.sigma.flatten().double(), expected.sqrt(),
                               rtol=1e-4, atol=1e-6)
    before = uncertainty.state_dict()
    before = {key: value.clone() for key, value in before.items()}
    update(uncertainty.eval(), make_map((2, 3, 4, 5), seed + 99), perturbation)
    assert all(torch.equal(value, before[key]) for key, value in uncertainty.state_dict().items())


@given(cfg=PERTURBATIONS, seed=SEEDS, shape=SHAPES, rescale=RESCALE)
def test_it_carries_no_gradient(cfg, seed, shape, rescale):
    student, teacher = (make_map(shape, seed + i).requires_grad_() for i in range(2))
    uncertainty = AvatarVariance(rescale=rescale)
    divide = update(uncertainty, teacher, build(cfg))
    divide(student).sum().backward()
    assert teacher.grad is None and not uncertainty.sigma.requires_grad
    torch.testing.assert_close(student.grad, divide(torch.ones_like(student)).detach())
