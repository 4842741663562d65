"""Compare weights with a model."""
import copy

import torch
from torch import nn

_SHOWN_KEYS = 6


def rename_keys(model: nn.Module, state_dict: dict[str, torch.Tensor]) -> None:
    """Rename the keys of early versions of modules in place, as ``load_state_dict`` does.

    Args:
        model (nn.Module): The model of the weights; it does not change.
        state_dict (dict[str, Tensor]): The weights.
    """
    metadata = getattr(state_dict, '_metadata', {})
    for name, module in copy.deepcopy(model).named_modules():
        module._load_from_state_dict(state_dict, f'{name}.' if name else '',
                                     metadata.get(name, {}), False, [], [], [])


def find_mismatch(model: nn.Module, state_dict: dict[str, torch.Tensor]) -> dict[str, list[str]]:
    """Compare weights with a model key by key.

    Returns:
        dict[str, list[str]]: Keys ``'missing'``, ``'unexpected'`` and ``'of another shape'``.
    """
    own = model.state_dict()
    return {
        'missing': [name for name in own
                    if name not in state_dict and not name.endswith('num_batches_tracked')],
        'unexpected': [name for name in state_dict if name not in own],
        'of another shape': [
            f'{name} {tuple(state_dict[name].shape)} instead of {tuple(own[name].shape)}'
            for name in own if name in state_dict and own[name].shape != state_dict[name].shape
        ]
    }


def describe_mismatch(mismatch: dict[str, list[str]]) -> str:
    """Describe the result of :func:`find_mismatch` in one line; empty if everything matches."""
    return '; '.join(
        f'{len(names)} keys {what}: '
        + ', '.join(names[:_SHOWN_KEYS] + ['...'] * (len(names) > _SHOWN_KEYS))
        for what, names in mismatch.items() if names)
