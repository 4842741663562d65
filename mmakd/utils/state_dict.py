"""Compare weights with a model."""
import copy

import torch
from torch import nn

# What a distiller adds to its student, and so the first part of such keys.
OWN_CHILDREN = ('distiller', 'peers')
OWN_KEYS = tuple(f'{name}.' for name in OWN_CHILDREN)
_SHOWN_KEYS = 6


def rename_keys(model: nn.Module, state_dict: dict[str, torch.Tensor]) -> None:
    """Rename the keys of early versions of modules in place, as ``load_state_dict`` does."""
    metadata = getattr(state_dict, '_metadata', {})
    for name, module in copy.deepcopy(model).named_modules():
        module._load_from_state_dict(state_dict, f'{name}.' if name else '',
                                     metadata.get(name, {}), False, [], [], [])


def describe_mismatch(model: nn.Module, state_dict: dict[str, torch.Tensor],
                      ignored: tuple[str, ...] = ()) -> str:
    """Compare weights with a model, except keys that begin with one of ``ignored``.

    Returns:
        str: How many keys are missing, unexpected and of another shape, and the first of them;
        empty where everything fits.
    """
    own, given = (
        {name: tuple(value.shape) for name, value in weights.items()
         if not name.startswith(ignored)} for weights in (model.state_dict(), state_dict))
    mismatch = {
        'missing': [name for name in own
                    if name not in given and not name.endswith('num_batches_tracked')],
        'unexpected': [name for name in given if name not in own],
        'of another shape': [f'{name} {given[name]} instead of {own[name]}' for name in own
                             if name in given and given[name] != own[name]],
    }
    return '; '.join(
        f'{len(names)} keys {what}: '
        + ', '.join(names[:_SHOWN_KEYS] + ['...'] * (len(names) > _SHOWN_KEYS))
        for what, names in mismatch.items() if names)
