"""What losses that work on the positions of a map have in common."""
from typing import Any

from torch import Tensor

from ..utils.errors import ConfigError
from .shapes import check_same_shape


def known_channels(channels: Any, loss: str) -> int:
    """Read the number of channels that a loss with weights of its own has to know.

    Args:
        channels (Any): The argument ``channels``.
        loss (str): Name of the loss, for the message.

    Returns:
        int: The number.

    Raises:
        ConfigError: If it is no integer above 0.
    """
    if not isinstance(channels, int) or channels < 1:
        raise ConfigError(f'channels={channels!r}: {loss} has to know the channels of the '
                          "teacher's map; a task of AvatarDistiller gives them, elsewhere set "
                          'e.g. channels=256')
    return channels


def check_maps(preds_S: Tensor, preds_T: Tensor) -> None:
    """Check two features.

    Args:
        preds_S (Tensor): The student's.
        preds_T (Tensor): The teacher's.

    Raises:
        ValueError: If their shapes differ, or they are no maps (N, C, H, W).
    """
    check_same_shape(preds_S, preds_T)
    if preds_S.dim() != 4:
        raise ValueError(f'features {tuple(preds_S.shape)} are no maps (N, C, H, W); for vectors '
                         'take FeatureMSELoss, PKDLoss or KLDivergence')
