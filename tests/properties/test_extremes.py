"""Extreme features give finite losses and gradients, or a clear error; never NaN."""
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmengine.registry import MODELS
from torch import nn

from mmakd.losses import UncertaintyFeatureLoss
from tests.properties.criteria import FLOAT16, KINDS, SEEDS, make_criterion, make_map, samples

CHANNELS = 3


def columns(*values):
    """A map whose channels are constant."""
    return torch.tensor(values).view(1, -1, 1, 1).expand(2, -1, 4, 5).clone()


NORMAL = make_map((2, CHANNELS, 4, 5), 0)
MAPS = {
    'normal': (NORMAL, make_map((2, CHANNELS, 4, 5), 1)),
    'large': (1e4 * NORMAL / NORMAL.abs().max(), -1e4 * NORMAL / NORMAL.abs().max()),
    'small': (1e-6 * NORMAL, -1e-6 * NORMAL),
    'large against small': (1e4 * NORMAL / NORMAL.abs().max(), 1e-6 * NORMAL),
    'small against large': (1e-6 * NORMAL, 1e4 * NORMAL / NORMAL.abs().max()),
    'channels of unlike scale': (NORMAL * columns(1e3, 1e-6, 1.0), NORMAL.flip(0)),
    'constant channels': (columns(1.0, -2.0, 1e4), columns(3.0, 0.0, 1e-6)),
    'large constants': (columns(1.0, -2.0, 3.0), columns(1e4, -1e4, 1e4)),
    'equal constants': (columns(1.0, 0.0, 2.0), columns(1.0, 0.0, 2.0)),
    'both zero': (0 * NORMAL, 0 * NORMAL),
    'a zero teacher': (NORMAL, 0 * NORMAL),
    'a zero student': (0 * NORMAL, NORMAL),
    'one pixel': (make_map((2, CHANNELS, 1, 1), 0), make_map((2, CHANNELS, 1, 1), 1)),
    'one image': (make_map((1, CHANNELS, 4, 5), 0), make_map((1, CHANNELS, 4, 5), 1)),
    'one number': (make_map((1, CHANNELS, 1, 1), 0), make_map((1, CHANNELS, 1, 1), 1)),
    'vectors': (make_map((4, CHANNELS), 0), make_map((4, CHANNELS), 1)),
    'one vector': (make_map((1, CHANNELS), 0), make_map((1, CHANNELS), 1)),
    'no image': (NORMAL[:0], NORMAL[:0]),
    'no position': (NORMAL[..., :0], NORMAL[..., :0]),
    'no vector': (torch.zeros(0, CHANNELS), torch.zeros(0, CHANNELS)),
}
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
AVATARS = {
    'alone': None,
    'K=1': dict(num_avatars=1),
    'K=3': dict(num_avatars=3),
    'sampled': dict(num_avatars=2, uncertainty=dict(type='AvatarVariance', estimator='sampled')),
    'to the letter': dict(uncertainty=dict(type='AvatarVariance', rescale=None)),
    'released code': dict(uncertainty=dict(type='BatchStatistics')),
    'noise': dict(perturbation=dict(type='GaussianNoisePerturbation', std=1.0)),
}
CLEAR = r'no maps \(N, C, H, W\)|more than 1 value per channel'


def make_loss(kind, wrapper):
    loss = make_criterion(kind, CHANNELS)
    if AVATARS[wrapper] is None:
        return loss
    wrapped = UncertaintyFeatureLoss(dict(type=kind, **KINDS[kind]), channels=CHANNELS,
                                     **AVATARS[wrapper])
    wrapped.criterion = loss
    return wrapped


def value_and_gradients(kind, loss, student, teacher):
    """Run once; the gradients of the student and of the loss's own weights."""
    loss.zero_grad()
    student = student.detach().clone().requires_grad_()
    if kind == 'FGDLoss':
        value = loss(student, teacher, data_samples=samples(len(student)))
    else:
        value = loss(student, teacher)
    value.backward()
    learned = [p.grad for p in loss.parameters() if p.requires_grad]
    assert all(gradient is not None for gradient in learned)
    return value, [student.grad, *learned]


