"""Standardisation by batch statistics, as in the authors' released code."""
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor

from ..utils.errors import check_numbers
from .uncertainty import Uncertainty


@MODELS.register_module()
class BatchStatistics(Uncertainty):
    """Standardises the student and each Avatar by its own batch statistics ("released code").

    The authors' released code computes no sigma. A BatchNorm without affine parameters, in train
    mode, brings each map's channels to zero mean and unit deviation over the batch; the student's
    statistics carry gradient. The paper's formula is :class:`AvatarVariance`.

    Args:
        eps (float): Added to the variance, > 0. Defaults to 1e-5.
    """

    def __init__(self, eps: float = 1e-5) -> None:
        super().__init__()
        check_numbers(positive=dict(eps=eps))
        self.eps = eps

    def update(self, feature: Tensor, spread: Tensor | None) -> None:
        """Do nothing: each map has its own statistics."""

    def scale(self, feature: Tensor) -> Tensor:
        """Standardise a map; see :meth:`Uncertainty.scale`.

        Raises:
            ValueError: If the map has one value per channel, and so no variance.
        """
        return F.batch_norm(feature, None, None, training=True, eps=self.eps)
