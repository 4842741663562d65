"""Augmentations that depend only on a batch's place in the training."""
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, cast

import torch
from torch.utils.data import DataLoader

from ..utils.rng import mix_seed, seed_rng


class SeededBatch(list):
    """Indices of a batch, with the seed of its augmentations."""

    seed: int


class SeededBatchSampler:
    """Gives each batch of a batch sampler a seed made of ``seed`` and its position."""

    def __init__(self, batch_sampler: Iterable[list[int]], seed: int) -> None:
        self.batch_sampler = batch_sampler
        self.seed = seed
        # Of the next batch, in the whole training; several passes over the data count on.
        self.position = 0

    def __iter__(self) -> Iterator[SeededBatch]:
        for indices in self.batch_sampler:
            batch = SeededBatch(indices)
            batch.seed = mix_seed(self.seed, self.position)
            self.position += 1
            yield batch

    def __len__(self) -> int:
        return len(self.batch_sampler)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> Any:
        # MMEngine looks for ``sampler`` and ``batch_size``.
        if name == 'batch_sampler':
            raise AttributeError(name)
        return getattr(self.batch_sampler, name)


def _load_batch(dataset: Any, indices: list[int]) -> list:
    samples = []
    for place, index in enumerate(indices):
        if isinstance(indices, SeededBatch):  # not of another dataloader of the dataset
            seed_rng(mix_seed(indices.seed, place), devices=False)
        samples.append(dataset[index])
    return samples


def seed_augmentations(dataloader: DataLoader, seed: int) -> SeededBatchSampler:
    """Make a dataloader's augmentations depend only on seed and position.

    The n-th batch of a training is the same for any number of workers, and whatever was loaded
    before. Without workers, loading reseeds the global streams of the training process.

    Args:
        dataloader (DataLoader): With a batch sampler; not iterated yet. It gets a new one.
        seed (int): Seed of training and rank.
    """
    # torch asks a dataset for a whole batch where it has this method.
    dataset: Any = dataloader.dataset
    dataset.__getitems__ = partial(_load_batch, dataset)
    # Its iterators draw a seed of their workers, from the global stream else.
    dataloader.generator = torch.Generator()
    batches = SeededBatchSampler(cast(Iterable[list[int]], dataloader.batch_sampler), seed)
    # Past DataLoader.__setattr__, which forbids it: no iterator exists yet.
    vars(dataloader)['batch_sampler'] = batches
    return batches
