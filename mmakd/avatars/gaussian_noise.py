"""Additive Gaussian noise."""
import torch
from mmengine.registry import MODELS
from torch import Generator, Tensor

from ..utils.errors import check_numbers
from .perturbation import Perturbation


@MODELS.register_module()
class GaussianNoisePerturbation(Perturbation):
    """Adds independent Gaussian noise: ``A = T + s e``, so ``E[(A - T)^2] = s^2``.

    Args:
        std (float): Standard deviation s >= 0. Defaults to 0.1.
        relative (bool): Whether ``std`` is relative to the root mean square of each image's
            channel over its positions, not absolute. Defaults to True.
    """

    def __init__(self, std: float = 0.1, relative: bool = True) -> None:
        super().__init__()
        check_numbers(not_negative=dict(std=std))
        self.std = std
        self.relative = relative

    def variance(self, feature: Tensor) -> Tensor:
        """Compute ``s^2``, shape (N, C, 1, 1) if relative; see :meth:`Perturbation.variance`."""
        variance = feature.new_full((), (self.std * self.strength)**2)
        if not self.relative:
            return variance.expand((1, ) * feature.dim())
        square = feature.square()
        return variance * (square.mean((2, 3), keepdim=True) if feature.dim() == 4 else square)

    def forward(self, feature: Tensor, generator: Generator | None = None) -> Tensor:
        """Draw one Avatar; see :meth:`Perturbation.forward`."""
        noise = torch.empty_like(feature).normal_(generator=generator)
        # In float16 a square is soon infinite, or zero.
        precise = feature.to(torch.promote_types(feature.dtype, torch.float32))
        return noise.mul_(self.variance(precise).sqrt()).add_(feature)
