"""What all perturbations promise: unbiased Avatars and the spread they state."""
import pytest
import torch
import torch.nn.functional as F
from mmengine.registry import MODELS

import mmakd  # noqa: F401
from mmakd.avatars import (
    ChannelDropoutPerturbation,
    DropBlockPerturbation,
    DropoutPerturbation,
    GaussianNoisePerturbation,
)
from mmakd.utils.build import build
from mmakd.utils.errors import ConfigError

NUM_DRAWS = 4000
FLOAT16 = pytest.param(torch.float16, marks=pytest.mark.skipif(
    torch.__version__ < '2.3', reason='torch before 2.3 does little in float16 on the CPU'))

ALL = [
    dict(type='DropoutPerturbation', drop_rate=0.3),
    dict(type='DropoutPerturbation', drop_rate=0.3, fill='zero'),
    dict(type='ChannelDropoutPerturbation', drop_rate=0.3),
    dict(type='ChannelDropoutPerturbation', drop_rate=0.3, fill='zero'),
    dict(type='DropBlockPerturbation', drop_rate=0.3, block_size=3),
    dict(type='DropBlockPerturbation', drop_rate=0.3, block_size=3, fill='zero'),
    dict(type='DropBlockPerturbation', drop_rate=0.2, block_size=7),  # larger than the map
    dict(type='GaussianNoisePerturbation', std=0.4),
    dict(type='GaussianNoisePerturbation', std=0.4, relative=False),
]


def name_of(cfg):
    return '-'.join(str(value) for value in cfg.values())


each_perturbation = pytest.mark.parametrize('cfg', ALL, ids=name_of)
each_dropout = pytest.mark.parametrize(
    'dropout', [DropoutPerturbation, ChannelDropoutPerturbation, DropBlockPerturbation])
each_shape = pytest.mark.parametrize('shape', [(2, 3, 6, 5), (3, 4)], ids=['map', 'vectors'])


def make_feature(*shape):
    """A feature whose images and channels differ in scale, and whose mean is not zero."""
    generator = torch.Generator().manual_seed(0)
    feature = torch.randn(shape, generator=generator) + 0.5
    scale = torch.rand(shape[:2], generator=generator) + 0.5
    return feature * scale.view(*shape[:2], *[1] * (len(shape) - 2))


