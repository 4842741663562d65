"""The module of the student whose gradient is measured, and that gradient."""
from collections.abc import Sequence
from typing import Any

import torch
from mmengine.dist import all_reduce
from torch import Tensor, nn

from ..distillers.taps import check_tap
from ..utils.errors import ConfigError


def find_measured_module(student: Any, at: str | None) -> str:
    """Find the path of the module, and check that its gradient can be measured.

    Args:
        student (BaseModel): The student.
        at (str, optional): The path that the config gives; None for the last stage of the
            backbone that has trainable parameters.

    Raises:
        ConfigError: If there is no such module, it has no trainable parameters, or checkpointed
            blocks hide its gradient from ``torch.autograd.grad``.
    """
    path = _last_stage(student) if at is None else at
    check_tap(student, 'at', path, 'student')
    if not _is_trained(student.get_submodule(path)):
        raise ConfigError(f'at={path!r}: has no trainable parameters; name another module')
    part = path.split('.')[0]
    # All other parts come behind the backbone.
    behind = student if part == 'backbone' else student.get_submodule(part)
    if any(getattr(module, 'with_cp', False) for module in behind.modules()):
        raise ConfigError(f'at={path!r}: no gradient can be measured in or before blocks that are '
                          'checkpointed; set with_cp=False, or name a module of a part behind '
                          "them, e.g. at='neck'")
    return path


def measure_gradient(loss: Tensor, weights: Sequence[Tensor]) -> Tensor | None:
    """Compute the gradient as one vector, averaged over ranks.

    Args:
        loss (Tensor): A scalar, whose graph is kept.
        weights (Sequence[Tensor]): With respect to what.

    Returns:
        Tensor | None: In float32; None if none of the weights has a gradient on any rank, though
        the loss is not zero.
    """
    with torch.autocast(loss.device.type, enabled=False):  # it is for forward passes only
        parts = torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True)
    # A loss of zero does not tell: a step that is skipped has no gradient anywhere.
    exists = ((loss == 0) | any(part is not None for part in parts)).float()
    all_reduce(exists, 'max')
    gradient = torch.cat([(torch.zeros_like(weight) if part is None else part).float().flatten()
                          for weight, part in zip(weights, parts)])
    all_reduce(gradient, 'mean')
    return gradient if exists else None


def _last_stage(student: Any) -> str:
    backbone = getattr(student, 'backbone', nn.Module())
    names = [name for name, _ in backbone.named_children()]
    for attribute in 'res_layers', 'layers', 'stages':
        stages = getattr(backbone, attribute, None)
        if isinstance(stages, nn.Module):
            names += [f'{attribute}.{name}' for name, _ in stages.named_children()]
        elif isinstance(stages, (list, tuple)):  # of names; of numbers in DarkNet
            names += [name for name in stages if name in names]
    trained = [name for name in names if _is_trained(backbone.get_submodule(name))]
    return f'backbone.{trained[-1]}' if trained else 'backbone'


def _is_trained(module: nn.Module) -> bool:
    return any(weight.requires_grad for weight in module.parameters())
