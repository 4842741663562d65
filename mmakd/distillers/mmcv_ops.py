"""Layers with mmcv's own kernels, which do not support bfloat16."""
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..utils.errors import ConfigError, describe


def mmcv_layers(network: nn.Module) -> dict[str, nn.Module]:
    """Find the layers of ``mmcv.ops``, such as deformable convolutions and RoIAlign, by name."""
    return {name: module for name, module in network.named_modules()
            if type(module).__module__.startswith('mmcv.ops')}


@contextmanager
def float32_instead_of_bfloat16(layers: Iterable[nn.Module]) -> Iterator[None]:
    """In the block, run layers in float32 without autocast if their input is bfloat16."""
    layers = list(layers)
    for layer in layers:
        layer.forward = partial(_run_in_float32, layer.forward)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _run_in_float32(forward: Any, *args: Any, **kwargs: Any) -> Any:
    feature = next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
    if feature.dtype == torch.float16:
        return forward(*args, **kwargs)
    with torch.autocast(feature.device.type, enabled=False):
        output = forward(*map(_to_float, args),
                         **{key: _to_float(value) for key, value in kwargs.items()})
    return output.to(feature.dtype) if isinstance(output, Tensor) else output


def _to_float(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.dtype == torch.bfloat16 else value


@contextmanager
def explain_bfloat16(student: nn.Module) -> Iterator[None]:
    """Explain an error of the block that comes from training the student in bfloat16.

    Raises:
        ConfigError: If an operation in the block does not support bfloat16.
    """
    try:
        yield
    except RuntimeError as error:
        if 'BFloat16' not in str(error):
            raise
        layers = ', '.join(f'{name} ({type(layer).__name__})'
                           for name, layer in mmcv_layers(student).items())
        raise ConfigError(
            "optim_wrapper: the student cannot be trained in bfloat16, with or without a teacher "
            f"({describe(error)}); set optim_wrapper.dtype='float16', or "
            "optim_wrapper.type='OptimWrapper'. "
            f'Its layers from mmcv.ops: {layers or "none"}') from error
