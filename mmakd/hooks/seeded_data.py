"""Augmentations that depend on a batch's place in the training alone."""
import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

import numpy as np
import torch
from torch.utils.data import DataLoader

from ..rng import mix_seed, preserve_rng


class SeededBatch(list):
    """The indices of a batch, with the seed of its augmentations."""

    seed: int


class SeededBatchSampler:
    """Gives each batch of a batch sampler a seed made of its position.

    Args:
        batch_sampler (Iterable): The batch sampler.
        seed (int): Seed of the training, the rank mixed in.
        start (Callable[[], int]): Called where an iteration begins: the position of its first
            batch in the training.
    """

    def __init__(self, batch_sampler: Iterable[list[int]], seed: int,
                 start: Callable[[], int]) -> None:
        self.batch_sampler = batch_sampler
        self.seed = seed
        self.start = start

    def __iter__(self) -> Iterator[SeededBatch]:
        for position, indices in enumerate(self.batch_sampler, self.start()):
            batch = SeededBatch(indices)
            batch.seed = mix_seed(self.seed, position)
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
        if not isinstance(indices, SeededBatch):
            return [self.dataset[index] for index in indices]
        with preserve_rng(cuda=False):
            return [self._load(index, mix_seed(indices.seed, place))
                    for place, index in enumerate(indices)]

    def _load(self, index: int, seed: int) -> Any:
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.default_generator.manual_seed(seed)
        return self.dataset[index]


def seed_augmentations(dataloader: DataLoader, seed: int, start: Callable[[], int]) -> None:
    """Have a dataloader's augmentations depend on seed and position alone.

    However many workers there are, and whatever they have loaded before, the n-th batch of a
    training is the same. The process's own streams do not feel the loading.

    Args:
        dataloader (DataLoader): With a batch sampler, before it is first iterated.
        seed (int): Seed of the training, the rank mixed in.
        start (Callable[[], int]): Called where an iteration begins: the position of its first
            batch in the training.
    """
    # torch asks a dataset for a whole batch where it has this method.
    dataloader.dataset.__getitems__ = _SeededItems(dataloader.dataset)  # type: ignore[attr-defined]
    # Its iterators draw a seed of their workers, now and then.
    dataloader.generator = torch.Generator()
    # Past DataLoader.__setattr__, which forbids it: no iterator exists yet.
    batches = cast(Iterable[list[int]], dataloader.batch_sampler)
    vars(dataloader)['batch_sampler'] = SeededBatchSampler(batches, seed, start)
