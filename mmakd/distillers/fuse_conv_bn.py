"""Folding BatchNorm into the convolutions of a network that is run but never trained."""
from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection
from typing import Any

import torch
from mmcv.cnn.bricks import Conv2d
from mmengine.logging import print_log
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights

# Subclasses may do something else with their weight, such as standardise it.
CONVOLUTIONS = (nn.Conv2d, Conv2d)
# Of the norm. Float32 rounds by 1e-5 on a CPU, and convolutions of GPUs by 1e-3 (TF32) a layer.
_TOLERANCES = dict(cpu=1e-3)
_TOLERANCE = 0.02


@torch.no_grad()
def fuse_conv_bn(network: nn.Module, run: Callable[[], Collection[Tensor]],
                 kept: Collection[nn.Module] = ()) -> int:
    """Fold each BatchNorm in eval mode into the convolution that it alone follows.

    Which belong together is seen in a run, not guessed from the order of the modules: a
    convolution shared by several BatchNorms stays as it is. Names of modules do not change; a
    folded BatchNorm becomes an ``nn.Identity``. Where something else reads a convolution too, all
    stay as they are.

    Args:
        network (nn.Module): The network, in eval mode. Changed in place.
        run (Callable): Runs it on an example and gives the features that count.
        kept (Collection[nn.Module]): Modules whose own output is of use. Defaults to ().

    Returns:
        int: How many were folded.
    """
    before, pairs = _find_pairs(network, run)
    pairs = {conv: norm for conv, norm in pairs.items() if conv not in kept}
    if not same_features(before, _run_without_convolved(pairs, run)):
        print_log(f'BatchNorm stays apart from the convolutions of {type(network).__name__}: '
                  'something else reads one of them', 'current', level=logging.WARNING)
        return 0
    for conv, norm in pairs.items():
        conv.weight, conv.bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight,
            norm.bias)
        # Not another module in its place: the network may hold it elsewhere too.
        norm.__class__ = nn.Identity
        norm._parameters.clear()
        norm._buffers.clear()
    return len(pairs)


def _find_pairs(network: nn.Module, run: Callable[[], Collection[Tensor]]
                ) -> tuple[Collection[Tensor], dict[Any, Any]]:
    """Run the network and note which BatchNorm takes the output of which convolution."""
    calls: Counter = Counter()
    last: tuple[nn.Module | None, Any, int] = (None, None, 0)

    def convolved(conv: nn.Module, args: Any, output: Tensor) -> None:
        nonlocal last
        calls[conv] += 1
        last = conv, output, output._version

    def normalised(norm: nn.Module, args: tuple[Tensor, ...]) -> None:
        calls[norm] += 1
        # What an activation changed in place is the same object, but a later version.
        if args and args[0] is last[1] and args[0]._version == last[2]:
            calls[last[0], norm] += 1

    handles = []
    for module in network.modules():
        # Hooks of others would see something else afterwards.
        if module._forward_hooks or module._forward_pre_hooks:
            continue
        if type(module) in CONVOLUTIONS:
            handles.append(module.register_forward_hook(convolved))
        elif isinstance(module, _BatchNorm) and module.running_mean is not None:
            handles.append(module.register_forward_pre_hook(normalised))
    try:
        features = run()
    finally:
        for handle in handles:
            handle.remove()
    pairs = [pair for pair in calls if isinstance(pair, tuple)]
    followers = Counter(conv for conv, _ in pairs)
    return features, {conv: norm for conv, norm in pairs if followers[conv] == 1
                      and calls[conv, norm] == calls[conv] == calls[norm]}


def _run_without_convolved(pairs: dict[Any, Any], run: Callable[[], Collection[Tensor]]
                           ) -> Collection[Tensor]:
    """Run the network so that only the BatchNorms see what the convolutions gave."""
    convolved: dict[nn.Module, Tensor] = {}

    def hide(conv: nn.Module, args: Any, output: Tensor) -> Tensor:
        convolved[pairs[conv]] = output
        return torch.full_like(output, torch.nan)

    def show(norm: nn.Module, args: Any) -> Tensor:
        return convolved.pop(norm)

    handles = [conv.register_forward_hook(hide) for conv in pairs]
    handles += [norm.register_forward_pre_hook(show) for norm in pairs.values()]
    try:
        return run()
    finally:
        for handle in handles:
            handle.remove()


def same_features(before: Collection[Tensor], after: Collection[Tensor]) -> bool:
    """Tell whether features differ by no more than rounding.

    Args:
        before (Collection[Tensor]): Features.
        after (Collection[Tensor]): The same by another way.

    Returns:
        bool: Whether each is as before.
    """
    return all((new - old).norm() <= _TOLERANCES.get(old.device.type, _TOLERANCE) * old.norm()
               for old, new in zip(before, after, strict=True))
