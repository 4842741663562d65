"""Mean squared difference of features."""
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor

from .features import FeatureLoss


@MODELS.register_module()
class FeatureMSELoss(FeatureLoss):
    """Mean squared difference of two maps (feature mimicking, FitNets, arXiv 1412.6550).

    Args:
        loss_weight (float): Factor on the loss. Defaults to 1.0.
    """

    def compare(self, preds_S: Tensor, preds_T: Tensor) -> Tensor:
        """Compute the loss; see :meth:`FeatureLoss.forward`."""
        return self.loss_weight * F.mse_loss(preds_S, preds_T)

    def forward_avatars(self, preds_S: Tensor, avatars: Iterable[Tensor]) -> Tensor:
        """Compute the mean loss over several targets with the memory of one.

        The student's gradient depends on the targets only through their mean. So the value is
        computed without a graph, and the gradient from the mean.

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
