"""Mixed precision on a CPU."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn as nn
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from mmengine.runner.amp import autocast


@OPTIM_WRAPPERS.register_module()
class CPUAmpOptimWrapper(OptimWrapper):
    """Trains under bfloat16 autocast on the CPU, where ``AmpOptimWrapper`` refuses to run.

    bfloat16 has the range of float32, so the loss needs no scaling. The arguments are those of
    ``OptimWrapper``.
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Run the forward pass, the body of the block, under autocast."""
        with super().optim_context(model), autocast(device_type='cpu', dtype=torch.bfloat16):
            yield


def autocast_dtype(device: torch.device) -> torch.dtype:
    """Find the type in which matrices are multiplied on a device, float32 without autocast."""
    one = torch.ones(1, 1, device=device)
    return torch.mm(one, one).dtype
