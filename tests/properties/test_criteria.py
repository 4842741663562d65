"""What holds for every criterion on any map."""
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmakd.losses.avatar_comparison import AvatarComparison
from tests.properties.criteria import (
    KINDS,
    SEEDS,
    SHAPES,
    bound,
    make_criterion,
    make_map,
    samples,
)

ALL = pytest.mark.parametrize('kind', KINDS)
CLOSE = dict(rtol=2e-4, atol=2e-5)


def kinds(*left_out):
    return pytest.mark.parametrize('kind', [kind for kind in KINDS if kind not in left_out])


def draw(kind, shape, seed, **options):
    """A criterion and two maps."""
    loss = bound(kind, make_criterion(kind, shape[1], **options), samples(shape[0]))
    return loss, make_map(shape, seed).requires_grad_(), make_map(shape, seed + 1)


@ALL
@given(shape=SHAPES, seed=SEEDS)
def test_value_and_gradient_are_sound(kind, shape, seed):
    loss, student, teacher = draw(kind, shape, seed)
    value = loss(student, teacher)
    assert value.dtype == torch.float32 and value.shape == () and value.isfinite()
    assert value >= -1e-5
    gradient, = torch.autograd.grad(value, student)
    assert gradient.isfinite().all()
    # A short step against the gradient lowers the loss.
    length = gradient.norm()
    if length > 1e-3:
        assert loss(student - 1e-3 * gradient / length, teacher) < value


@kinds('MGDLoss')  # its generator would have to be the identity
@given(shape=SHAPES, seed=SEEDS)
def test_nothing_to_learn_from_equal_maps(kind, shape, seed):
    loss, student, _ = draw(kind, shape, seed)
    value = loss(student, student.detach())
    # A correlation over a single class or sample is 0, not 1.
    if kind == 'DISTLoss' and (shape[1] == 1 or shape[0] * shape[2] * shape[3] == 1):
        return
    torch.testing.assert_close(value, torch.zeros(()), rtol=0, atol=2e-4)


@ALL
@given(shape=SHAPES, seed=SEEDS, weight=st.floats(0, 100))
def test_weight_is_a_factor(kind, shape, seed, weight):
    loss, student, teacher = draw(kind, shape, seed)
    weighted, *_ = draw(kind, shape, seed, loss_weight=weight)
    torch.testing.assert_close(weighted(student, teacher), weight * loss(student, teacher),
                               rtol=1e-5, atol=1e-6)


@ALL
@given(shape=SHAPES, seed=SEEDS)
def test_order_of_images_is_no_matter(kind, shape, seed):
    loss, student, teacher = draw(kind, shape, seed)
    order = torch.randperm(shape[0], generator=torch.Generator().manual_seed(seed))
    boxes = samples(shape[0])
    turned = bound(kind, make_criterion(kind, shape[1]), [boxes[i] for i in order])
    torch.testing.assert_close(turned(student[order], teacher[order]), loss(student, teacher),
                               **CLOSE)


@kinds('MGDLoss', 'MasKDLoss', 'FGDLoss')  # their weights tell channels apart
@given(shape=SHAPES, seed=SEEDS)
def test_order_of_channels_is_no_matter(kind, shape, seed):
    loss, student, teacher = draw(kind, shape, seed)
    order = torch.randperm(shape[1], generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(loss(student[:, order], teacher[:, order]),
                               loss(student, teacher), **CLOSE)


@kinds('MGDLoss', 'FGDLoss')  # a convolution of 3x3 has sides, and boxes stay where they are
@given(shape=SHAPES, seed=SEEDS)
def test_order_of_positions_is_no_matter(kind, shape, seed):
    options = dict(weight_masks=False) if kind == 'MasKDLoss' else {}
    loss, student, teacher = draw(kind, shape, seed, **options)
    order = torch.randperm(shape[2] * shape[3], generator=torch.Generator().manual_seed(seed))
    turned = [feature.flatten(2)[..., order].view(shape) for feature in (student, teacher)]
    torch.testing.assert_close(loss(*turned), loss(student, teacher), **CLOSE)


@kinds('PKDLoss')  # its deviation is the unbiased one, which knows the number of values
@given(shape=SHAPES, seed=SEEDS)
def test_a_batch_twice_costs_the_same(kind, shape, seed):
    loss, student, teacher = draw(kind, shape, seed)
    twice = bound(kind, make_criterion(kind, shape[1]), 2 * samples(shape[0]))
    torch.testing.assert_close(twice(torch.cat([student] * 2), torch.cat([teacher] * 2)),
                               loss(student, teacher), **CLOSE)


@pytest.mark.parametrize('kind', ['FeatureMSELoss', 'PKDLoss', 'DISTLoss'])
@given(shape=SHAPES, seed=SEEDS)
def test_sides_may_be_exchanged(kind, shape, seed):
    loss, student, teacher = draw(kind, shape, seed)
    torch.testing.assert_close(loss(teacher, student), loss(student, teacher), **CLOSE)


@pytest.mark.parametrize('kind, axes', [('ChannelWiseDivergence', (2, 3)), ('KLDivergence', (1, )),
                                        ('DISTLoss', (1, )), ('PKDLoss', (0, 2, 3)),
                                        ('EntropyWeightedKDLoss', (1, ))])
@given(shape=SHAPES, seed=SEEDS)
def test_shifts_that_a_softmax_or_a_mean_takes_away(kind, axes, shape, seed):
    loss, student, teacher = draw(kind, shape, seed)
    shift = make_map(tuple(1 if i in axes else size for i, size in enumerate(shape)), seed + 2)
    torch.testing.assert_close(loss(student + shift, teacher), loss(student, teacher),
                               rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize('kind', ['ChannelWiseDivergence', 'FeatureMSELoss', 'KLDivergence',
                                  'PKDLoss', 'DISTLoss', 'MasKDLoss', 'EntropyWeightedKDLoss'])
@given(shape=SHAPES, seed=SEEDS, number=st.integers(2, 5))
def test_several_targets_cost_their_mean(kind, shape, seed, number):
    """Of any criterion, in value and in all gradients."""
    criterion = make_criterion(kind, shape[1])
    student = make_map(shape, seed).requires_grad_()
    targets = [make_map(shape, seed + 1 + i) for i in range(number)]
    learned = [student, *(p for p in criterion.parameters() if p.requires_grad)]
    mean = torch.stack([criterion(student, target) for target in targets]).mean()
    comparison = AvatarComparison(criterion, None, student, targets[0], number, 'each', None)
    comparison.update_sigma()
    for target in targets:
        comparison.add(target)
    together = comparison.loss()
    torch.testing.assert_close(together, mean, **CLOSE)
    torch.testing.assert_close(*(torch.autograd.grad(value, learned)
                                 for value in (together, mean)), **CLOSE)
