"""Base class of divergences whose mean over several targets needs only the mean target."""
from abc import abstractmethod

from torch import Tensor

from .features import FeatureLoss


class BregmanLoss(FeatureLoss):
    r"""A Bregman divergence, such as the squared error or the KL divergence.

    With a convex potential F, the mean divergence of a student s from targets :math:`t_k` is
    :math:`\frac{1}{K} \sum_k D(t_k, s) = D(\bar t, s) + \frac{1}{K} \sum_k F(t_k) - F(\bar t)`
    (Banerjee et al., JMLR 6, 2005). So the student's gradient is that of the mean target, and K
    Avatars cost K targets without gradient, one at a time. Subclasses define the three methods
    below, instead of ``compare``.
    """

    def compare(self, preds_S: Tensor, preds_T: Tensor) -> Tensor:
        """Compute the loss; see :meth:`FeatureLoss.forward`."""
        return self.divergence(preds_S, self.target(preds_T))

    @abstractmethod
    def target(self, preds_T: Tensor) -> Tensor:
        """Compute the target t of a teacher's feature, of any shape."""

    @abstractmethod
    def divergence(self, preds_S: Tensor, target: Tensor) -> Tensor:
        """Compute the scalar D(t, s) of a student's feature and a target."""

    @abstractmethod
    def potential(self, target: Tensor) -> Tensor:
        """Compute the scalar F(t) of a target."""

    def is_plain(self) -> bool:
        """Tell whether the loss is this divergence, not a subclass's own ``forward``."""
        kind = type(self)
        return kind.forward is FeatureLoss.forward and kind.compare is BregmanLoss.compare
