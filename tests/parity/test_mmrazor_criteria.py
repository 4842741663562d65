"""Our criteria against MMRazor's own classes, value and gradient.

Under bfloat16 autocast our arithmetic is float32, so its reference is MMRazor's in float32 on the
same bfloat16 maps. MMRazor's own arithmetic there follows the maps' type: it agrees as far as
bfloat16's 8 bits do.
"""
import pytest
import torch
from torch import nn

from mmakd import losses
from mmakd.distillers import ConvAdapter
from mmakd.distillers.distill_task import DistillTask

MAPS = [(2, 8, 6, 5), (1, 3, 7, 7), (3, 1, 9, 4), (2, 64, 13, 21), (4, 16, 1, 1)]
LOGITS = [(6, 10), (1, 7), (5, 1), (128, 80)]
CASES = [
    *[('ChannelWiseDivergence', kwargs, shape) for shape in [*MAPS, (1, 5, 1, 1)]
      for kwargs in (dict(), dict(tau=4.0, loss_weight=3.0))],
    *[('PKDLoss', kwargs, shape) for shape in MAPS for kwargs in (dict(), dict(loss_weight=3.0))],
    *[('DISTLoss', kwargs, shape) for shape in [*LOGITS, (4, 16, 1, 1)]
      for kwargs in (dict(), dict(inter_loss_weight=2.0, intra_loss_weight=0.5, tau=4.0,
                                  loss_weight=3.0))],
    *[('KLDivergence', kwargs, shape) for shape in [*LOGITS, (4, 16, 1, 1)]
      for kwargs in (dict(), dict(tau=4.0, loss_weight=3.0))],
]
each_case = pytest.mark.parametrize('kind, kwargs, shape', CASES)

# Sums in another order.
FLOAT32 = 1e-5
# Both gradients are rounded to bfloat16, at worst to neighbours.
BFLOAT16_MAPS = 2**-8
# Several roundings to 8 bits, one after the other; the largest seen is 0.04.
BFLOAT16_ARITHMETIC = 2**-4


