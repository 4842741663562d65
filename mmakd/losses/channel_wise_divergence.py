"""Channel-wise knowledge distillation."""
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor

from ..utils.errors import check_numbers
from .features import FeatureLoss


@MODELS.register_module()
class ChannelWiseDivergence(FeatureLoss):
    r"""Divergence of each channel's spatial distribution (CWD, arXiv 2011.13256, Eq. 4).

    :math:`\frac{\tau^2}{N C} \sum_{n,c} KL(softmax(T_{nc} / \tau) \| softmax(S_{nc} / \tau))`,
    with the softmax over the H * W positions of a channel. With one position, as in vectors viewed
    as maps, all distributions are equal and the loss is zero.

    Args:
        tau (float): Temperature > 0. Defaults to 1.0.
        loss_weight (float): Factor on the loss. Defaults to 1.0.
    """

    maps_only = True

    def __init__(self, tau: float = 1.0, loss_weight: float = 1.0) -> None:
        check_numbers(positive=dict(tau=tau), not_negative=dict(loss_weight=loss_weight))
        super().__init__(loss_weight)
        self.tau = tau

    def compare(self, preds_S: Tensor, preds_T: Tensor) -> Tensor:
        """Compute the loss; see :meth:`FeatureLoss.forward`."""
        divergence = F.kl_div(self._log_softmax(preds_S), self._log_softmax(preds_T),
                              reduction='sum', log_target=True)
        return self._scale(preds_S) * divergence

    def forward_avatars(self, preds_S: Tensor, avatars: Iterable[Tensor]) -> Tensor:
        """Compute the mean loss over several targets; see :meth:`FeatureMSELoss.forward_avatars`.

        The student's gradient depends on the targets only through the mean of their soft maps.
        """
        log_student = self._log_softmax(preds_S)
        detached = log_student.detach()
        value, soft_map = detached.new_zeros(()), torch.zeros_like(detached)
        count = 0
        for avatar in avatars:
            count += 1
            log_avatar = self._log_softmax(avatar)
            probability = log_avatar.exp()
            soft_map += probability
            value += torch.dot(probability.flatten(), log_avatar.sub_(detached).flatten())
        # The second term is zero in value and carries the gradient.
        divergence = value + (soft_map * (detached - log_student)).sum()
        return self._scale(preds_S) / count * divergence

    def _log_softmax(self, feature: Tensor) -> Tensor:
        feature = feature.flatten(2)
        return F.log_softmax(feature if self.tau == 1 else feature / self.tau, dim=2)

    def _scale(self, feature: Tensor) -> float:
        return self.loss_weight * self.tau**2 / (feature.size(0) * feature.size(1))
