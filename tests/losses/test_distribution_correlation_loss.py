"""DistributionCorrelationLoss against formulas in numpy."""
import numpy as np
import pytest
import torch

from mmakd.losses import DistributionCorrelationLoss, UncertaintyFeatureLoss
from mmakd.losses.distribution_correlation_loss import relations
from mmakd.utils.errors import ConfigError
from tests.losses.saved_for_backward import SavedForBackward

BINS = 5
ALL = 10**6  # positions, more than there are


def maps(*shape, number=2, scale=1.0):
    generator = torch.Generator().manual_seed(0)
    return [scale * torch.randn(shape, generator=generator) for _ in range(number)]


def of_bins(feature):
    """Mean and variance of each side (4, positions), distribution by distribution."""
    sides = feature.numpy().astype(float).reshape(len(feature), 4, BINS, -1)
    mean, variance = np.zeros((2, 4, len(feature), sides.shape[-1]))
    for n, side, x in np.ndindex(len(feature), 4, sides.shape[-1]):
        p = np.exp(sides[n, side, :, x])
        p /= p.sum()
        mean[side, n, x] = sum(p[k] * k for k in range(BINS))
        variance[side, n, x] = sum(p[k] * k**2 for k in range(BINS)) - mean[side, n, x]**2 + 1 / 12
    return mean.reshape(4, -1), variance.reshape(4, -1)


def of_avatars(feature, teacher, rate=0.1):
    """Mean and variance under dropout to the mean of an image's channel."""

    def variance(array):
        centred = array - array.mean((2, 3), keepdims=True)
        return rate / (1 - rate) * centred**2

    arrays = [each.numpy().astype(float) for each in (feature, teacher)]
    spread = variance(arrays[0]) + variance(arrays[1]).mean()
    channels = feature.shape[1]
    return [array.transpose(1, 0, 2, 3).reshape(channels, -1) for array in (arrays[0], spread)]


def kl(mean, variance, of_mean, of_variance):
    """KL of the first Gaussian from the second."""
    return (0.5 * np.log(of_variance / variance) - 0.5
            + (variance + (mean - of_mean)**2) / (2 * of_variance))


def smooth_l1(first, second):
    gap = np.abs(first - second)
    return np.where(gap < 1, gap**2 / 2, gap - 0.5).mean()


def formula(student, teacher, distance_weight=5.0, angle_weight=5.0):
    (mean_S, var_S), (mean_T, var_T) = student, teacher
    relations = []
    for mean, var in student, teacher:
        i, j = (mean[:, :, None], var[:, :, None]), (mean[:, None], var[:, None])
        angle = np.sqrt(2 * np.sqrt(i[1] * j[1]) / (i[1] + j[1])) * np.exp(
            -(i[0] - j[0])**2 / (2 * (i[1] + j[1])))
        relations.append((kl(*i, *j) + kl(*j, *i), angle))
    return (kl(mean_T, var_T, mean_S, var_S).mean()
            + distance_weight * smooth_l1(relations[0][0], relations[1][0])
            + angle_weight * smooth_l1(relations[0][1], relations[1][1]))


def make(source, **options):
    extra = dict(num_bins=BINS) if source == 'bins' else {}
    return DistributionCorrelationLoss(source, **{'num_positions': ALL, **extra, **options})


def make_maps(source, number=2, **options):
    return maps(2, 4 * BINS if source == 'bins' else 3, 3, 4, number=number, **options)


@pytest.mark.parametrize('weights', [{}, dict(distance_weight=0.0, angle_weight=2.0),
                                     dict(distance_weight=3.0, angle_weight=0)])
@pytest.mark.parametrize('source', ['bins', 'avatars'])
def test_formula(source, weights):
    student, teacher = make_maps(source)
    gaussians = (of_bins(student), of_bins(teacher)) if source == 'bins' else (
        of_avatars(student, teacher), of_avatars(teacher, teacher))
    expected = formula(*gaussians, **weights)
    loss = make(source, loss_weight=0.5, **weights)(student, teacher)
    np.testing.assert_allclose(loss.item(), 0.5 * expected, rtol=1e-5)


def test_angle_is_the_cosine_of_two_densities():
    x = np.linspace(-40, 40, 400001)
    density = [np.exp(-(x - mean)**2 / (2 * variance)) / np.sqrt(variance)
               for mean, variance in ((0.3, 0.5), (1.4, 2.0))]
    cosine = (density[0] * density[1]).sum() / np.sqrt(
        (density[0]**2).sum() * (density[1]**2).sum())
    _, angle = relations(torch.tensor([[0.3, 1.4]]), torch.tensor([[0.5, 2.0]]))
    np.testing.assert_allclose(angle[0], [[1, cosine], [cosine, 1]], rtol=1e-5)


