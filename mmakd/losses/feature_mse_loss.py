"""Mean squared difference of features."""
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor

from .bregman_loss import BregmanLoss


@MODELS.register_module()
class FeatureMSELoss(BregmanLoss):
    """Mean squared difference of two maps (feature mimicking, FitNets, arXiv 1412.6550).

    Args:
        loss_weight (float): Factor on the loss. Defaults to 1.0.
    """

    def target(self, preds_T: Tensor) -> Tensor:
        """Return the feature itself; see :class:`BregmanLoss`."""
        return preds_T

    def divergence(self, preds_S: Tensor, target: Tensor) -> Tensor:
        """Compute the mean squared difference; see :class:`BregmanLoss`."""
        return self.loss_weight * F.mse_loss(preds_S, target)

    def potential(self, target: Tensor) -> Tensor:
        """Compute the mean square; see :class:`BregmanLoss`."""
        return self.loss_weight * target.square().mean()
