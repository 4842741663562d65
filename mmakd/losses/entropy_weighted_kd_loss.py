"""Knowledge distillation of predictions, weighted by the teacher's confidence."""
import math

import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor

from ..utils.errors import ConfigProblems, check_numbers, is_number
from .features import FeatureLoss

# Least confidence. Below it a negative gamma would give a few positions all of the weight.
_LEAST = 1e-3


@MODELS.register_module()
class EntropyWeightedKDLoss(FeatureLoss):
    r"""Divergence of class probabilities, weighted by the entropy of the teacher's.

    Uncertainty-aware distillation (arXiv 2511.18826), in dense-prediction form:
    :math:`\tau^2 \sum_x w(x) KL(p_T \| p_S) / \sum_x w(x)` over the positions x of all images.
    :math:`p = softmax(\cdot / \tau)` over the C channels, and
    :math:`w = (1 - H(softmax(T)) / \log C)^\gamma`. The paper's H is the entropy of the teacher's
    prediction, which has no temperature, so tau does not change w. The base of the power is at
    least 1e-3.

    With ``gamma=1``, the paper, confident positions count more; with ``gamma=0`` all count the
    same, as of :class:`KLDivergence`; with a negative gamma uncertain ones count more, up to
    ``1e-3 ** gamma`` times as much as a certain one. For images weighted by the teacher's entropy
    see EA-KD (arXiv 2311.13621).

    Args:
        tau (float): Temperature > 0 of the divergence. Defaults to 4.0.
        gamma (float): Power of the confidence, of any sign. Defaults to 1.0.
        foreground (bool): For heads with a sigmoid for each class. Each class of a position then
            has a distribution, a weight and a divergence of its own, all of the pair (sigmoid,
            1 - sigmoid), and x runs over classes too. Most of these pairs are of background, and
            certain, so w is multiplied by the largest class score of the position. Defaults to
            False.
        loss_weight (float): Factor on the loss. Defaults to 1.0.
    """

    def __init__(self, tau: float = 4.0, gamma: float = 1.0, foreground: bool = False,
                 loss_weight: float = 1.0) -> None:
        problems = ConfigProblems()
        with problems.under(''):
            check_numbers(positive=dict(tau=tau), not_negative=dict(loss_weight=loss_weight))
        if not is_number(gamma):
            problems.add(f'gamma={gamma!r}: must be a number, e.g. 1.0, or -0.5 to give uncertain '
                         'positions more weight')
        problems.raise_if_any()
        super().__init__(loss_weight)
        self.tau = tau
        self.gamma = gamma
        self.foreground = foreground

    def compare(self, preds_S: Tensor, preds_T: Tensor) -> Tensor:
        """Compute the loss; see :meth:`FeatureLoss.forward`."""
        student, teacher = ((self._logits(feature) / self.tau).log_softmax(1)
                            for feature in (preds_S, preds_T))
        divergence = F.kl_div(student, teacher, reduction='none', log_target=True).sum(1)
        return self.loss_weight * self.tau**2 * (self.shares(preds_T) * divergence).sum()

    def shares(self, preds_T: Tensor) -> Tensor:
        """Compute the share of each distribution in the loss, ``w / sum w``.

        Args:
            preds_T (Tensor): Teacher map (N, C, H, W) or vectors (N, C).

        Returns:
            Tensor: (N, H, W) or (N,); with ``foreground`` of the map's own shape. The sum is 1.
        """
        log_p = self._logits(preds_T).log_softmax(1)
        entropy = -(log_p.exp() * log_p).sum(1)
        # A single class is certain.
        confidence = 1 - entropy / math.log(max(log_p.size(1), 2))
        log_weight = self.gamma * confidence.clamp(min=_LEAST).log()
        if self.foreground:
            log_weight = log_weight + F.logsigmoid(preds_T.amax(1, keepdim=True))
        # Shares of logarithms, since a large power leaves the range of float32.
        return log_weight.flatten().softmax(0).view_as(log_weight)

    def _logits(self, feature: Tensor) -> Tensor:
        """Lay distributions along dimension 1; softmax of (x, 0) is the sigmoid's pair."""
        if not self.foreground:
            return feature
        return torch.stack([feature, torch.zeros_like(feature)], 1)
