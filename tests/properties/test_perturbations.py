"""What every perturbation promises."""
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmakd.utils.build import build
from tests.properties.criteria import FLOAT16, SEEDS, make_map

RATES = st.floats(0.05, 0.9)
FILLS = st.sampled_from(['mean', 'zero'])
PERTURBATIONS = st.one_of(
    st.builds(lambda rate, fill: dict(type='DropoutPerturbation', drop_rate=rate, fill=fill),
              RATES, FILLS),
    st.builds(lambda rate, fill: dict(type='ChannelDropoutPerturbation', drop_rate=rate,
                                      fill=fill), RATES, FILLS),
    st.builds(lambda rate, size, fill: dict(type='DropBlockPerturbation', drop_rate=rate,
                                            block_size=size, fill=fill),
              RATES, st.integers(1, 4), FILLS),
    st.builds(lambda std, relative: dict(type='GaussianNoisePerturbation', std=std,
                                         relative=relative), st.floats(0.01, 3), st.booleans()))
SHAPES = st.one_of(
    st.tuples(st.integers(1, 2), st.integers(1, 3), st.integers(1, 5), st.integers(1, 5)),
    st.tuples(st.integers(1, 3), st.integers(1, 6)))
NUMBER = 3000


def generator(seed):
    return torch.Generator().manual_seed(seed)


@given(cfg=PERTURBATIONS, seed=SEEDS, strength=st.floats(0.1, 1),
       shape=st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4)))
def test_mean_and_variance(cfg, seed, strength, shape):
    """The mean is the feature, the variance the closed form; each within 6 deviations."""
    perturbation = build(cfg)
    perturbation.strength = strength
    feature = make_map((1, *shape), seed)
    avatars = perturbation(feature.expand(NUMBER, *shape), generator(seed)).double()
    variance = perturbation.variance(feature).double().expand(1, *shape)[0]
    error = (avatars.mean(0) - feature[0]).abs()
    assert (error <= 6 * (variance / NUMBER).sqrt() + 1e-6).all()
    squares = (avatars - feature).square()
    error = (squares.mean(0) - variance).abs()
    assert (error <= 6 * squares.std(0) / NUMBER**0.5 + 1e-5 * variance).all()


@given(cfg=PERTURBATIONS, seed=SEEDS, shape=SHAPES)
def test_the_generator_decides_alone(cfg, seed, shape):
    perturbation, feature = build(cfg), make_map(shape, seed)
    kept, state = feature.clone(), torch.get_rng_state()
    first = perturbation.train()(feature, generator(seed))
    assert torch.equal(perturbation.eval()(feature, generator(seed)), first)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(feature, kept)
    assert first.shape == feature.shape and first.dtype == feature.dtype
    source = generator(seed)
    if perturbation.variance(feature).any():  # one vector is its own mean
        assert any(not torch.equal(perturbation(feature, source), first) for _ in range(200))


@given(cfg=PERTURBATIONS, seed=SEEDS, shape=SHAPES, strength=st.floats(0.1, 1))
def test_strength_is_a_factor_on_the_setting(cfg, seed, shape, strength):
    feature, perturbation = make_map(shape, seed), build(cfg)
    perturbation.strength = strength
    key = 'std' if 'std' in cfg else 'drop_rate'
    weaker = build({**cfg, key: cfg[key] * strength})
    assert torch.equal(perturbation(feature, generator(seed)), weaker(feature, generator(seed)))
    assert torch.equal(perturbation.variance(feature), weaker.variance(feature))
    perturbation.strength = 0.0
    assert torch.equal(perturbation(feature, generator(seed)), feature)
    assert not perturbation.variance(feature).any()


@given(cfg=PERTURBATIONS, seed=SEEDS, shape=SHAPES)
def test_vectors_and_maps_of_one_position_are_alike(cfg, seed, shape):
    perturbation, feature = build(cfg), make_map(shape[:2], seed)
    if cfg['type'] == 'DropBlockPerturbation' and cfg['block_size'] > 1:
        return  # tested by hand
    of_vectors = perturbation(feature, generator(seed))
    of_maps = perturbation(feature[..., None, None], generator(seed))
    torch.testing.assert_close(of_vectors, of_maps[..., 0, 0])
    torch.testing.assert_close(
        perturbation.variance(feature).expand(shape[:2]),
        perturbation.variance(feature[..., None, None]).expand(*shape[:2], 1, 1)[..., 0, 0])


@pytest.mark.parametrize('dtype', [FLOAT16, torch.bfloat16])
@given(cfg=PERTURBATIONS, seed=SEEDS, scale=st.sampled_from([0.0, 1e-6, 1.0, 1e3]))
def test_low_precision_stays_finite(dtype, cfg, seed, scale):
    feature = make_map((2, 3, 4, 4), seed, scale).to(dtype)
    avatar = build(cfg)(feature, generator(seed))
    assert avatar.dtype == dtype and avatar.isfinite().all()
