"""Start parts of the student from the teacher's weights."""
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.logging import print_log
from torch import nn

from ..utils.errors import ConfigError, ConfigProblems, suggest
from .teacher import Teacher


def inherited_parts(student: nn.Module, teachers: Mapping[str, Teacher],
                    inherit: Any) -> dict[str, Sequence[str]]:
    """Check the key ``inherit`` of a distiller, and return the parts of the student by teacher.

    Raises:
        ConfigError: If it does not fit the teachers, or a part not one of them.
    """
    first, *others = teachers
    for name in inherit if isinstance(inherit, dict) else teachers if inherit else ():
        if name in teachers and teachers[name].is_average:
            raise ConfigError(f"inherit={inherit!r}: the teacher 'ema' starts from the student "
                              'itself; leave it out')
    if not isinstance(inherit, dict) or teachers[first].name is None:
        if others and inherit:
            raise ConfigError(f'inherit={inherit!r}: there are several teachers; say which one '
                              f"gives what, e.g. inherit=dict({first}=['neck'])")
        inherited_keys(student, teachers[first].network, inherit)
        return {first: inherit} if inherit else {}
    problems = ConfigProblems()
    for name, parts in inherit.items():
        with problems.under(''):
            if name not in teachers:
                raise ConfigError(f'inherit.{name}={parts!r}: no such teacher; '
                                  f'{suggest(name, teachers)}')
            inherited_keys(student, teachers[name].network, parts, f'inherit.{name}')
    problems.raise_if_any()
    return inherit


def inherited_keys(student: nn.Module, teacher: nn.Module, parts: Sequence[str],
                   where: str = 'inherit') -> list[str]:
    """Find the weights that a student can take from its teacher.

    Args:
        student (nn.Module): The student.
        teacher (nn.Module): The teacher.
        parts (Sequence[str]): Dotted paths of modules of both, such as ``'neck'``.
        where (str): The config key of the parts. Defaults to ``'inherit'``.

    Returns:
        list[str]: Keys of the state dict whose name and shape are the same.

    Raises:
        ConfigError: If a part is not a module of both, or has no such key.
    """
    if not isinstance(parts, (list, tuple)):
        raise ConfigError(f"{where}={parts!r}: expected a list of module names, e.g. ['neck']")
    own, given = student.state_dict(), teacher.state_dict()
    problems = ConfigProblems()
    matched = []
    for part in parts:
        for network, side in (student, 'student'), (teacher, 'teacher'):
            names = [name for name, _ in network.named_modules() if name]
            if part not in names:
                problems.add(f'{where}={parts!r}: the {side} ({type(network).__name__}) has no '
                             f'module {part!r}; {suggest(part, names)}')
                break
        else:
            keys = [key for key in own if key.startswith(f'{part}.')]
            fitting = [key for key in keys if key in given and given[key].shape == own[key].shape]
            if not fitting:
                problems.add(f"{where}={parts!r}: none of the {len(keys)} weights of {part!r} has "
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
