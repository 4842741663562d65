"""Parameters of networks, and their FLOPs on a small image."""
from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from mmengine.model import BaseModel
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ..distillers import AvatarDistiller
from ..distillers.distill_task import TaskMaps
from ..distillers.dry_run import dry_run_samples, on_small_image
from ..distillers.tap_pair import dense_taps
from ..distillers.taps import forward_to_taps


class Complexity(NamedTuple):
    """Floating point operations of a forward pass on one image of ``image_size`` (H, W).

    A multiplication and an addition count as two. ``uncounted`` names what is left out.
    """

    flops: int
    image_size: tuple[int, int]
    uncounted: tuple[str, ...]


def count_parameters(module: nn.Module, learned_only: bool = False) -> int:
    """Count the parameters of a module, optionally only the trained ones."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not learned_only)


def measure_network(network: BaseModel, size: tuple[int, int] | None = None) -> Complexity:
    """Measure a detector or a segmentor.

    RoI heads are left out: their work depends on the number of proposals, not on the image.
    Without a ``size`` (H, W) of the image it is a small one, if the network takes it.
    """
    two_stage = hasattr(network, 'roi_head') and hasattr(network, 'rpn_head')
    custom = {type(module).__name__ for name, module in network.named_modules()
              if type(module).__module__.startswith('mmcv.ops')
              and not (two_stage and name.startswith('roi_head.'))}
    uncounted = (*(['RoI head'] if two_stage else []), *sorted(custom))
    # A tap at no backbone, neck or RPN means the whole network.
    taps = ['rpn_head' if two_stage else 'head']

    def measure(size: tuple[int, int]) -> Complexity:
        return Complexity(count_flops(network, taps, size), size, uncounted)

    return measure(size) if size else on_small_image(measure, network)


def measure_teacher(model: AvatarDistiller, name: str, size: tuple[int, int]) -> int:
    """Count the FLOPs of a teacher as far as its deepest tap, its part in a training step."""
    network = model.teachers[name].network
    pairs = [pair for pair in model.taps.values() if pair.of == name]
    return count_flops(network, dense_taps(network, pairs), size)


def measure_tasks(model: AvatarDistiller, maps: Mapping[str, TaskMaps]) -> int:
    """Count the FLOPs of adapters, losses and Avatars in a training step, forward and backward.

    Args:
        model (AvatarDistiller): The model.
        maps (Mapping[str, TaskMaps]): The maps of each task, of one image.
    """
    with FlopCounterMode(display=False) as counter:
        for name, task in model.distiller.items():
            of_student = [feature.detach().requires_grad_() for feature in maps[name].student]
            samples = dry_run_samples(model.students[model.taps[name].by], 1)
            task(of_student, maps[name].teacher, samples, maps[name].upstream).backward()
    return counter.get_total_flops()


@torch.no_grad()
def count_flops(network: BaseModel, taps: Iterable[str], size: tuple[int, int]) -> int:
    """Count the FLOPs of a network on one image, no further than the stage of its deepest tap."""
    training = network.training
    network.eval()
    with FlopCounterMode(display=False) as counter:
        forward_to_taps(network, taps, torch.zeros(1, 3, *size), dry_run_samples(network, 1, size))
    network.train(training)
    return counter.get_total_flops()
