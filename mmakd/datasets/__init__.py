"""Data sets in which some images have no ground truth."""
from .transfer_batch_sampler import TransferBatchSampler
from .transfer_set_dataset import TransferSetDataset, has_labels

__all__ = ['TransferBatchSampler', 'TransferSetDataset', 'has_labels']
