"""Knowledge distillation of class probabilities."""
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor

from ..utils.errors import check_numbers
from .features import FeatureLoss


@MODELS.register_module()
class KLDivergence(FeatureLoss):
    r"""Divergence of softened class probabilities (KD, arXiv 1503.02531).

    :math:`\tau^2 KL(softmax(T / \tau) \| softmax(S / \tau))` over the classes, averaged over
    samples and positions.

    Args:
        tau (float): Temperature > 0. Defaults to 1.0.
        loss_weight (float): Factor on the loss. Defaults to 1.0.
    """

    def __init__(self, tau: float = 1.0, loss_weight: float = 1.0) -> None:
        check_numbers(positive=dict(tau=tau), not_negative=dict(loss_weight=loss_weight))
        super().__init__(loss_weight)
        self.tau = tau

    def compare(self, preds_S: Tensor, preds_T: Tensor) -> Tensor:
        """Compute the loss; see :meth:`FeatureLoss.forward`."""
        divergence = F.kl_div(F.log_softmax(preds_S / self.tau, 1),
                              F.log_softmax(preds_T / self.tau, 1), reduction='sum',
                              log_target=True)
        samples = preds_S.numel() / preds_S.size(1)
        return self.loss_weight * self.tau**2 / samples * divergence
