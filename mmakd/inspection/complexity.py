"""What networks cost: parameters, and FLOPs on a small image."""
from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from mmengine.model import BaseModel
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ..distillers import AvatarDistiller
from ..distillers.dry_run import dry_run_samples
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


def measure_network(network: BaseModel) -> Complexity:
    """Measure a detector or a segmentor.

    RoI heads are left out: their work depends on the number of proposals, not on the image.

    Args:
        network (BaseModel): The network.

    Returns:
        Complexity: Of its forward pass on one image.
    """
    two_stage = hasattr(network, 'roi_head') and hasattr(network, 'rpn_head')
    custom = {type(module).__name__ for name, module in network.named_modules()
              if type(module).__module__.startswith('mmcv.ops')
              and not (two_stage and name.startswith('roi_head.'))}
    uncounted = [*(['RoI head'] if two_stage else []), *sorted(custom)]
    # A tap at no backbone, neck or RPN means the whole network.
    flops = count_flops(network, ['rpn_head' if two_stage else 'head'])
    return Complexity(count_parameters(network), flops, _image_size(network), tuple(uncounted))


def measure_teaching(model: AvatarDistiller) -> int:
    """Measure the teacher's part in a training step.

    Args:
        model (AvatarDistiller): The distiller.

    Returns:
        int: FLOPs of the teacher as far as its deepest tap, on one image of the size of
        :func:`measure_network`.
    """
    return count_flops(model.teacher, dense_taps(model.teacher, model._taps.values()))


@torch.no_grad()
def count_flops(network: BaseModel, taps: Iterable[str]) -> int:
    """Count the FLOPs of a network on one image, no further than the stage of its deepest tap.

    Args:
        network (BaseModel): A detector or a segmentor.
        taps (Iterable[str]): Dotted paths of modules.

    Returns:
        int: Floating point operations.
    """
    training = network.training
    network.eval()
    image = torch.zeros(1, 3, *_image_size(network))
    with FlopCounterMode(display=False) as counter:
        forward_to_taps(network, taps, image, dry_run_samples(network, 1))
    network.train(training)
    return counter.get_total_flops()


def _image_size(network: BaseModel) -> tuple[int, int]:
    return tuple(dry_run_samples(network, 1)[0].metainfo['img_shape'])
