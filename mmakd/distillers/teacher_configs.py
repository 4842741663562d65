"""The teachers in the config of a distiller: one, or several by name."""
from dataclasses import dataclass
from typing import Any

import torch

from ..utils.build import brief, wrong_types
from ..utils.errors import ConfigError, suggest

PRECISIONS = dict(float32=torch.float32, float16=torch.float16, bfloat16=torch.bfloat16)
_KEYS = ('cfg', 'ckpt', 'strict', 'precision')


@dataclass
class TeacherConfig:
    """Config of one teacher; its keys are those of a named teacher.

    Attributes:
        cfg (str | dict): What :func:`mmakd.utils.references.resolve_model` takes.
        ckpt (str, optional): As ``teacher_ckpt`` of the distiller; likewise the others.
        strict (bool): As ``teacher_strict``.
        precision (str, optional): As ``teacher_precision``.
        name (str, optional): None for the only teacher of a config without names.
    """

    cfg: Any
    ckpt: str | None = 'auto'
    strict: bool = True
    precision: str | None = None
    name: str | None = None


def teacher_key(name: str | None, option: str) -> str:
    """Return the key of a teacher's option: ``'teacher_ckpt'``, or ``'teacher.<name>.ckpt'``."""
    if name is None:
        return 'teacher' if option == 'cfg' else f'teacher_{option}'
    return f'teacher.{name}.{option}'


def read_teachers(teacher: Any, **options: Any) -> dict[str, TeacherConfig]:
    """Read the key ``teacher``, where a dict of dicts without 'type' and 'cfg' names several.

    Args:
        teacher (str | dict): Its value.
        **options: ``ckpt``, ``strict`` and ``precision`` of a teacher without a name.

    Returns:
        dict[str, TeacherConfig]: The teachers by name; one without a name as ``'teacher'``.

    Raises:
        ConfigError: With all problems at once, if a key of a named teacher is wrong, or options
            are given beside named teachers.
    """
    if not isinstance(teacher, dict) or not teacher or {'type', 'cfg'} & set(teacher) or not all(
            isinstance(entry, dict) for entry in teacher.values()):
        return dict(teacher=TeacherConfig(teacher, **options))
    problems = [
        f'teacher_{option}={value!r}: the teachers have names; give it to one of them as '
        f'{teacher_key(next(iter(teacher)), option)}'
        for option, value in options.items() if value != getattr(TeacherConfig, option)]
    for name, entry in teacher.items():
        if not str(name).isidentifier():
            problems.append(f'teacher: {name!r} is no Python name; rename the teacher')
        if 'cfg' not in entry:
            problems.append(f"{teacher_key(name, 'cfg')}: missing; give dict(cfg=..., ckpt=...) "
                            "for each named teacher, or one model dict with a 'type'")
            continue
        problems += [f'{teacher_key(name, key)}={brief(entry[key])}: a named teacher has no such '
                     f'key; {suggest(key, _KEYS)}' for key in sorted(set(entry) - set(_KEYS))]
        problems += [f'teacher.{name}.{problem}' for problem in wrong_types(entry, TeacherConfig)]
    if problems:
        raise ConfigError(problems)
    return {name: TeacherConfig(**entry, name=name) for name, entry in teacher.items()}