def make_pair(shape, dtype=torch.float32, scale=2.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (scale * torch.randn(shape, generator=generator) for _ in range(2))
    return student.to(dtype).requires_grad_(), teacher.to(dtype)


def run(loss, student, teacher, *parameters):
    """Return value, gradient of the student, gradients of the parameters."""
    value = loss(student, teacher)
    return [value, *torch.autograd.grad(value, [student, *parameters])]


def assert_same(ours, theirs, tolerance):
    """Compare by norm: the gradient of a mean over thousands is below any absolute tolerance."""
    for mine, other in zip(ours, theirs, strict=True):
        mine, other = mine.double(), other.double()
        assert mine.isfinite().all()
        assert (mine - other).norm() <= tolerance * other.norm()


def in_float32(loss):
    """Have a loss compute in float32 whatever the maps are."""

    def compute(student, teacher):
        with torch.autocast('cpu', enabled=False):
            return loss(student.float(), teacher.float())

    return compute


@each_case
def test_float32(mmrazor, kind, kwargs, shape):
    student, teacher = make_pair(shape)
    ours = run(getattr(losses, kind)(**kwargs), student, teacher)
    theirs = run(getattr(mmrazor, kind)(**kwargs), student, teacher)
    assert_same(ours, theirs, FLOAT32)


@each_case
def test_bfloat16_autocast(mmrazor, kind, kwargs, shape):
    # What convolutions give under autocast.
    student, teacher = make_pair(shape, torch.bfloat16)
    loss, reference = getattr(losses, kind)(**kwargs), getattr(mmrazor, kind)(**kwargs)
    with torch.autocast('cpu', torch.bfloat16):
        ours = run(loss, student, teacher)
        rounded = run(reference, student, teacher)
    exact = run(in_float32(reference), student, teacher)
    assert ours[0].dtype == torch.float32
    assert_same(ours[:1], exact[:1], FLOAT32)
    assert_same(ours[1:], exact[1:], BFLOAT16_MAPS)
    assert_same(ours, rounded, BFLOAT16_ARITHMETIC)


@pytest.mark.filterwarnings('ignore:reduction')
def test_confident_predictions(mmrazor):
    for kind in 'ChannelWiseDivergence', 'PKDLoss', 'KLDivergence':
        student, teacher = make_pair((2, 3, 9, 1), scale=20.0)
        kwargs = dict(reduction='mean', loss_weight=3.0) if kind == 'KLDivergence' else {}
        ours = run(getattr(losses, kind)(), student, teacher)
        assert_same(ours, run(getattr(mmrazor, kind)(**kwargs), student, teacher), FLOAT32)


def test_confident_predictions_of_dist(mmrazor):
    student, teacher = make_pair((16, 20), scale=20.0)
    ours = run(losses.DISTLoss(), student, teacher)
    assert_same(ours, run(mmrazor.DISTLoss(), student, teacher), FLOAT32)


@pytest.fixture
def mgd(mmrazor):
    """Build both sides of MGD with the same generator: ``ours, theirs, our and their weights``."""

    def build(student_channels, channels, alpha_mgd, lambda_mgd):
        connector = mmrazor.MGDConnector(student_channels, channels, lambda_mgd)
        criterion = mmrazor.MGDLoss(alpha_mgd)
        adapter = nn.Identity()
        if student_channels != channels:
            adapter = ConvAdapter(student_channels, channels)
        loss = losses.MGDLoss(alpha_mgd=alpha_mgd, lambda_mgd=lambda_mgd, channels=channels)
        weights = [*adapter.parameters(), *loss.parameters()]
        reference = list(connector.parameters())
        with torch.no_grad():
            for mine, other in zip(weights, reference, strict=True):
                mine.copy_(other)

        def ours(student, teacher):
            torch.manual_seed(1)  # of the mask
            return loss(adapter(student), teacher)

        def theirs(student, teacher):
            torch.manual_seed(1)
            return criterion(connector(student), teacher)

        return ours, theirs, weights, reference

    torch.manual_seed(0)
    return build


@pytest.mark.parametrize('shape', [*MAPS, (1, 5, 1, 1)])
@pytest.mark.parametrize('alpha_mgd, lambda_mgd', [(2e-5, 0.65), (1.0, 0.0), (1.0, 0.9)])
def test_mgd_float32(mgd, shape, alpha_mgd, lambda_mgd):
    ours, theirs, weights, reference = mgd(shape[1], shape[1], alpha_mgd, lambda_mgd)
    student, teacher = make_pair(shape)
    assert_same(run(ours, student, teacher, *weights), run(theirs, student, teacher, *reference),
                FLOAT32)


def test_mgd_of_unlike_channels(mgd):
    ours, theirs, weights, reference = mgd(4, 8, 2e-5, 0.65)
    student, _ = make_pair((2, 4, 6, 5))
    _, teacher = make_pair((2, 8, 6, 5))
    assert len(weights) == 6
    assert_same(run(ours, student, teacher, *weights), run(theirs, student, teacher, *reference),
                FLOAT32)


@pytest.mark.parametrize('shape', [*MAPS, (1, 5, 1, 1)])
def test_mgd_bfloat16_autocast(mgd, shape):
    ours, theirs, weights, reference = mgd(shape[1], shape[1], 2e-5, 0.65)
    student, teacher = make_pair(shape, torch.bfloat16)
    with torch.autocast('cpu', torch.bfloat16):
        mine = run(ours, student, teacher, *weights)
        rounded = run(theirs, student, teacher, *reference)
    exact = run(in_float32(theirs), student, teacher, *reference)
    assert mine[0].dtype == torch.float32
    assert_same([mine[0], *mine[2:]], [exact[0], *exact[2:]], FLOAT32)
    assert_same(mine[1:2], exact[1:2], BFLOAT16_MAPS)
    assert_same(mine, rounded, BFLOAT16_ARITHMETIC)


def test_levels_are_summed_and_sizes_met(mmrazor):
    """MMRazor's PKD takes the levels at once and resizes by itself; here the task does both."""
    shapes = [(2, 4, 8, 6), (2, 4, 3, 3)]
    pairs = [make_pair(shape, seed=seed) for seed, shape in enumerate(shapes)]
    students, teachers = zip(*pairs)
    smaller = students[0][..., ::2, ::2].detach().requires_grad_()
    students = (smaller, students[1])
    task = DistillTask('pkd', students, teachers, loss=dict(type='PKDLoss', loss_weight=6.0),
                       resize=True)
    ours = task(students, teachers)
    theirs = mmrazor.PKDLoss(loss_weight=6.0)(students, teachers)
    assert_same([ours, *torch.autograd.grad(ours, students)],
                [theirs, *torch.autograd.grad(theirs, students)], FLOAT32)


class TestConventionsThatDiffer:
    """Each is named in docs/migrate_from_mmrazor.md."""

    @pytest.mark.filterwarnings('ignore:reduction')
    def test_kd_of_maps_is_averaged_over_positions(self, mmrazor):
        student, teacher = make_pair((2, 5, 4, 3))
        ours = run(losses.KLDivergence(tau=2.0), student, teacher)
        batchmean = run(mmrazor.KLDivergence(tau=2.0), student, teacher)
        mean = run(mmrazor.KLDivergence(tau=2.0, reduction='mean'), student, teacher)
        assert_same([12 * part for part in ours], batchmean, FLOAT32)
        assert_same(ours, [5 * part for part in mean], FLOAT32)

    def test_dist_takes_positions_as_samples(self, mmrazor):
        student, teacher = make_pair((2, 5, 4, 3))

        def rows(logits):
            return logits.permute(0, 2, 3, 1).reshape(-1, 5)

        ours = run(losses.DISTLoss(), student, teacher)
        theirs = run(lambda s, t: mmrazor.DISTLoss()(rows(s), rows(t)), student, teacher)
        assert_same(ours, theirs, FLOAT32)
        # MMRazor correlates the images of the batch at each position: with one image, nothing.
        student, teacher = make_pair((1, 5, 4, 3))
        between_images = dict(inter_loss_weight=0.0)
        assert mmrazor.DISTLoss(**between_images)(student, teacher).item() == 1
        assert losses.DISTLoss(**between_images)(student, teacher).item() != 1

    @pytest.mark.filterwarnings('ignore:.*degrees of freedom')  # newer torch warns
    def test_pkd_of_one_value_a_channel_is_no_nan(self, mmrazor):
        student, teacher = make_pair((1, 5, 1, 1))
        assert mmrazor.PKDLoss()(student, teacher).isnan()
        value, gradient = run(losses.PKDLoss(), student, teacher)
        assert value.item() == 0 and not gradient.any()

    def test_under_autocast_the_loss_is_float32(self, mmrazor):
        student, teacher = make_pair((2, 5, 4, 3), torch.bfloat16)
        with torch.autocast('cpu', torch.bfloat16):
            for kind in 'ChannelWiseDivergence', 'DISTLoss':
                assert getattr(mmrazor, kind)()(student, teacher).dtype == torch.bfloat16
                assert getattr(losses, kind)()(student, teacher).dtype == torch.float32
