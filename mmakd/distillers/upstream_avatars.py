"""Avatars from the perturbed input of a teacher's module."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from ..avatars import Perturbation
from ..losses.avatar_comparison import as_map
from .tap_pair import TapPair
from .taps import Call, FeatureTaps


@dataclass(frozen=True)
class UpstreamAvatars:
    """Runs a module of the teacher again, on its perturbed input, for each Avatar.

    Attributes:
        network (nn.Module): The teacher's network.
        perturb_at (str): Dotted path of the module.
        tap (str): Dotted path of the tap, which is the module or lies inside it.
        calls (Sequence[Call]): Arguments of each call of the module in this step.
        precision (Callable): Makes the context in which the teacher runs.
        levels (Sequence[int], optional): The maps that are compared. Defaults to None, all.
    """

    network: nn.Module
    perturb_at: str
    tap: str
    calls: Sequence[Call]
    precision: Callable[[], AbstractContextManager]
    levels: Sequence[int] | None = None

    @torch.no_grad()
    def draw(self, perturbation: Perturbation, generator: Generator | None = None
             ) -> list[Tensor]:
        """Draw one Avatar of each map of the tap."""
        module = self.network.get_submodule(self.perturb_at)
        perturb = partial(perturbation, generator=generator)
        with self.precision(), FeatureTaps(self.network, [self.tap]) as taps:
            for call in self.calls:
                args, kwargs = map_features(perturb, call)
                module(*args, **kwargs)
        return self._compared(taps.features[self.tap])

    @torch.no_grad()
    def variances(self, perturbation: Perturbation) -> list[Tensor] | None:
        """Compute ``E[(A - T)^2]`` behind a 1x1 convolution or a linear layer.

        Its outputs are sums over channels that are perturbed independently, so the variances are
        ``p / (1 - p) conv((f - fill)^2, w^2)`` for dropout, without sampling.

        Returns:
            list[Tensor] | None: Of each map, (N, C, H, W); None if there is no closed form.
        """
        module: Any = self.network.get_submodule(self.perturb_at)
        if self.tap != self.perturb_at or not _is_pointwise(module):
            return None
        squares, found = module.weight.float().square(), []
        for args, _ in self.calls:
            feature = args[0].float()
            variance = perturbation.variance(feature)
            if variance is None:
                return None
            variance = variance.expand_as(feature)
            found.append(as_map(
                F.linear(variance, squares) if isinstance(module, nn.Linear) else
                F.conv2d(variance, squares, stride=module.stride, groups=module.groups)))
        return self._compared(found)

    def has_features(self) -> bool:
        """Tell whether anything in the module's input is perturbed."""
        found: list[Tensor] = []
        map_features(found.append, list(self.calls))
        return bool(found)

    def _compared(self, maps: list[Tensor]) -> list[Tensor]:
        return maps if self.levels is None else [maps[level] for level in self.levels]


def upstream_avatars(network: nn.Module, pair: TapPair, taps: FeatureTaps,
                     precision: Callable[[], AbstractContextManager] = nullcontext
                     ) -> UpstreamAvatars | None:
    """Make the source of Avatars of a pair from what its taps recorded, if it has a module."""
    if pair.perturb_at is None:
        return None
    return UpstreamAvatars(network, pair.perturb_at, pair.teacher, taps.calls[pair.perturb_at],
                           precision)


def map_features(function: Callable[[Tensor], Any], value: Any) -> Any:
    """Replace the features, (N, C, H, W) or (N, C), in nested arguments of a module."""
    if isinstance(value, Tensor):
        return function(value) if value.is_floating_point() and value.dim() in (2, 4) else value
    if isinstance(value, dict):
        return {key: map_features(function, part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)([map_features(function, part) for part in value])
    return value


def _is_pointwise(module: Any) -> bool:
    return isinstance(module, nn.Linear) or (
        isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1)
        and module.padding == (0, 0))
