"""Mean squared difference of features."""
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..utils.errors import check_numbers
from .features import check_same_shape, feature_loss


@MODELS.register_module()
class FeatureMSELoss(nn.Module):
    """Mean squared difference of two maps (feature mimicking, FitNets, arXiv 1412.6550).

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
            preds_S (Tensor): Student map (N, C, H, W).
            preds_T (Tensor): Teacher map (N, C, H, W).

        Returns:
            Tensor: Scalar, float32.

        Raises:
            ValueError: If the shapes differ.
        """
        check_same_shape(preds_S, preds_T)
        return self.loss_weight * F.mse_loss(preds_S, preds_T)

    def forward_avatars(self, preds_S: Tensor, avatars: Iterable[Tensor]) -> Tensor:
        """Compute the mean loss over several targets at the memory of one.

        The student's gradient depends on the targets only through their mean, so the value is
        taken without a graph and the gradient from the mean.

        Args:
            preds_S (Tensor): Student map (N, C, H, W), float32.
            avatars (Iterable[Tensor]): Targets (N, C, H, W), float32, consumed one by one.

        Returns:
            Tensor: Scalar, the mean of ``forward(preds_S, avatar)``.
        """
        detached = preds_S.detach()
        value, mean = detached.new_zeros(()), torch.zeros_like(detached)
        count = 0
        for avatar in avatars:
            count += 1
            value += F.mse_loss(detached, avatar)
            mean += avatar
        loss = F.mse_loss(preds_S, mean / count)
        return self.loss_weight * (value / count + loss - loss.detach())
