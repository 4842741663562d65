"""Standardisation by batch statistics, as the authors released it."""
from collections.abc import Callable, Sequence
from functools import partial

import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..utils.errors import check_numbers
from .perturbation import Perturbation


@MODELS.register_module()
class BatchStatistics(nn.Module):
    """Standardises the student and each Avatar by its own batch statistics ("released code").

    The authors' published code computes no sigma: an affine-free BatchNorm in train mode brings
    each map's channels to zero mean and unit deviation over the batch, the student's with
    gradient. The paper's formula is :class:`AvatarVariance`.

    Args:
        eps (float): Added to the variance. Defaults to 1e-5.

    Raises:
        ConfigError: If ``eps`` is not positive.
    """

    def __init__(self, eps: float = 1e-5) -> None:
        super().__init__()
        check_numbers(positive=dict(eps=eps))
        self.eps = eps

    def forward(self, feature: Tensor, perturbation: Perturbation | None = None,
                avatars: Sequence[Tensor] = ()) -> Callable[[Tensor], Tensor]:
        """Give the standardisation; the arguments are not needed, see :class:`AvatarVariance`.

        Args:
            feature (Tensor): Teacher map (N, C, H, W).
            perturbation (Perturbation, optional): What makes the Avatars. Defaults to None.
            avatars (Sequence[Tensor]): Avatars of the feature. Defaults to ().

        Returns:
            Callable: From a map (N, C, H, W) to its standardised map; raises ValueError for
            maps of one value a channel, which have no variance.
        """
        return partial(F.batch_norm, running_mean=None, running_var=None, training=True,
                       eps=self.eps)
