"""Features compared by their Pearson correlation."""
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..utils.errors import check_numbers
from .features import check_same_shape, feature_loss


@MODELS.register_module()
class PKDLoss(nn.Module):
    """Half the mean squared difference of standardised maps (PKD, arXiv 2207.02039, Eq. 4).

    Each channel is brought to zero mean and unit deviation over batch and positions, so only its
    pattern counts; the loss is then about 1 minus the channels' Pearson correlation.

    Args:
        loss_weight (float): Factor on the loss. Defaults to 1.0.

    Raises:
        ConfigError: If ``loss_weight`` is no number >= 0.
    """

    def __init__(self, loss_weight: float = 1.0) -> None:
        super().__init__()
        check_numbers(not_negative=dict(loss_weight=loss_weight))
        self.loss_weight = loss_weight

    @feature_loss
    def forward(self, preds_S: Tensor, preds_T: Tensor) -> Tensor:
        """Compute the loss.

        Args:
            preds_S (Tensor): Student map (N, C, H, W) or vectors (N, C).
            preds_T (Tensor): The teacher's, of the same shape.

        Returns:
            Tensor: Scalar, float32.

        Raises:
            ValueError: If the shapes differ.
        """
        check_same_shape(preds_S, preds_T)
        return self.loss_weight * F.mse_loss(_standardise(preds_S), _standardise(preds_T)) / 2


def _standardise(feature: Tensor) -> Tensor:
    values = feature.transpose(0, 1).flatten(1)
    # One value a channel has no unbiased deviation, and nothing to compare.
    deviation = values.std(1, correction=int(values.size(1) > 1), keepdim=True)
    return (values - values.mean(1, keepdim=True)) / (deviation + 1e-6)
