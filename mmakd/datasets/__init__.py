"""Data for student and teacher: two views of an image, images without ground truth."""
from .transfer_batch_sampler import TransferBatchSampler
from .transfer_set_dataset import TransferSetDataset, has_labels
from .two_views import TwoViews

__all__ = ['TransferBatchSampler', 'TransferSetDataset', 'TwoViews', 'has_labels']
