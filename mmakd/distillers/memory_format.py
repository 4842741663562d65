"""The memory format in which a network's convolutions work best."""
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor, nn

from .fuse_conv_bn import CONVOLUTIONS, same_features


@torch.no_grad()
def use_channels_last(network: nn.Module,
                      run: Callable[[torch.memory_format], Collection[Tensor]],
                      ) -> torch.memory_format:
    """Have a network's convolutions work in ``torch.channels_last``, where that changes nothing.

    Layers with kernels of their own, such as deformable convolutions, may take their input for
    contiguous; such a network stays as it was.

    Args:
        network (nn.Module): The network, in eval mode. Changed in place.
        run (Callable): Runs it on an example in a memory format and gives the features that count.

    Returns:
        torch.memory_format: The format that its images should have.
    """
    ran: dict[Any, None] = {}
    handles = [module.register_forward_hook(lambda module, *args: ran.setdefault(module))
               for module in network.modules() if type(module) in CONVOLUTIONS]
    before = run(torch.contiguous_format)
    for handle in handles:
        handle.remove()
    for memory_format in torch.channels_last, torch.contiguous_format:
        # Others, as in a RoI head, were not tried.
        for convolution in ran:
            convolution.to(memory_format=memory_format)
        try:
            if same_features(before, run(memory_format)):
                break
        except RuntimeError:
            continue  # a view that needs the other format
    return memory_format
