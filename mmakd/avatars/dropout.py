"""Dropout of elements, the perturbation of the paper, and of whole channels."""
import torch
from mmengine.registry import MODELS
from torch import Generator, Tensor

from ..utils.errors import ConfigError, is_number
from .perturbation import Perturbation


@MODELS.register_module()
class DropoutPerturbation(Perturbation):
    """Inverted dropout: zeroes elements with probability ``drop_rate`` and scales the rest.

    ``A = T m / (1 - p)`` with ``m ~ Bernoulli(1 - p)``, so ``E[(A - T)^2] = p / (1 - p) T^2``.
    Source: AKD (arXiv 2305.02722), dropout rate 0.1.

    Args:
        drop_rate (float): Probability p in [0, 1) that an element is dropped. Defaults to 0.1.
    """

    def __init__(self, drop_rate: float = 0.1) -> None:
        super().__init__()
        if not is_number(drop_rate) or not 0 <= drop_rate < 1:
            raise ConfigError(f'drop_rate={drop_rate!r}: must be a number in [0, 1), e.g. 0.1')
        self.drop_rate = drop_rate

    @property
    def rate(self) -> float:
        """float: The current rate, ``drop_rate * strength``."""
        rate = self.drop_rate * self.strength
        if not 0 <= rate < 1:
            raise ValueError(f'drop_rate={self.drop_rate} times strength={self.strength} is '
                             f'{rate}, outside [0, 1); lower drop_rate or the schedule of '
                             'PerturbationHook')
        return rate

    def keep_mask(self, feature: Tensor, generator: Generator | None) -> Tensor:
        """Draw the mask of kept elements.

        Args:
            feature (Tensor): Teacher map (N, C, H, W) or vectors (N, C).
            generator (torch.Generator | None): Source of randomness.

        Returns:
            Tensor: Ones (kept) and zeros, broadcastable to the feature; each is one with
            probability ``1 - rate``.
        """
        # Faster than bernoulli_ on a CPU; in float16 uniform numbers are too coarse.
        dtype = torch.promote_types(feature.dtype, torch.float32)
        uniform = torch.empty_like(feature, dtype=dtype).uniform_(generator=generator)
        return uniform.lt_(1 - self.rate).to(feature.dtype)

    def forward(self, feature: Tensor, generator: Generator | None = None) -> Tensor:
        """Draw one Avatar; see :meth:`Perturbation.forward`."""
        if self.rate == 0:
            return feature
        scale = 1 / (1 - self.rate)
        mask = self.keep_mask(feature, generator).mul_(scale)
        return mask.mul_(feature) if mask.shape == feature.shape else mask.mul(feature)

    def variance(self, feature: Tensor) -> Tensor:
        """Compute ``p / (1 - p) T^2``; see :meth:`Perturbation.variance`."""
        return feature.square() * (self.rate / (1 - self.rate))


@MODELS.register_module()
class ChannelDropoutPerturbation(DropoutPerturbation):
    """Drops whole channels of an image, as in spatial dropout (arXiv 1411.4280).

    Mean and variance of an element are those of :class:`DropoutPerturbation`; all elements of a
    channel are dropped together.

    Args:
        drop_rate (float): Probability in [0, 1) that a channel is dropped. Defaults to 0.1.
    """

    def keep_mask(self, feature: Tensor, generator: Generator | None) -> Tensor:
        """Draw one value per channel; see :meth:`DropoutPerturbation.keep_mask`."""
        shape = feature.shape[:2] + (1, ) * (feature.dim() - 2)
        return feature.new_empty(shape).bernoulli_(1 - self.rate, generator=generator)