@pytest.mark.parametrize('source', ['bins', 'avatars'])
def test_gradient_is_that_of_the_formula(source):
    student, teacher = make_maps(source)
    student.requires_grad_()
    make(source)(student, teacher).backward()
    gaussians = of_bins if source == 'bins' else (lambda each: of_avatars(each, teacher))
    target = gaussians(teacher)
    rng = np.random.default_rng(0)
    for index in zip(*(rng.integers(size, size=12) for size in student.shape)):
        values = []
        for sign in (-1, 1):
            moved = student.detach().double()
            moved[index] += sign * 1e-4
            values.append(formula(gaussians(moved), target))
        np.testing.assert_allclose(student.grad[index], (values[1] - values[0]) / 2e-4,
                                   rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize('source', ['bins', 'avatars'])
def test_equal_maps_have_no_loss(source):
    teacher, = make_maps(source, number=1)
    student = teacher.clone().requires_grad_()
    loss = make(source)(student, teacher)
    loss.backward()
    assert loss.abs() < 1e-6 and student.grad.abs().max() < 1e-6


@pytest.mark.parametrize('source', ['bins', 'avatars'])
def test_teacher_gets_no_gradient(source):
    student, teacher = make_maps(source)
    loss = make(source)(student.requires_grad_(), teacher.requires_grad_())
    loss.backward()
    assert student.grad.any() and teacher.grad is None


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('source', ['bins', 'avatars'])
def test_precision(source, dtype):
    rounded = [each.to(dtype) for each in make_maps(source)]
    with torch.autocast('cpu', torch.bfloat16):
        loss = make(source)(*rounded)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, make(source)(*(each.float() for each in rounded)))


def test_scale_does_not_matter():
    student, teacher = make_maps('avatars')
    expected = make('avatars')(student, teacher)
    for scale in 1e-4, 1e4, 1e8:
        torch.testing.assert_close(make('avatars')(scale * student, scale * teacher), expected,
                                   rtol=1e-4, atol=0)


@pytest.mark.parametrize('shape', [(0, 20, 3, 4), (2, 20, 0, 4), (0, 20)])
@pytest.mark.parametrize('source', ['bins', 'avatars'])
def test_empty_maps(source, shape):
    student, teacher = maps(*shape)
    loss = make(source)(student.requires_grad_(), teacher)
    loss.backward()
    assert loss == 0


def test_vectors_and_one_position():
    student, teacher = maps(6, 20)
    for source in 'bins', 'avatars':
        assert make(source)(student, teacher) > 0
    # Without a second position only the divergence remains.
    student, teacher = student[:1, :, None, None], teacher[:1, :, None, None]
    expected = kl(*of_bins(teacher), *of_bins(student)).mean()
    np.testing.assert_allclose(make('bins')(student, teacher).item(), expected, rtol=1e-5)


def test_positions_are_those_of_the_seed():
    student, teacher = make_maps('avatars')
    loss = make('avatars', num_positions=4)
    state = torch.get_rng_state()

    def run(*seeds):
        values = []
        for seed in seeds:
            loss.reseed(seed)
            values.append([loss(student, teacher).item() for _ in range(3)])
        return values

    first, second, again = run(0, 1, 0)
    assert first == again != second
    assert len(set(first)) == 3
    assert torch.equal(torch.get_rng_state(), state)


def test_all_positions_are_drawn_alike():
    # In expectation over positions, the relations of some are those of all.
    student, teacher = maps(2, 1, 4, 4)
    options = dict(distance_weight=1.0, angle_weight=0.0)
    divergence = make('avatars', distance_weight=0.0, angle_weight=0.0)(student, teacher)
    few, everything = make('avatars', num_positions=6, **options), make('avatars', **options)
    mean = torch.stack([few(student, teacher) for _ in range(3000)]).mean() - divergence
    whole = everything(student, teacher) - divergence
    # A position has no relation to itself: 30 of 36 pairs, against 32 * 31 of 32 * 32.
    torch.testing.assert_close(mean / (5 / 6), whole / (31 / 32), rtol=0.05, atol=0)


def test_graph_keeps_no_matrices():
    student, teacher = maps(1, 20, 16, 16)
    with SavedForBackward() as graph:
        loss = make('avatars', num_positions=256)(student.requires_grad_(), teacher)
        kept = graph.bytes
        loss.backward()
    assert kept < 20 * student.nbytes < student.nbytes * 256 / 10


def test_behind_avatars():
    loss = UncertaintyFeatureLoss(
        criterion=dict(type='DistributionCorrelationLoss', source='avatars', num_positions=8),
        num_avatars=2)
    student, teacher = make_maps('avatars')
    value = loss(student.requires_grad_(), teacher)
    value.backward()
    assert value > 0 and student.grad.isfinite().all() and student.grad.any()


PROBLEMS = {
    'source': (dict(source='bin'), r"source='bin': did you mean 'bins'"),
    'weight': (dict(angle_weight=-1), 'angle_weight=-1: must be a number >= 0'),
    'positions': (dict(num_positions=1), 'num_positions=1: must be an integer >= 2'),
    'bins': (dict(num_bins=1), 'num_bins=1: must be an integer >= 2'),
    'channels': (dict(channels=36), 'num_bins=17: the map has 36 channels, not 17 for each of 4'),
    'perturbation': (dict(source='avatars', perturbation=dict(type='DropoutPerturbatoin')),
                     r"perturbation\.type='DropoutPerturbatoin': not registered"),
    'no variance': (dict(source='avatars', perturbation=dict(
        type='DropoutPerturbation', drop_rate=0)), r'perturbation=.*: gives no variance'),
    'no perturbation': (dict(source='avatars', perturbation=dict(type='PKDLoss')),
                        r'perturbation=.*: gives no variance'),
}


@pytest.mark.parametrize('case', PROBLEMS)
def test_errors(case):
    options, message = PROBLEMS[case]
    with pytest.raises(ConfigError, match=f'^{message}'):
        DistributionCorrelationLoss(**options)


def test_channels_that_are_no_bins():
    with pytest.raises(ValueError, match='36 channels are not num_bins=17 for each of 4 sides'):
        DistributionCorrelationLoss()(*maps(1, 36, 2, 2))