@pytest.mark.parametrize('wrapper', AVATARS)
@pytest.mark.parametrize('kind', KINDS)
def test_every_feature(kind, wrapper):
    refused = set()
    for dtype in DTYPES:
        for name, maps in MAPS.items():
            torch.manual_seed(0)
            loss = make_loss(kind, wrapper)
            student, teacher = (feature.to(dtype) for feature in maps)
            assert student.isfinite().all() and teacher.isfinite().all()
            try:
                value, gradients = value_and_gradients(kind, loss, student, teacher)
            except ValueError as error:
                assert re.search(CLEAR, str(error)), (name, dtype, error)
                refused.add(name)
                continue
            assert value.isfinite() and value.dtype == torch.float32, (name, dtype, value)
            if dtype == torch.float16 and not gradients[0].isfinite().all():
                # Beyond its range, where AmpOptimWrapper's loss scale has the step left out.
                torch.manual_seed(0)
                _, exact = value_and_gradients(kind, make_loss(kind, wrapper), student.float(),
                                               teacher.float())
                assert not gradients[0].isnan().any()
                assert torch.equal(exact[0].abs() > 65504 + 15, gradients[0].isinf())
                gradients = exact
            assert all(part.isfinite().all() for part in gradients), (name, dtype)
    expected = set()
    if wrapper == 'alone' and kind in ('ChannelWiseDivergence', 'MGDLoss', 'MasKDLoss',
                                       'FGDLoss'):
        expected = {'vectors', 'one vector'}
    elif wrapper == 'released code':
        expected = {'one number', 'one vector'}
    assert refused == expected


@pytest.mark.parametrize('wrapper', ['alone', 'K=1', 'K=3', 'released code'])
@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('dtype', [FLOAT16, torch.bfloat16])
@pytest.mark.parametrize('scale', [1e4, 1.0, 1e-6])
def test_steps_under_autocast(kind, wrapper, dtype, scale):
    """A layer in front of the loss takes steps, and never one that is not finite."""
    torch.manual_seed(0)
    layer = nn.Conv2d(CHANNELS, CHANNELS, 1)
    loss = make_loss(kind, wrapper)
    optimizer = torch.optim.SGD([*layer.parameters(), *loss.parameters()], 1e-12)
    if dtype == torch.float16:
        # Trained with a loss scale, that is lowered where a gradient overflows.
        scaler = torch.amp.GradScaler('cpu', init_scale=1.0)
    image, teacher = (make_map((2, CHANNELS, 6, 6), seed, scale / 4) for seed in (2, 3))
    steps = 0
    for _ in range(60):
        optimizer.zero_grad()
        with torch.autocast('cpu', dtype):
            student = layer(image)
            boxes = dict(data_samples=samples(2)) if kind == 'FGDLoss' else {}
            value = loss(student, teacher.to(dtype), **boxes)
        assert student.dtype == dtype and value.isfinite()
        (scaler.scale(value) if dtype == torch.float16 else value).backward()
        finite = all(p.grad.isfinite().all() for p in layer.parameters())
        assert finite or dtype == torch.float16
        if dtype == torch.float16:
            scaler.step(optimizer)
            scaler.update()
        else:
            optimizer.step()
        assert all(p.isfinite().all() for p in [*layer.parameters(), *loss.parameters()])
        steps += finite
        if steps == 2:
            break
    assert steps == 2


@pytest.mark.parametrize('kind', KINDS)
@given(seed=SEEDS, exponents=st.tuples(*[st.integers(-12, 4)] * 2),
       shape=st.tuples(st.integers(1, 2), st.just(CHANNELS), st.integers(1, 4),
                       st.integers(1, 4)), number=st.sampled_from([1, 3]))
def test_any_scale(kind, seed, exponents, shape, number):
    loss = UncertaintyFeatureLoss(dict(type=kind, **KINDS[kind]), channels=CHANNELS,
                                  num_avatars=number)
    maps = (make_map(shape, seed + i, 10.0**exponent) for i, exponent in enumerate(exponents))
    value, gradients = value_and_gradients(kind, loss, *maps)
    assert value.isfinite() and all(part.isfinite().all() for part in gradients)


@pytest.mark.parametrize('value', [-1, -1e-9, float('nan'), float('inf'), '7.5', None, [1.], True])
@pytest.mark.parametrize('kind', [*KINDS, 'UncertaintyFeatureLoss'])
def test_every_loss_refuses_such_a_weight(kind, value):
    options = dict(criterion=dict(type='PKDLoss')) if kind not in KINDS else {}
    offer = dict(channels=CHANNELS) if kind in ('MGDLoss', 'MasKDLoss', 'FGDLoss') else {}
    with pytest.raises(ValueError, match=r'(?s)^loss_weight=.*must be a number >= 0'):
        MODELS.build(dict(type=kind, loss_weight=value, **options, **offer))
