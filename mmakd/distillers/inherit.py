"""Start parts of the student from the teacher's weights."""
from collections.abc import Sequence

import torch
from mmengine.logging import print_log
from torch import nn

from ..utils.errors import ConfigError, ConfigProblems, suggest


def inherited_keys(student: nn.Module, teacher: nn.Module, parts: Sequence[str]) -> list[str]:
    """Find the weights that a student can take from its teacher.

    Args:
        student (nn.Module): The student.
        teacher (nn.Module): The teacher.
        parts (Sequence[str]): Dotted paths of modules of both, such as ``'neck'``.

    Returns:
        list[str]: Keys of the state dict whose name and shape are the same.

    Raises:
        ConfigError: If a part is not a module of both, or has no such key.
    """
    if not isinstance(parts, (list, tuple)):
        raise ConfigError(f"inherit={parts!r}: expected a list of module names, e.g. ['neck']")
    own, given = student.state_dict(), teacher.state_dict()
    problems = ConfigProblems()
    matched = []
    for part in parts:
        for network, side in (student, 'student'), (teacher, 'teacher'):
            names = [name for name, _ in network.named_modules() if name]
            if part not in names:
                problems.add(f'inherit={parts!r}: the {side} ({type(network).__name__}) has no '
                             f'module {part!r}; {suggest(part, names)}')
                break
        else:
            keys = [key for key in own if key.startswith(f'{part}.')]
            fitting = [key for key in keys if key in given and given[key].shape == own[key].shape]
            if not fitting:
                problems.add(f"inherit={parts!r}: none of the {len(keys)} weights of {part!r} has "
                             "the name and the shape of one of the teacher's; leave it out")
            matched += fitting
    problems.raise_if_any()
    return matched


@torch.no_grad()
def inherit(student: nn.Module, teacher: nn.Module, parts: Sequence[str]) -> None:
    """Copy the :func:`inherited_keys` of a loaded teacher into the student, and log them."""
    keys = inherited_keys(student, teacher, parts)
    own, given = student.state_dict(), teacher.state_dict()
    for key in keys:
        own[key].copy_(given[key])
    left = [key for key in own if key.startswith(tuple(f'{part}.' for part in parts))
            and key not in keys]
    print_log(f'The student starts with {len(keys)} weights of the teacher: {", ".join(keys)}'
              + (f'; its own stay: {", ".join(left)}' if left else ''), 'current')
