"""Build networks and tasks from the config of a distiller, and collect all problems."""
import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import torch
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from torch import nn

from ..utils.build import brief, build, wrong_types
from ..utils.errors import ConfigError, ConfigProblems, describe, suggest
from ..utils.references import find_checkpoint, is_reference, resolve_model
from .distill_task import DistillTask, task_taps
from .dry_run import dry_run_samples, dry_run_tasks
from .tap_pair import TapPair, make_tap_pair
from .teacher import Teacher, teacher_key

# In the place of a teacher's config: the running average of the student.
_AVERAGE = 'ema'
_PRECISIONS = dict(float32=torch.float32, float16=torch.float16, bfloat16=torch.bfloat16)


def build_network(cfg: str | dict, data_preprocessor: dict | None = None) -> BaseModel:
    """Build a student or a teacher, with random weights.

    Args:
        cfg (str | dict): What :func:`mmakd.utils.references.resolve_model` takes.
        data_preprocessor (dict, optional): Config of its ``data_preprocessor`` if ``cfg`` has
            none. Defaults to None.

    Raises:
        ConfigError: If it cannot be built.
    """
    cfg = resolve_model(cfg)
    if data_preprocessor is not None:
        cfg = {'data_preprocessor': data_preprocessor, **cfg}
    try:
        network = MODELS.build(cfg)
    except Exception as error:
        raise ConfigError(f'type={cfg["type"]!r}: cannot be built: {describe(error)}') from error
    if not isinstance(network, BaseModel):
        raise ConfigError(f'type={cfg["type"]!r}: is no detector or segmentor (BaseModel)')
    return network


def find_teacher_ckpt(teacher: str | dict, teacher_ckpt: str | None) -> str | None:
    """Replace ``'auto'`` by the address of the teacher's published weights.

    Raises:
        ConfigError: If there is none, or the teacher is the average of the student.
    """
    if teacher == _AVERAGE:
        if teacher_ckpt != 'auto':
            raise ConfigError(f'={teacher_ckpt!r}: the teacher {_AVERAGE!r} is the average of the '
                              'student and has no checkpoint; leave this key out')
        return None
    if teacher_ckpt != 'auto':
        return teacher_ckpt
    reference = teacher.get('cfg') if isinstance(teacher, dict) else teacher
    if not isinstance(reference, str) or not is_reference(reference):
        raise ConfigError("='auto': only a 'mmdet::...' or 'mmseg::...' teacher has published "
                          'weights; give the path or the URL of a checkpoint')
    return find_checkpoint(reference)


def build_teachers(teacher: Any, student: BaseModel | None, problems: ConfigProblems,
                   **options: Any) -> dict[str, Teacher]:
    """Build the teachers, with random weights.

    Args:
        teacher (str | dict): One, or named ones: a dict of dicts without 'type' and 'cfg'.
            ``'ema'`` is a copy of the student.
        student (BaseModel | None): The student; None if it cannot be built.
        problems (ConfigProblems): Collects the problems.
        **options: ``ckpt``, ``strict`` and ``precision`` of a teacher without a name.

    Returns:
        dict[str, Teacher]: By name; one without a name is ``'teacher'``. Empty if any cannot be
        built.
    """
    cfgs: dict[str | None, dict] = {None: dict(options, cfg=teacher)}
    if isinstance(teacher, dict) and teacher and not {'type', 'cfg'} & set(teacher) and all(
            isinstance(cfg, dict) for cfg in teacher.values()):
        cfgs = {**teacher}
        for option, value in options.items():
            if value != getattr(_TeacherOptions, option):
                problems.add(f'{teacher_key(None, option)}={value!r}: the teachers have names; '
                             f'give each its own, as {teacher_key(next(iter(teacher)), option)}, '
                             f'and leave this at {getattr(_TeacherOptions, option)!r}')
    teachers = {}
    for name, cfg in cfgs.items():
        with problems.under(teacher_key(name, 'cfg')):
            if 'cfg' not in cfg:
                raise ConfigError(': missing; give dict(cfg=..., ckpt=...) for each named '
                                  "teacher, or one model dict with a 'type'")
            problems.problems += [f'{teacher_key(name, "")}{wrong}' for wrong in _wrong(cfg)]
            is_average = cfg['cfg'] == _AVERAGE
            network: Any = copy.deepcopy(student) if is_average else build_network(cfg['cfg'])
            given = _TeacherOptions(**{key: cfg[key] for key in _TEACHER_KEYS & set(cfg)})
            with problems.under(teacher_key(name, 'ckpt')):
                given.ckpt = find_teacher_ckpt(given.cfg, given.ckpt)
            if student is not None:
                teachers[name or 'teacher'] = Teacher(
                    network, student.data_preprocessor, given.ckpt, given.strict,
                    _PRECISIONS.get(str(given.precision)), name, is_average)
    return teachers if len(teachers) == len(cfgs) else {}


@dataclass
class _TeacherOptions:
    """What a named teacher can have."""

    cfg: Any
    ckpt: str | None = 'auto'
    strict: bool = True
    precision: str | None = None


