"""The comparison of one student map with Avatars that come one after the other."""
from typing import Any

import torch
from torch import Tensor, nn

from ..avatars import Uncertainty
from .bregman_loss import BregmanLoss
from .features import run_loss, zero_loss


class AvatarComparison:
    """Averages a criterion over the targets of one level, in float32, with the memory of one.

    Call :meth:`measure` for each Avatar if sigma is sampled, :meth:`update_sigma`, :meth:`add` for
    each target (before or after, if they are averaged), then :meth:`loss`.

    Args:
        criterion (nn.Module): The base criterion.
        uncertainty (Uncertainty, optional): What scales the maps.
        map_S (Tensor): Student map (N, C, H, W) or vectors (N, C).
        map_T (Tensor): The teacher's, of the same shape, without gradient.
        num_targets (int): Number of targets that will be added.
        target (str): ``'each'`` or ``'mean'``, as of
            :class:`mmakd.losses.UncertaintyFeatureLoss`.
        data_samples (list, optional): Those of the batch.

    Attributes:
        spread (Tensor, optional): ``E[(A - T)^2]`` of the Avatars, broadcastable to the map.
    """

    def __init__(self, criterion: nn.Module, uncertainty: Uncertainty | None, map_S: Tensor,
                 map_T: Tensor, num_targets: int, target: str, data_samples: list | None) -> None:
        self.map_S, self.map_T = as_map(map_S), as_map(map_T)
        self.uncertainty = uncertainty
        self.spread: Tensor | None = None
        self._criterion: Any = criterion
        self._num_targets = num_targets
        self._data_samples = data_samples
        self._of_mean = target == 'mean' or num_targets == 1
        self._is_bregman = isinstance(criterion, BregmanLoss) and criterion.is_plain()
        self._mean: Any = None
        self._value: Any = None
        self._gradients: list[Tensor | None] = []

    def measure(self, avatar: Tensor, number: int) -> None:
        """Add one of ``number`` Avatars to the sampled spread."""
        square = (as_map(avatar) - self.map_T).square_()
        self.spread = _add(self.spread, square, number)

    def update_sigma(self) -> None:
        """Update sigma with this batch, and scale the student's map."""
        if self.uncertainty is not None:
            self.uncertainty.update(self.map_T, self.spread)
        self.map_S = self._scale(self.map_S)

    def add(self, target: Tensor) -> None:
        """Add one target, an Avatar or the teacher's map."""
        target = as_map(target)
        if self._of_mean:
            self._mean = _add(self._mean, target, self._num_targets)
            return
        target = self._scale(target)
        if not self.map_S.numel():
            return
        if self._is_bregman:
            target = self._criterion.target(target)
            self._value = _add(self._value, self._criterion.potential(target), self._num_targets)
            self._mean = _add(self._mean, target, self._num_targets)
        else:
            self._add_gradient(run_loss(self._criterion, self.map_S, target, self._data_samples))

    def loss(self) -> Tensor:
        """Compute the mean loss over the targets, a scalar."""
        if not self.map_S.numel():
            return zero_loss(self._criterion, self.map_S)
        if self._of_mean:
            return run_loss(self._criterion, self.map_S, self._scale(self._mean),
                            self._data_samples)
        if self._is_bregman:
            gap = self._value - self._criterion.potential(self._mean)
            return self._criterion.divergence(self.map_S, self._mean) + gap
        # Linear in what is learned, with the gradient and the value of the mean loss.
        return self._value + sum(((x - x.detach()) * gradient).sum() for x, gradient
                                 in zip(self._learned(), self._gradients) if gradient is not None)

    def _add_gradient(self, loss: Tensor) -> None:
        """Add a loss and its gradient, so that its graph need not be kept."""
        self._value = _add(self._value, loss.detach(), self._num_targets)
        if not loss.requires_grad:
            return
        new = torch.autograd.grad(loss, self._learned(), allow_unused=True)
        old = self._gradients or [None] * len(new)
        self._gradients = [mean if gradient is None else _add(mean, gradient, self._num_targets)
                           for mean, gradient in zip(old, new)]

    def _learned(self) -> list[Tensor]:
        return [x for x in (self.map_S, *self._criterion.parameters()) if x.requires_grad]

    def _scale(self, feature: Any) -> Tensor:
        return feature if self.uncertainty is None else self.uncertainty.scale(feature)


def as_map(feature: Tensor) -> Tensor:
    """View vectors (N, C) as maps of one position (N, C, 1, 1), in float32."""
    return (feature[..., None, None] if feature.dim() == 2 else feature).float()


def _add(mean: Tensor | None, value: Tensor, number: int) -> Tensor:
    """Add one of ``number`` values to their mean."""
    if number == 1:
        return value
    return value / number if mean is None else mean.add_(value, alpha=1 / number)
