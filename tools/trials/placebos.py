"""Placebos: what AKD does, without what is said to make it work. For the study only."""
import torch
from mmengine.registry import MODELS
from torch import Generator, Tensor

from mmakd.avatars import AvatarVariance, DropoutPerturbation


@MODELS.register_module()
class ShuffledAvatarVariance(AvatarVariance):
    """sigma of the wrong channels: each channel gets that of the one half of the channels away.

    The sigmas are the same numbers, so scale and spread of the weights are those of AKD.
    """

    def update(self, feature: Tensor, spread: Tensor | None) -> None:
        """Add a batch; see :meth:`mmakd.avatars.uncertainty.Uncertainty.update`."""
        if spread is not None:
            spread = spread.roll(feature.size(1) // 2, dims=1)
        super().update(feature, spread)


@MODELS.register_module()
class MatchedNoisePerturbation(DropoutPerturbation):
    """Gaussian noise that has, at each element, the variance of the dropout it replaces."""

    def forward(self, feature: Tensor, generator: Generator | None = None) -> Tensor:
        """Draw one Avatar; see :meth:`mmakd.avatars.perturbation.Perturbation.forward`."""
        noise = torch.empty_like(feature).normal_(generator=generator)
        return noise.mul_(self.variance(feature).sqrt()).add_(feature)
