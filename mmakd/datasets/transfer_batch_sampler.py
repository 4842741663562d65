"""Batches with a fixed share of unlabelled images."""
from collections.abc import Iterator
from itertools import count, islice
from typing import Any

from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.registry import DATA_SAMPLERS
from torch.utils.data import BatchSampler

from ..utils.errors import ConfigError
from .transfer_set_dataset import TransferSetDataset


@DATA_SAMPLERS.register_module()
class TransferBatchSampler(BatchSampler):
    """Makes batches of a :class:`TransferSetDataset`, the labelled images first.

    MMEngine gives it ``batch_size`` and ``sampler`` of the dataloader. A ``DefaultSampler``, for
    epochs, and an ``InfiniteSampler``, for iterations, mean what they mean elsewhere, with their
    ``shuffle`` and ``seed``. An epoch is one pass over the labelled images; the last batch is
    filled up with further ones. Either part goes round as often as needed: n-th batch, seed, rank
    and number of ranks alone decide about the images.

    Args:
        sampler (DefaultSampler | InfiniteSampler): The sampler of the dataloader.
        batch_size (int): Images of a batch, of one rank.

    Raises:
        ConfigError: If ``ratio`` gives no whole number of images, or the data set or the sampler
            is of another type.
    """

    def __init__(self, sampler: Any, batch_size: int) -> None:
        dataset = getattr(sampler, 'dataset', None)
        if not isinstance(dataset, TransferSetDataset):
            raise ConfigError("train_dataloader.batch_sampler.type='TransferBatchSampler': needs "
                              f"dataset.type='TransferSetDataset', not {type(dataset).__name__}")
        if not isinstance(sampler, (DefaultSampler, InfiniteSampler)):
            raise ConfigError(f'train_dataloader.sampler.type={type(sampler).__name__!r}: '
                              'TransferBatchSampler needs DefaultSampler or InfiniteSampler')
        super().__init__(sampler, batch_size, drop_last=False)
        number = number_of_unlabelled(dataset.ratio, batch_size)
        # Size of the part and of its share of a batch, and its first index.
        self._parts = ((dataset.num_labelled, batch_size - number, 0),
                       (len(dataset) - dataset.num_labelled, number, dataset.num_labelled))

    def __iter__(self) -> Iterator[list[int]]:
        sampler: Any = self.sampler
        is_endless = isinstance(sampler, InfiniteSampler)
        begin = 0 if is_endless else sampler.epoch * len(self)
        streams = []
        for part, (size, number, first) in enumerate(self._parts):
            stream = InfiniteSampler(range(size), sampler.shuffle, sampler.seed + part)
            streams.append((islice(stream, begin * number, None), number, first))
        for _ in count() if is_endless else range(len(self)):
            yield [first + index for stream, number, first in streams
                   for index in islice(stream, number)]

    def __len__(self) -> int:
        size, number, _ = self._parts[0]
        sampler: Any = self.sampler
        return -(-size // (number * sampler.world_size))


def number_of_unlabelled(ratio: float, batch_size: int) -> int:
    """Compute how many images of a batch are unlabelled.

    Raises:
        ConfigError: If it is no whole number.
    """
    wanted = ratio * batch_size
    if abs(wanted - round(wanted)) > 1e-6:
        valid = ' or '.join(f'{number}/{batch_size}' for number in (int(wanted), int(wanted) + 1)
                            if 0 < number < batch_size)
        raise ConfigError(f'train_dataloader.dataset.ratio={ratio!r}: {wanted:g} unlabelled '
                          f'images of batch_size={batch_size} are no whole number; '
                          f'set {"ratio=" + valid if valid else "a larger batch_size"}')
    return round(wanted)