_TEACHER_KEYS = {option.name for option in fields(_TeacherOptions)}


def _wrong(cfg: dict) -> list[str]:
    """List what is wrong with the options of a teacher."""
    problems = [f'{key}={brief(cfg[key])}: a named teacher has no such key; '
                f'{suggest(key, _TEACHER_KEYS)}' for key in sorted(set(cfg) - _TEACHER_KEYS)]
    problems += wrong_types(cfg, _TeacherOptions)
    if cfg.get('precision') not in (None, *_PRECISIONS):
        problems.append(f'precision={cfg["precision"]!r}: must be None or one of '
                        f'{", ".join(_PRECISIONS)}')
    return problems


class TaskConfig(NamedTuple):
    """The config of a task and its place.

    Attributes:
        key (str): Its config key.
        cfg (Any): The config.
        by (str): Label of the student that learns. Defaults to ``'student'``.
        of (str, optional): Label of the student that teaches. Defaults to None, a teacher does.
    """

    key: str
    cfg: Any
    by: str = 'student'
    of: str | None = None


def build_tasks(configs: Mapping[str, TaskConfig], students: Mapping[str, BaseModel],
                teachers: Mapping[str, Teacher], problems: ConfigProblems
                ) -> tuple[dict[str, TapPair], nn.ModuleDict]:
    """Read the taps of all tasks, find their maps by a dry run, and build the tasks.

    Tasks with problems, which are added to ``problems``, are left out.

    Args:
        configs (Mapping[str, TaskConfig]): The tasks by name.
        students (Mapping[str, BaseModel]): The students by label.
        teachers (Mapping[str, Teacher]): The teachers by name.
        problems (ConfigProblems): Collects the problems.
    """
    networks = {**students, **{name: teacher.network for name, teacher in teachers.items()}}
    pairs: dict[str, TapPair] = {}
    of: dict[str, str] = {}
    for name, (key, cfg, by, peer) in configs.items():
        with problems.under(key):
            of[name] = peer or _find_teacher(cfg, teachers)
        with problems.under(key):
            if not str(name).isidentifier() or hasattr(nn.ModuleDict(), name):
                raise ConfigError('name: a task needs a Python name that nn.ModuleDict does not '
                                  'use; rename the task')
            taps = task_taps(cfg)
            if name in of:
                pair = make_tap_pair(students[by], networks[of[name]], taps,
                                     cfg.get('perturb_at'))
                pairs[name] = pair._replace(of=of[name], by=by, key=key)
    tasks = nn.ModuleDict()
    maps = dry_run_tasks(students, teachers, pairs, problems)
    for name, (key, cfg, by, _) in configs.items():
        if name in maps and any(problem.startswith(f'{key}.') for problem in problems.problems):
            continue  # of a peer task the other direction would tell the same
        if name in maps:
            options = {key: value for key, value in cfg.items()
                       if key not in ('tap', 'student_tap', 'teacher_tap', 'teacher',
                                      'perturb_at')}
            with problems.under(key):
                wrong = wrong_types(options, DistillTask)
                if wrong:
                    raise ConfigError(wrong)
                tasks[name] = DistillTask(name, maps[name].student, maps[name].teacher,
                                          upstream=maps[name].upstream,
                                          data_samples=dry_run_samples(students[by], 2),
                                          **options)
        elif isinstance(cfg, dict) and 'loss' in cfg:
            # Its taps are wrong already; its loss may be wrong as well.
            with problems.under(f'{key}.loss'):
                build(cfg['loss'], offer=dict(channels=1))
    return pairs, tasks


def check_use(teachers: Mapping[str, Teacher], configs: Iterable[TaskConfig],
              inherit: Any) -> None:
    """Check that a task, or ``inherit``, names each of several teachers.

    Raises:
        ConfigError: If not, unless a task names none or an unknown one: that is an error itself.
    """
    used = {task.cfg.get('teacher') for task in configs
            if task.of is None and isinstance(task.cfg, dict)}
    if used <= set(teachers):
        unused = set(teachers) - used - set(inherit)
        if unused:
            raise ConfigError([f'teacher.{name}: no task uses it; remove it, or set '
                               f'teacher={name!r} in a task' for name in sorted(unused)])


def _find_teacher(cfg: Any, teachers: Mapping[str, Teacher]) -> str:
    """Find which teacher a task uses."""
    name = cfg.get('teacher') if isinstance(cfg, dict) else None
    first, *others = teachers
    if name is None and others:
        raise ConfigError('teacher: missing; there are several teachers, name one of '
                          f'{", ".join(map(repr, teachers))}')
    if name is not None and teachers[first].name is None:
        raise ConfigError(f'teacher={name!r}: there is one teacher, and it has no name; leave '
                          'this key out, or name the teacher: model.teacher=dict(name=dict('
                          'cfg=..., ckpt=...))')
    if name is not None and name not in teachers:
        raise ConfigError(f'teacher={name!r}: no such teacher; {suggest(name, teachers)}')
    return name or first
