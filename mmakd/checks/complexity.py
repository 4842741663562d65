"""What networks cost: parameters, and FLOPs on a small image."""
from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from mmengine.model import BaseModel
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ..distillers import AvatarDistiller
from ..distillers.dry_run import dry_run_samples, on_small_image
from ..distillers.tap_pair import dense_taps
from ..distillers.taps import forward_to_taps


@dataclass(frozen=True)
class Complexity:
    """Size and work of a network.

    Attributes:
        parameters (int): Number of parameters.
        flops (int): Floating point operations of a forward pass, a multiplication and an
            addition counting as two.
        image_size (tuple[int, int]): Height and width of the image.
        uncounted (tuple[str, ...]): What the FLOPs leave out.
    """

    parameters: int
    flops: int
    image_size: tuple[int, int]
    uncounted: tuple[str, ...]


def count_parameters(module: nn.Module, learned_only: bool = False) -> int:
    """Count parameters.

    Args:
        module (nn.Module): A network or a part of one.
        learned_only (bool): Whether to leave out frozen ones. Defaults to False.

    Returns:
        int: Their number.
    """
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not learned_only)


def measure_network(network: BaseModel, size: tuple[int, int] | None = None) -> Complexity:
    """Measure a detector or a segmentor.

    RoI heads are left out: their work depends on the number of proposals, not on the image.

    Args:
        network (BaseModel): The network.
        size (tuple[int, int], optional): Height and width of the image. Defaults to None, a small
            one if the network takes it.

    Returns:
        Complexity: Of its forward pass on one image.
    """
    two_stage = hasattr(network, 'roi_head') and hasattr(network, 'rpn_head')
    custom = {type(module).__name__ for name, module in network.named_modules()
              if type(module).__module__.startswith('mmcv.ops')
              and not (two_stage and name.startswith('roi_head.'))}
    uncounted = [*(['RoI head'] if two_stage else []), *sorted(custom)]
    # A tap at no backbone, neck or RPN means the whole network.
    taps = ['rpn_head' if two_stage else 'head']

    def measure(size: tuple[int, int]) -> Complexity:
        return Complexity(count_parameters(network), count_flops(network, taps, size), size,
                          tuple(uncounted))

    return measure(size) if size else on_small_image(measure, network)


def measure_teaching(model: AvatarDistiller, size: tuple[int, int]) -> int:
    """Measure the teacher's part in a training step.

    Args:
        model (AvatarDistiller): The distiller.
        size (tuple[int, int]): Height and width of the image.

    Returns:
        int: FLOPs of the teacher as far as its deepest tap.
    """
    return count_flops(model.teacher, dense_taps(model.teacher, model.taps.values()), size)


@torch.no_grad()
def count_flops(network: BaseModel, taps: Iterable[str], size: tuple[int, int]) -> int:
    """Count the FLOPs of a network on one image, no further than the stage of its deepest tap.

    Args:
        network (BaseModel): A detector or a segmentor.
        taps (Iterable[str]): Dotted paths of modules.
        size (tuple[int, int]): Height and width of the image.

    Returns:
        int: Floating point operations.
    """
    training = network.training
    network.eval()
    with FlopCounterMode(display=False) as counter:
        forward_to_taps(network, taps, torch.zeros(1, 3, *size), dry_run_samples(network, 1, size))
    network.train(training)
    return counter.get_total_flops()
