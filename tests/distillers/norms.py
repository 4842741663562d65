"""BatchNorms whose statistics count."""
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def randomize_norms(network: nn.Module) -> nn.Module:
    """Give BatchNorms values that a wrong factor, shift or order would show; freeze all."""
    generator = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, _BatchNorm) and module.running_mean is not None:
            module.running_mean.normal_(0, 0.5, generator=generator)
            module.running_var.uniform_(0.2, 3, generator=generator)
            if module.affine:
                nn.init.uniform_(module.weight, -1.5, 1.5, generator=generator)
                nn.init.normal_(module.bias, 0, 0.5, generator=generator)
    return network.eval().requires_grad_(False)
