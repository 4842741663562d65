"""Dropout of elements, the perturbation of the paper, and of whole channels."""
from typing import Literal

import torch
from mmengine.registry import MODELS
from torch import Generator, Tensor

from ..utils.errors import ConfigError, is_number, suggest
from .perturbation import Perturbation, channel_mean

_FILLS = ('mean', 'zero')


@MODELS.register_module()
class DropoutPerturbation(Perturbation):
    """Replaces elements with probability ``drop_rate`` and scales up what the others add to it.

    ``A = f + (T - f) m / (1 - p)`` with ``m ~ Bernoulli(1 - p)``, where f is the value of a
    dropped element. The mean of the Avatars is T, and ``E[(A - T)^2] = p / (1 - p) (T - f)^2``.
    Source: AKD (arXiv 2305.02722), inverted dropout (f = 0) with rate 0.1.

    Args:
        drop_rate (float): Probability p in [0, 1) that an element is dropped. Defaults to 0.1.
        fill (str): Value f of a dropped element. ``'mean'`` is the mean of that image's channel;
            for vectors and maps of one position the channel's mean over the batch. ``'zero'`` is
            0, the paper: an outlier where a channel's mean is far from 0, as of logits. Defaults
            to ``'mean'``.
    """

    def __init__(self, drop_rate: float = 0.1,
                 fill: Literal['mean', 'zero'] = 'mean') -> None:
        super().__init__()
        problems = []
        if not is_number(drop_rate) or not 0 <= drop_rate < 1:
            problems.append(f'drop_rate={drop_rate!r}: must be a number in [0, 1), e.g. 0.1')
        if fill not in _FILLS:
            problems.append(f'fill={fill!r}: {suggest(fill, _FILLS)}')
        if problems:
            raise ConfigError(problems)
        self.drop_rate = drop_rate
        self.fill = fill

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
        weight = self.keep_mask(feature, generator).mul_(1 / (1 - self.rate))
        if self.fill == 'zero':
            return weight.mul_(feature) if weight.shape == feature.shape else weight * feature
        return torch.lerp(channel_mean(feature), feature, weight)

    def variance(self, feature: Tensor) -> Tensor:
        """Compute ``p / (1 - p) (T - f)^2``; see :meth:`Perturbation.variance`."""
        if self.fill == 'mean':
            feature = feature - channel_mean(feature)
        return feature.square() * (self.rate / (1 - self.rate))


@MODELS.register_module()
class ChannelDropoutPerturbation(DropoutPerturbation):
    """Drops whole channels of an image, as in spatial dropout (arXiv 1411.4280).

    Mean and variance of an element are those of :class:`DropoutPerturbation`; all elements of a
    channel are dropped together.

    Args:
        drop_rate (float): Probability in [0, 1) that a channel is dropped. Defaults to 0.1.
        fill (str): As of :class:`DropoutPerturbation`. Defaults to ``'mean'``.
    """

    def keep_mask(self, feature: Tensor, generator: Generator | None) -> Tensor:
        """Draw one value per channel; see :meth:`DropoutPerturbation.keep_mask`."""
        shape = feature.shape[:2] + (1, ) * (feature.dim() - 2)
        return feature.new_empty(shape).bernoulli_(1 - self.rate, generator=generator)
