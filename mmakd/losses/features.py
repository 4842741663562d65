"""Base class and helpers of losses over features: precision, empty features, shapes."""
import inspect
from abc import abstractmethod
from collections.abc import Callable
from functools import cache, wraps
from typing import Any

import torch
from torch import Tensor, nn

from ..avatars import Perturbation, Uncertainty
from ..avatars.perturbation import show_settings
from ..utils.build import build
from ..utils.errors import ConfigError, check_numbers


def float32(forward: Callable) -> Callable:
    """Decorate ``forward(self, preds_S, preds_T, ...)`` to run in float32 without autocast.

    The features are tensors, or lists of them, of any floating type.
    """

    @wraps(forward)
    def wrapper(self: Any, preds_S: Any, preds_T: Any, *args: Any, **kwargs: Any) -> Tensor:
        first = preds_S if isinstance(preds_S, Tensor) else next(iter(preds_S), None)
        if first is None:
            raise ValueError('no student map is given')
        with torch.autocast(first.device.type, enabled=False):
            return forward(self, _to_float(preds_S), _to_float(preds_T), *args, **kwargs)

    wrapper.is_float32 = True  # type: ignore[attr-defined]
    return wrapper


def _to_float(features: Any) -> Any:
    if isinstance(features, Tensor):
        return features.float()
    return [feature.float() for feature in features]


class FeatureLoss(nn.Module):
    """Base class of our losses between two features; subclasses define ``compare``.

    Args:
        loss_weight (float): Factor >= 0 on the loss. Defaults to 1.0.

    Attributes:
        maps_only (bool): Whether vectors are rejected.
    """

    maps_only = False

    def __init__(self, loss_weight: float = 1.0) -> None:
        super().__init__()
        check_numbers(not_negative=dict(loss_weight=loss_weight))
        self.loss_weight = loss_weight

    @float32
    def forward(self, preds_S: Tensor, preds_T: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Compute the loss in float32; zero for empty features.

        Args:
            preds_S (Tensor): Student map (N, C, H, W) or, unless ``maps_only``, vectors (N, C).
            preds_T (Tensor): The teacher's, of the same shape.
            *args: Further arguments of ``compare``.
            **kwargs: Likewise.

        Returns:
            Tensor: Scalar, float32.

        Raises:
            ValueError: If the shapes differ, or the features are not maps but must be.
        """
        check_same_shape(preds_S, preds_T)
        if not preds_S.numel():
            return zero_loss(self, preds_S)
        if self.maps_only and preds_S.dim() != 4:
            raise ValueError(f'features {tuple(preds_S.shape)} are no maps (N, C, H, W); for '
                             'vectors take FeatureMSELoss, PKDLoss or KLDivergence')
        return self.compare(preds_S, preds_T, *args, **kwargs)

    extra_repr = show_settings

    @abstractmethod
    def compare(self, preds_S: Tensor, preds_T: Tensor) -> Tensor:
        """Compute the loss of two features of the same shape, float32 and not empty."""


def zero_loss(loss: nn.Module, preds_S: Tensor) -> Tensor:
    """Return zero where there is nothing to compare, as in a batch without RoIs.

    The zero depends on every parameter of the loss, since DDP waits for their gradients.
    """
    return preds_S.sum() + sum(parameter.sum() * 0 for parameter in loss.parameters())


def build_loss(cfg: Any, channels: int | None, level: int) -> nn.Module:
    """Build a loss over features, with ``channels`` and ``level`` where its type has them."""
    loss = build(cfg, offer=dict(channels=channels, level=level))
    if not isinstance(loss, nn.Module) or isinstance(loss, (Perturbation, Uncertainty)):
        raise ConfigError(f'type={cfg["type"]!r}: is no loss; give e.g. ChannelWiseDivergence')
    check_numbers(not_negative=dict(loss_weight=getattr(loss, 'loss_weight', 1.0)))
    return loss


def run_loss(loss: nn.Module, preds_S: Tensor, preds_T: Tensor,
             data_samples: list | None = None) -> Tensor:
    """Run any ``loss(preds_S, preds_T)``, one of another package by the same rules as ours.

    Those whose ``forward`` names ``data_samples`` are given them.
    """
    options = dict(data_samples=data_samples) if takes_samples(loss) else {}
    if hasattr(type(loss).forward, 'is_float32'):
        return loss(preds_S, preds_T, **options)
    return _run_foreign(loss, preds_S, preds_T, **options)


def takes_samples(loss: nn.Module) -> bool:
    """Tell whether a loss is given the data samples, with the ground truth."""
    kind: Any = type(loss)
    return _takes_samples(kind)


@cache
def _takes_samples(kind: Any) -> bool:
    function = kind.compare if issubclass(kind, FeatureLoss) else kind.forward
    return 'data_samples' in inspect.signature(function).parameters


@float32
def _run_foreign(loss: nn.Module, preds_S: Tensor, preds_T: Tensor, **options: Any) -> Tensor:
    if not preds_S.numel() and preds_S.shape == preds_T.shape:
        return zero_loss(loss, preds_S)
    return loss(preds_S, preds_T, **options)


def known_channels(channels: Any, loss: str) -> int:
    """Check the argument ``channels`` of a loss with parameters, which needs it."""
    if not isinstance(channels, int) or channels < 1:
        raise ConfigError(f'channels={channels!r}: {loss} has to know the channels of the '
                          "teacher's map; a task of AvatarDistiller gives them, elsewhere set "
                          'e.g. channels=256')
    return channels


def check_same_shape(preds_S: Tensor, preds_T: Tensor) -> None:
    """Raise ValueError for different shapes, which broadcasting would hide."""
    if preds_S.shape != preds_T.shape:
        raise ValueError(f'student map {tuple(preds_S.shape)}, but teacher map '
                         f'{tuple(preds_T.shape)}')
