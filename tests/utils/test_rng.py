import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmakd.utils.rng import mix_seed, preserve_rng, seed_rng

numbers = st.integers(0, 2**32 - 1)
fixed = settings(derandomize=True, database=None, deadline=None)


def draw_all():
    return random.random(), np.random.rand(), torch.rand(3).tolist()


@pytest.mark.parametrize('error', [None, KeyError])
def test_block_leaves_the_global_streams_alone(error):
    with preserve_rng():
        expected = draw_all()
    try:
        with preserve_rng():
            inside = draw_all()
            if error:
                raise error
    except KeyError:
        pass
    assert inside == expected  # starts from the same state
    assert draw_all() == expected


def test_block_is_reproducible_from_the_global_seed():
    results = []
    for seed in 0, 0, 1:
        torch.manual_seed(seed)
        with preserve_rng():
            results.append(torch.rand(3).tolist())
    assert results[0] == results[1] != results[2]


@pytest.mark.parametrize('devices', [True, False])
def test_seeding_starts_every_stream_anew(devices):
    results = []
    for seed in 2**63 - 1, 2**63 - 1, 0:
        seed_rng(seed, devices)
        results.append(draw_all())
    assert results[0] == results[1]
    assert all(first != second for first, second in zip(results[1], results[2]))


@fixed
@given(seed=numbers, rank=numbers, name=st.text())
def test_mixed_seed_is_a_generators_seed_and_repeats(seed, rank, name):
    mixed = mix_seed(seed, rank, name)
    assert 0 <= mixed < 2**63
    assert mixed == mix_seed(seed, rank, name)
    torch.Generator().manual_seed(mixed)


@fixed
@given(parts=st.lists(numbers, min_size=3, max_size=3), position=st.integers(0, 2), other=numbers)
def test_every_part_makes_a_difference(parts, position, other):
    changed = [*parts[:position], other, *parts[position + 1:]]
    assert (mix_seed(*changed) == mix_seed(*parts)) == (changed == parts)


def test_order_and_names_make_a_difference():
    seeds = {mix_seed(*parts) for parts in [(1, 2, 'fpn'), (2, 1, 'fpn'), (1, 2, 'head'),
                                            ('fpn', 1, 2)]}
    assert len(seeds) == 4


def test_mixed_seeds_of_neighbours_give_unlike_streams():
    first, second = (torch.rand(10000, generator=torch.Generator().manual_seed(mix_seed(0, i)))
                     for i in range(2))
    correlation = torch.corrcoef(torch.stack([first, second]))[0, 1]
    assert abs(correlation) < 5 / 10000**0.5
