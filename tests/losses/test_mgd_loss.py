"""MGD against NumPy and hand-computed cases, alone and in the distiller."""
import numpy as np
import pytest
import torch

from mmakd.losses import MGDLoss, UncertaintyFeatureLoss
from mmakd.utils.errors import ConfigError

SHAPE = (2, 3, 4, 5)


def convolve(feature, weight, bias):
    """3x3 convolution with zero padding, as a sum over the nine shifts."""
    height, width = feature.shape[2:]
    padded = np.pad(feature, ((0, 0), (0, 0), (1, 1), (1, 1)))
    return bias[:, None, None] + sum(
        np.einsum('oc,nchw->nohw', weight[:, :, i, j], padded[:, :, i:i + height, j:j + width])
        for i in range(3) for j in range(3))


def formula(student, teacher, mask, weights, alpha):
    """alpha / N sum (G(S * M) - T)^2, arXiv 2205.01529, Eq. 4 and 5."""
    first, first_bias, second, second_bias = weights
    hidden = np.maximum(convolve(student * mask, first, first_bias), 0)
    restored = convolve(hidden, second, second_bias)
    return alpha / len(student) * ((restored - teacher)**2).sum()


def draw_mask(ratio, shape=SHAPE):
    torch.manual_seed(3)
    draws = torch.rand(shape[0], 1, *shape[2:])
    torch.manual_seed(3)
    return np.where(draws > 1 - ratio, 0., 1.)


def arrays(tensors):
    return [tensor.detach().double().numpy() for tensor in tensors]


@pytest.fixture
def maps():
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(SHAPE, generator=generator) for _ in range(2))
    return student.requires_grad_(), teacher


@pytest.fixture
def loss():
    torch.manual_seed(0)
    return MGDLoss(alpha_mgd=0.5, channels=3)


def test_by_hand():
    """The generator doubles positive values; half of two positions is masked."""
    loss = MGDLoss(alpha_mgd=0.1, lambda_mgd=0.5, loss_weight=3, channels=1)
    for conv, gain in (loss.generation[0], 2.), (loss.generation[2], 1.):
        torch.nn.init.zeros_(conv.weight)
        torch.nn.init.zeros_(conv.bias)
        conv.weight.data[0, 0, 1, 1] = gain
    student, teacher = torch.full((1, 1, 1, 100), 2.), torch.full((1, 1, 1, 100), 5.)
    kept = int(draw_mask(0.5, student.shape).sum())
    assert 30 < kept < 70
    # 4 against 5 where the student is seen, 0 against 5 where it is masked.
    expected = 3 * 0.1 * (kept * 1 + (100 - kept) * 25)
    assert loss(student, teacher).item() == pytest.approx(expected)


@pytest.mark.parametrize('ratio', [0., 0.3, 0.65])
def test_value(maps, ratio):
    loss = MGDLoss(alpha_mgd=0.5, lambda_mgd=ratio, channels=3)
    mask = draw_mask(ratio)
    expected = formula(*arrays(maps), mask, arrays(loss.parameters()), 0.5)
    assert loss(*maps).item() == pytest.approx(expected, rel=1e-5)
    assert (mask.mean() < 1) == (ratio > 0)


def test_gradients_by_finite_differences(maps, loss):
    mask = draw_mask(0.65)
    loss(*maps).backward()
    learned = [maps[0], *loss.parameters()]
    values = arrays(learned)
    assert [value.shape for value in values[1:]] == [(3, 3, 3, 3), (3, )] * 2
    rng = np.random.default_rng(0)
    for index, tensor in enumerate(learned):
        direction = rng.standard_normal(tensor.shape)

        def moved(step, index=index, direction=direction):
            student, *weights = (value + step * direction if i == index else value
                                 for i, value in enumerate(values))
            return formula(student, arrays(maps)[1], mask, weights, 0.5)

        slope = (tensor.grad.double().numpy() * direction).sum()
        assert slope == pytest.approx((moved(1e-6) - moved(-1e-6)) / 2e-6, rel=1e-3)


def test_masks_are_drawn_afresh_from_the_global_stream(maps, loss):
    values = [loss(*maps).item() for _ in range(2)]
    assert values[0] != values[1]
    torch.manual_seed(5)
    first = loss(*maps).item()
    torch.manual_seed(5)
    assert loss(*maps).item() == first


