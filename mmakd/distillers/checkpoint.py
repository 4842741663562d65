"""Loading a teacher's weights, matched key by key."""
import logging

from mmengine.logging import print_log
from torch import nn

from ..utils.checkpoint import read_state_dict
from ..utils.errors import ConfigError
from ..utils.state_dict import describe_mismatch, rename_keys


def load_teacher_checkpoint(model: nn.Module, checkpoint: str, strict: bool = True) -> None:
    """Load a checkpoint into a teacher.

    Args:
        model (nn.Module): The teacher.
        checkpoint (str): Path or URL. What belongs to a distiller is left out, so a distilled
            student can teach.
        strict (bool): Whether missing and unexpected keys are an error, not a warning. Defaults
            to True.

    Raises:
        ConfigError: If the file is missing, damaged, no checkpoint, or of another model.
    """
    key = f'model.teacher_ckpt={str(checkpoint)!r}'
    state_dict = read_state_dict(str(checkpoint), key)
    for name in [name for name in state_dict if name.startswith('distiller.')]:
        del state_dict[name]
    rename_keys(model, state_dict)
    problem = describe_mismatch(model, state_dict)
    if problem:
        message = (f'{key}: does not fit the teacher ({type(model).__name__}): {problem}. Name '
                   'the checkpoint of this very config')
        if strict:
            raise ConfigError(f'{message}, or set teacher_strict=False to load what fits')
        print_log(message, 'current', level=logging.WARNING)
        own = model.state_dict()
        for name in [name for name, value in state_dict.items()
                     if name not in own or own[name].shape != value.shape]:
            del state_dict[name]
    model.load_state_dict(state_dict, strict=False)
    print_log(f'Teacher loaded from {checkpoint}', 'current')
