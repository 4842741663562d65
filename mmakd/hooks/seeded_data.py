"""Augmentations that depend on a batch's place in the training alone."""
from collections.abc import Iterable, Iterator
from typing import Any, cast

import torch
from torch.utils.data import DataLoader

from ..utils.rng import mix_seed, seed_rng


class SeededBatch(list):
    """The indices of a batch, with the seed of its augmentations."""

    seed: int


class SeededBatchSampler:
    """Gives each batch of a batch sampler a seed made of its position.

    Args:
        batch_sampler (Iterable): The batch sampler.
        seed (int): Seed of the training, the rank mixed in.
    """

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


class _SeededItems:
    """Loads the samples of a batch, each behind a seed of its own."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __call__(self, indices: list[int]) -> list:
        if not isinstance(indices, SeededBatch):  # another dataloader of the dataset
            return [self.dataset[index] for index in indices]
        return [self._load(index, mix_seed(indices.seed, place))
                for place, index in enumerate(indices)]

    def _load(self, index: int, seed: int) -> Any:
        seed_rng(seed, devices=False)
        return self.dataset[index]


def seed_augmentations(dataloader: DataLoader, seed: int) -> SeededBatchSampler:
    """Have a dataloader's augmentations depend on seed and position alone.

    However many workers there are, and whatever they have loaded before, the n-th batch of a
    training is the same. Loading in the training process moves its global streams.

    Args:
        dataloader (DataLoader): With a batch sampler, before it is first iterated.
        seed (int): Seed of the training, the rank mixed in.

    Returns:
        SeededBatchSampler: The dataloader's batch sampler from now on.
    """
    # torch asks a dataset for a whole batch where it has this method.
    dataloader.dataset.__getitems__ = _SeededItems(dataloader.dataset)  # type: ignore[attr-defined]
    # Its iterators draw a seed of their workers, from the global stream else.
    dataloader.generator = torch.Generator()
    batches = SeededBatchSampler(cast(Iterable[list[int]], dataloader.batch_sampler), seed)
    # Past DataLoader.__setattr__, which forbids it: no iterator exists yet.
    vars(dataloader)['batch_sampler'] = batches
    return batches