def draw(perturbation, feature, number=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([perturbation(feature, generator) for _ in range(number)])


@each_shape
@each_perturbation
def test_mean_of_avatars_is_the_feature(cfg, shape):
    perturbation, feature = MODELS.build(cfg), make_feature(*shape)
    avatars = draw(perturbation, feature, NUM_DRAWS)
    standard_error = avatars.std(0) / NUM_DRAWS**0.5
    assert ((avatars.mean(0) - feature).abs() <= 5 * standard_error).all()


@each_shape
@each_perturbation
def test_variance_is_the_spread_of_avatars_at_every_position(cfg, shape):
    perturbation, feature = MODELS.build(cfg), make_feature(*shape)
    squares = (draw(perturbation, feature, NUM_DRAWS) - feature).square()
    standard_error = squares.std(0) / NUM_DRAWS**0.5
    variance = perturbation.variance(feature).expand_as(feature)
    assert ((squares.mean(0) - variance).abs() <= 5 * standard_error).all()


@each_shape
@pytest.mark.parametrize('dtype', [FLOAT16, torch.bfloat16, torch.float64])
@each_perturbation
def test_shape_and_dtype_are_kept(cfg, shape, dtype):
    perturbation, feature = MODELS.build(cfg), make_feature(*shape).to(dtype)
    avatar = perturbation(feature)
    assert (avatar.shape, avatar.dtype) == (feature.shape, dtype)
    assert avatar.isfinite().all()
    assert not avatar.equal(feature)


@each_perturbation
def test_nothing_leaves_the_device_of_the_feature(cfg):
    perturbation, feature = MODELS.build(cfg), torch.empty(2, 3, 6, 5, device='meta')
    assert perturbation(feature).device == feature.device
    assert perturbation.variance(feature).device == feature.device


@each_perturbation
def test_generator_alone_decides_the_avatar(cfg):
    perturbation, feature = MODELS.build(cfg), make_feature(2, 8, 6, 5)
    untouched = feature.clone()
    global_state = torch.get_rng_state()
    first = draw(perturbation, feature, seed=1)
    assert first.equal(draw(perturbation, feature, seed=1))
    assert not first.equal(draw(perturbation, feature, seed=2))
    assert torch.get_rng_state().equal(global_state)
    assert feature.equal(untouched)


@each_perturbation
def test_train_and_eval_mode_are_alike(cfg):
    perturbation, feature = MODELS.build(cfg), make_feature(2, 3, 6, 5)
    assert draw(perturbation.train(), feature).equal(draw(perturbation.eval(), feature))


@each_perturbation
def test_strength_scales_the_nominal_rate_or_deviation(cfg):
    feature = make_feature(2, 3, 6, 5)
    key = 'drop_rate' if 'drop_rate' in cfg else 'std'
    weakened = MODELS.build(cfg)
    weakened.strength = 0.5
    nominal = MODELS.build({**cfg, key: 0.5 * cfg[key]})
    assert draw(weakened, feature).equal(draw(nominal, feature))
    assert weakened.variance(feature).equal(nominal.variance(feature))


@each_perturbation
def test_strength_zero_gives_the_feature(cfg):
    perturbation, feature = MODELS.build(cfg), make_feature(2, 3, 6, 5)
    perturbation.strength = 0.0
    assert perturbation(feature).equal(feature)
    assert not perturbation.variance(feature).any()


@each_dropout
def test_dropped_elements_are_zero_and_the_others_are_scaled_up(dropout):
    feature = make_feature(4, 16, 8, 8)
    avatar = draw(dropout(drop_rate=0.2, fill='zero'), feature)[0]
    kept = avatar != 0
    assert 0 < kept.sum() < kept.numel()
    torch.testing.assert_close(avatar[kept], feature[kept] / 0.8)


@each_dropout
@pytest.mark.parametrize('shape, dims', [((4, 16, 8, 8), (2, 3)), ((6, 16), 0),
                                         ((6, 16, 1, 1), 0)], ids=['map', 'vectors', 'position'])
def test_dropped_elements_are_the_mean_and_the_others_move_away_from_it(dropout, shape, dims):
    feature = make_feature(*shape)
    mean = feature.mean(dims, keepdim=True).expand_as(feature)
    avatar = draw(dropout(drop_rate=0.2), feature)[0]
    # The same draw says which are dropped.
    kept = draw(dropout(drop_rate=0.2, fill='zero'), feature)[0] != 0
    assert 0 < kept.sum() < kept.numel()
    torch.testing.assert_close(avatar[~kept], mean[~kept])
    torch.testing.assert_close((avatar - mean)[kept], (feature - mean)[kept] / 0.8)


@each_dropout
def test_variance_about_the_mean_in_closed_form(dropout):
    feature = make_feature(4, 16, 8, 8).double()
    centred = feature - feature.mean((2, 3), keepdim=True)
    perturbation = dropout(drop_rate=0.2)
    torch.testing.assert_close(perturbation.variance(feature), 0.25 * centred**2)
    # One vector is its own mean, and stays as it is.
    assert perturbation(feature[:1, :, 0, 0]).equal(feature[:1, :, 0, 0])
    assert not perturbation.variance(feature[:1, :, 0, 0]).any()


def test_channels_drop_as_a_whole_and_apart_from_each_other():
    kept = draw(ChannelDropoutPerturbation(0.5, 'zero'), torch.ones(2, 3, 6, 5), NUM_DRAWS) != 0
    assert kept.equal(kept[..., :1, :1].expand_as(kept))
    pairs = kept[:, 0, :2, 0, 0].float().prod(1)
    assert abs(pairs.mean() - 0.25) <= 5 * pairs.std() / NUM_DRAWS**0.5


@pytest.mark.parametrize('block_size', [1, 2, 3, 7])
def test_neighbours_drop_in_blocks(block_size):
    """Neighbours share all but one column of their seeds: both stay with (1 - p)^(1 + 1 / b)."""
    perturbation = DropBlockPerturbation(0.3, block_size, 'zero')
    kept = draw(perturbation, torch.ones(1, 4, 1, 2), NUM_DRAWS) != 0
    both = kept.all(-1).float()
    expected = 0.7**(1 + 1 / block_size)
    # The four channels are drawn independently.
    assert abs(both.mean() - expected) <= 5 * both.std() / both.numel()**0.5


def test_dropped_area_is_made_of_whole_squares():
    dropped = draw(DropBlockPerturbation(0.2, 3, 'zero'), torch.ones(1, 8, 20, 20)) == 0
    dropped = dropped.float().flatten(0, 2)
    # Opening (erosion, then dilation) by the same square leaves a union of such squares as it is.
    # Squares that reach over the border are cut there, so only the inner part is compared.
    eroded = 1 - F.max_pool2d(1 - dropped, 3, stride=1)
    opened = F.max_pool2d(F.pad(eroded, [2] * 4), 3, stride=1)
    inner = (..., slice(2, -2), slice(2, -2))
    assert 0 < dropped.mean() < 1
    assert opened[inner].equal(dropped[inner])


def test_relative_noise_counts_in_units_of_each_images_channel():
    feature = make_feature(2, 3, 6, 5)
    mean_square = feature.square().mean((2, 3), keepdim=True)
    variance = GaussianNoisePerturbation(0.4).variance(feature)
    torch.testing.assert_close(variance, 0.16 * mean_square)
    absolute = GaussianNoisePerturbation(0.4, relative=False).variance(feature)
    torch.testing.assert_close(absolute, torch.full((1, 1, 1, 1), 0.16))


@each_dropout
@pytest.mark.parametrize('rate', [-0.1, 1, 1.5, float('nan'), True, '0.1', None, [0.1]])
def test_bad_drop_rate_is_named(dropout, rate):
    with pytest.raises(ConfigError, match=r'^drop_rate=.*\[0, 1\)'):
        dropout(drop_rate=rate)


@each_dropout
@pytest.mark.parametrize('fill', ['means', 0, None, True])
def test_bad_fill_is_named(dropout, fill):
    with pytest.raises(ConfigError, match=r"^fill=.*'mean'"):
        build(dict(type=dropout.__name__, fill=fill))


@pytest.mark.parametrize('size', [0, -3, 2.5, '7', None])
def test_bad_block_size_is_named(size):
    with pytest.raises(ConfigError, match=r'^block_size=.*integer >= 1'):
        DropBlockPerturbation(block_size=size)


@pytest.mark.parametrize('std', [-0.1, float('nan'), '0.1', None])
def test_bad_std_is_named(std):
    with pytest.raises(ConfigError, match=r'^std=.*>= 0'):
        GaussianNoisePerturbation(std=std)


@each_dropout
@pytest.mark.parametrize('strength', [2, 2.5, -1])
def test_strength_cannot_bring_the_rate_out_of_range(dropout, strength):
    perturbation = dropout(drop_rate=0.5)
    perturbation.strength = strength
    for use in perturbation, perturbation.variance:
        with pytest.raises(ValueError, match=rf'drop_rate=0.5 times strength={strength}'):
            use(torch.ones(1, 1, 2, 2))
