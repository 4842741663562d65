"""A loss that does nothing."""
from collections.abc import Callable
from functools import wraps
from typing import Any

from torch import Tensor, nn


def zero_loss(loss: nn.Module, preds_S: Tensor) -> Tensor:
    """Give zero where there is nothing to compare, as with no RoI in the batch.

    Args:
        loss (nn.Module): What would have been computed.
        preds_S (Tensor): An empty student map.

    Returns:
        Tensor: Scalar 0, in which every parameter has a part: DDP waits for its gradient.
    """
    return preds_S.sum() + sum(parameter.sum() * 0 for parameter in loss.parameters())


def zero_if_empty(forward: Callable) -> Callable:
    """Decorate ``forward(self, preds_S, preds_T, ...)`` to give zero for empty maps.

    Args:
        forward (Callable): Method over two maps, which would divide by their size.

    Returns:
        Callable: The same method for maps of any size.
    """

    @wraps(forward)
    def wrapper(self: Any, preds_S: Tensor, preds_T: Tensor, *args: Any,
                **kwargs: Any) -> Tensor:
        if not preds_S.numel() and preds_S.shape == preds_T.shape:
            return zero_loss(self, preds_S)
        return forward(self, preds_S, preds_T, *args, **kwargs)

    return wrapper
