"""Augmentations of a batch depend on seed and place alone."""
import pytest
import torch
from torch.utils.data import DataLoader, Subset

from mmakd.hooks.seeded_data import seed_augmentations

from .small_run import Numbers, draw


def load(seed=0, position=0, workers=0, passes=1, dataset=None, **more):
    loader = DataLoader(dataset or Numbers(), batch_size=2, num_workers=workers, **more)
    seed_augmentations(loader, seed).position = position
    return torch.cat([batch['inputs'] for _ in range(passes) for batch in loader])


def test_repeats_whatever_was_drawn_before():
    first = load()
    draw()
    assert torch.equal(load(), first)


@pytest.mark.parametrize('more', [dict(), dict(persistent_workers=True),
                                  dict(prefetch_factor=3)])
def test_workers_make_no_difference(more):
    assert torch.equal(load(workers=2, passes=2, **more), load(passes=2))


def test_every_draw_is_another():
    loaded = load(passes=2)
    assert torch.equal(loaded[:10, 0], loaded[10:, 0])
    assert loaded[:, 1:].unique().numel() == loaded[:, 1:].numel()
    assert not torch.isin(load(seed=1)[:, 1:], loaded).any()


def test_begins_at_a_position():
    assert torch.equal(load(position=5), load(passes=2)[10:])


def test_subset_of_torch_loads_batches_itself():
    assert torch.equal(load(dataset=Subset(Numbers(), range(10))), load())


def test_hides_nothing_of_the_loader():
    loader = DataLoader(Numbers(), batch_size=2, shuffle=True, drop_last=True)
    sampler = loader.batch_sampler.sampler
    batches = seed_augmentations(loader, 0)
    assert loader.batch_sampler is batches
    assert (len(loader), batches.batch_size, batches.sampler) == (5, 2, sampler)
    with pytest.raises(AttributeError):
        _ = batches.nothing


def test_leaves_other_loaders_of_the_data_alone():
    dataset = Numbers()
    seed_augmentations(DataLoader(dataset, batch_size=2), 0)
    other = DataLoader(dataset, batch_size=2)
    state = torch.get_rng_state()
    first, second = (next(iter(other))['inputs'] for _ in range(2))
    assert torch.equal(first[:, 0], second[:, 0])
    assert not torch.equal(first, second)
    assert not torch.equal(torch.get_rng_state(), state)
