"""Pearson correlation of features."""
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor

from .features import FeatureLoss


@MODELS.register_module()
class PKDLoss(FeatureLoss):
    """Half the mean squared difference of standardised maps (PKD, arXiv 2207.02039, Eq. 4).

    Each channel is standardised over batch and positions, so only its pattern matters; the loss is
    then about 1 minus the channels' Pearson correlation.

    Args:
        loss_weight (float): Factor on the loss. Defaults to 1.0.
    """

    def compare(self, preds_S: Tensor, preds_T: Tensor) -> Tensor:
        """Compute the loss; see :meth:`FeatureLoss.forward`."""
        return self.loss_weight * F.mse_loss(_standardise(preds_S), _standardise(preds_T)) / 2


def _standardise(feature: Tensor) -> Tensor:
    values = feature.transpose(0, 1).flatten(1)
    # One value a channel has no unbiased deviation, and nothing to compare.
    deviation = values.std(1, correction=int(values.size(1) > 1), keepdim=True)
    return (values - values.mean(1, keepdim=True)) / (deviation + 1e-6)
