"""Loss arithmetic in float32 under any autocast."""
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor


def _to_float(features: Any) -> Any:
    if isinstance(features, Tensor):
        return features.float()
    return [_to_float(feature) for feature in features]


def float32(forward: Callable) -> Callable:
    """Decorate ``forward(self, preds_S, preds_T, ...)`` to see float32 and no autocast.

    Args:
        forward (Callable): Method over student's and teacher's features, each a tensor or any
            nesting of iterables of tensors.

    Returns:
        Callable: The same method for features of any floating type.
    """

    @wraps(forward)
    def wrapper(self: Any, preds_S: Any, preds_T: Any, *args: Any, **kwargs: Any) -> Tensor:
        first = preds_S if isinstance(preds_S, Tensor) else next(iter(preds_S), None)
        if first is None:
            raise ValueError('no student map is given')
        with torch.autocast(first.device.type, enabled=False):
            return forward(self, _to_float(preds_S), _to_float(preds_T), *args, **kwargs)

    return wrapper
