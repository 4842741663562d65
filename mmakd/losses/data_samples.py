"""Losses that look at the ground truth too."""
import inspect
from functools import partial

from torch import nn


def with_data_samples(loss: nn.Module, data_samples: list | None) -> partial:
    """Hand the batch's data samples to a loss whose ``forward`` names ``data_samples``.

    Args:
        loss (nn.Module): Any loss, ``forward(preds_S, preds_T)``.
        data_samples (list, optional): The data samples.

    Returns:
        partial: To be called with ``(preds_S, preds_T)``.
    """
    if 'data_samples' in inspect.signature(loss.forward).parameters:
        return partial(loss, data_samples=data_samples)
    return partial(loss)