@pytest.mark.parametrize('scale', [0., 1e4, 1e-6])
def test_extreme_features_stay_finite(maps, loss, scale):
    student = (scale * maps[0].detach()).requires_grad_()
    value = loss(student, scale * maps[1])
    value.backward()
    assert value.isfinite()
    assert all(t.grad.isfinite().all() for t in (student, *loss.parameters()))


def test_arithmetic_is_float32(maps, loss):
    low = [feature.bfloat16() for feature in maps]
    torch.manual_seed(1)
    expected = loss(*(feature.float() for feature in low))
    torch.manual_seed(1)
    with torch.autocast('cpu', torch.bfloat16):
        value = loss(*low)
    assert value.dtype == torch.float32 and value.equal(expected)


@pytest.mark.parametrize('number', [1, 3])
def test_as_criterion_of_the_avatars(maps, number):
    akd = UncertaintyFeatureLoss(dict(type='MGDLoss', alpha_mgd=1.), num_avatars=number,
                                 channels=3)
    akd(*maps).backward()
    assert maps[0].grad.any()
    assert all(p.grad.any() for p in akd.criterion.parameters())


def test_the_recomputed_step_masks_alike(maps, loss):
    """With K > 1 the criterion runs again in the backward pass, on the same masks."""
    akd = UncertaintyFeatureLoss(dict(type='MGDLoss', alpha_mgd=0.5, channels=3),
                                 uncertainty=None, num_avatars=2,
                                 perturbation=dict(type='DropoutPerturbation', drop_rate=0.))
    akd.criterion.load_state_dict(loss.state_dict())
    torch.manual_seed(2)
    akd(*maps).backward()
    torch.manual_seed(2)
    mean = (loss(*maps) + loss(*maps)) / 2
    gradients = torch.autograd.grad(mean, [maps[0], *loss.parameters()])
    for tensor, gradient in zip((maps[0], *akd.criterion.parameters()), gradients):
        torch.testing.assert_close(tensor.grad, gradient)


@pytest.mark.parametrize('changes, message', [
    (dict(channels=None), r'^channels=None: MGDLoss has to know .* AvatarDistiller .*channels='),
    (dict(alpha_mgd=-1), r'^alpha_mgd=-1: must be a number >= 0'),
    (dict(lambda_mgd=1), r'^lambda_mgd=1: must be a number in \[0, 1\)'),
    (dict(alpha_mgd='1', lambda_mgd=65), r'^2 problems(.|\n)*alpha_mgd(.|\n)*lambda_mgd'),
])
def test_bad_argument_is_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        MGDLoss(**{'channels': 4, **changes})


def test_unlike_or_flat_features_are_named(maps, loss):
    with pytest.raises(ValueError, match='student map'):
        loss(maps[0], maps[1][:1])
    with pytest.raises(ValueError, match=r'\(2, 3\) are no maps'):
        loss(torch.zeros(2, 3), torch.zeros(2, 3))


MGD = dict(_delete_=True, type='MGDLoss')
AKD = dict(_delete_=True, type='UncertaintyFeatureLoss', criterion=dict(type='MGDLoss'))


@pytest.mark.parametrize('cfg, prefix', [(MGD, ''), (AKD, 'criterion.')])
def test_trains_saves_and_resumes_in_the_distiller(toy, train, cfg, prefix):
    changes = {'model.distill.fpn.loss': cfg}
    runner = train(toy('det', 'cwd', **changes))
    own = {f'distiller.fpn.losses.{level}.{prefix}generation.{layer}.{kind}'
           for level in range(3) for layer in (0, 2) for kind in ('weight', 'bias')}
    state = runner.model.state_dict()
    assert own == {key for key in state if 'generation' in key}
    adam = runner.optim_wrapper.optimizer.state
    assert all(adam[parameter]['exp_avg'].any()
               for name, parameter in runner.model.named_parameters() if name in own)
    resumed = train(toy('det', 'cwd', resume=True, **changes)).model.state_dict()
    assert all(resumed[key].equal(state[key]) for key in own)
