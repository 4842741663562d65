"""Check what a transfer set needs elsewhere in the config."""
from typing import Any

from mmengine.registry import DATA_SAMPLERS, DATASETS
from torch import nn

from ..datasets import TransferBatchSampler, TransferSetDataset
from ..datasets.transfer_batch_sampler import number_of_unlabelled
from ..distillers import AvatarDistiller
from ..utils.build import check_arguments, find_type
from ..utils.errors import ConfigProblems

_KEY = 'train_dataloader'


def is_transfer_set(dataset: Any) -> bool:
    """Tell whether a config is that of a ``TransferSetDataset``."""
    kind = dataset.get('type') if isinstance(dataset, dict) else None
    return kind in (TransferSetDataset, TransferSetDataset.__name__)


def check_transfer_set(loader: dict, model: nn.Module | None, problems: ConfigProblems) -> dict:
    """Check the dataloader of a transfer set and the model, without reading annotations.

    Returns:
        dict: Its metainfo; empty if it cannot be built.
    """
    built = None
    with problems.attempt(f'{_KEY}.dataset'):
        check_arguments(loader['dataset'], TransferSetDataset)
        with problems.under(''):  # its errors name the whole key
            built = DATASETS.build({**loader['dataset'], 'lazy_init': True})
    if model is not None and not isinstance(model, AvatarDistiller):
        problems.add(f"{_KEY}.dataset.type='TransferSetDataset': {type(model).__name__} has no "
                     'teacher to learn from on images without labels; train model=dict(type='
                     "'AvatarDistiller', ...), or take the labelled data set alone")
    sampler = loader.get('batch_sampler')
    with problems.attempt(f'{_KEY}.batch_sampler'):
        found = None if sampler is None else find_type(sampler, DATA_SAMPLERS)
        if found is not TransferBatchSampler:
            problems.add(f'{_KEY}.batch_sampler={sampler!r}: does not keep the share of '
                         "unlabelled images in each batch; set dict(type='TransferBatchSampler')")
        elif built is not None:
            with problems.under(''):
                number_of_unlabelled(built.ratio, loader.get('batch_size', 1))
    return {} if built is None else built.metainfo
