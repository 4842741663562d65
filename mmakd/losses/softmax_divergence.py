"""Base class of KL divergences between softened distributions."""
import torch
import torch.nn.functional as F
from torch import Tensor

from ..utils.errors import check_numbers
from .bregman_loss import BregmanLoss


class SoftmaxDivergence(BregmanLoss):
    r"""Mean of :math:`\tau^2 KL(softmax(T / \tau) \| softmax(S / \tau))` over distributions.

    Args:
        tau (float): Temperature > 0. Defaults to 1.0.
        loss_weight (float): Factor on the loss. Defaults to 1.0.

    Attributes:
        axis (int): What a distribution is over: 1, the channels of a position, or 2, the positions
            of a channel.
    """

    axis: int

    def __init__(self, tau: float = 1.0, loss_weight: float = 1.0) -> None:
        check_numbers(positive=dict(tau=tau), not_negative=dict(loss_weight=loss_weight))
        super().__init__(loss_weight)
        self.tau = tau

    @property
    def student_tau(self) -> float:
        """float: Temperature of the student; the factor on the divergence is its square."""
        return self.tau

    def target(self, preds_T: Tensor) -> Tensor:
        """Compute the teacher's probabilities (N, C, H * W); see :class:`BregmanLoss`."""
        return F.softmax(_logits(preds_T, self.tau), self.axis)

    def divergence(self, preds_S: Tensor, target: Tensor) -> Tensor:
        """Compute the divergence; see :class:`BregmanLoss`."""
        log_student = F.log_softmax(_logits(preds_S, self.student_tau), self.axis)
        return self._mean(F.kl_div(log_student, target, reduction='sum'), target)

    def potential(self, target: Tensor) -> Tensor:
        """Compute the mean negative entropy; see :class:`BregmanLoss`."""
        return self._mean(torch.xlogy(target, target).sum(), target)

    def _mean(self, total: Tensor, target: Tensor) -> Tensor:
        number = target.numel() / target.size(self.axis)
        return self.loss_weight * self.student_tau**2 / number * total


def _logits(feature: Tensor, tau: float) -> Tensor:
    feature = feature.unsqueeze(2) if feature.dim() == 2 else feature.flatten(2)
    return feature if tau == 1 else feature / tau
