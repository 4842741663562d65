"""Choose where student and teacher are compared."""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from mmengine.model import BaseModel
from torch import Tensor

from mmakd.distillers.distill_task import DistillTask, TaskMaps
from mmakd.distillers.dry_run import dry_run, dry_run_samples
from mmakd.distillers.tap_pair import make_tap_pair
from mmakd.utils.errors import ConfigError, ConfigProblems, numbered

from .methods import Setting


@dataclass
class Choice:
    """A task that fits both networks.

    Attributes:
        name (str): Its name.
        taps (tuple[str, str]): The student's and the teacher's.
        setting (Setting): The criterion's setting there.
        maps (TaskMaps): What the taps give on a small image.
        levels (list[int], optional): The compared levels; None for all.
        resize (bool): Whether sizes differ.
        refused (list[str]): Why taps that would be better do not fit.
    """

    name: str
    taps: tuple[str, str]
    setting: Setting
    maps: TaskMaps
    levels: list[int] | None
    resize: bool
    refused: list[str] = field(default_factory=list)


def choose_tap(student: BaseModel, teacher: BaseModel, settings: dict[str, Setting],
               given: Sequence[str] | None, use_logits: bool) -> Choice:
    """Find the first taps that fit both networks.

    Args:
        student (BaseModel): The student.
        teacher (BaseModel): The teacher.
        settings (dict[str, Setting]): The settings of the method by place.
        given (Sequence[str], optional): The tap, or the student's and the teacher's.
        use_logits (bool): Whether both know the same classes, so that logits can be compared.

    Raises:
        ConfigError: If none fits.
    """
    if given:
        taps = given[0], given[-1]
        first = taps[0].split('.')[0]
        candidates = [(first if first in ('neck', 'backbone') else 'logits', first, taps)]
    else:
        candidates = [(place, place, taps)
                      for place, taps in _candidates(student, teacher, use_logits)]
    refused: list[str] = []
    for place, name, taps in candidates:
        try:
            if place not in settings:
                raise ConfigError('the method has no setting for it, only for '
                                  f'{" and ".join(settings)}')
            choice = _fit(student, teacher, name, taps, settings[place])
            choice.refused = refused
            return choice
        except ConfigError as error:
            refused += [f'{" and ".join(dict.fromkeys(taps))}: {problem}'
                        for problem in error.problems]
    sides = f'{type(student).__name__} and {type(teacher).__name__}'
    if given:
        raise ConfigError(f'--tap={" ".join(given)}: does not fit {sides}:\n{numbered(refused)}')
    children = ['the {} has {}'.format(side, ', '.join(name for name, _ in net.named_children()))
                for side, net in (('student', student), ('teacher', teacher))]
    raise ConfigError(f'--tap: {sides} share no tap that fits:\n'
                      f'{numbered(refused or ["no neck, no logits and no backbone of both"])}\n'
                      f'Name one: --tap PATH, or --tap STUDENT_PATH TEACHER_PATH '
                      f'({"; ".join(children)}), or take another --method')


def _candidates(student: BaseModel, teacher: BaseModel, use_logits: bool
                ) -> Iterator[tuple[str, tuple[str, str]]]:
    """Yield places and taps, the best first."""
    heads = [_logits(network) for network in (student, teacher)]
    if all(heads) and use_logits:
        yield 'logits', (heads[0], heads[1])
    elif not any(heads) and all(getattr(network, 'with_neck', False)
                                for network in (student, teacher)):
        yield 'neck', ('neck', 'neck')
    if all(hasattr(network, 'backbone') for network in (student, teacher)):
        yield 'backbone', ('backbone', 'backbone')


def _logits(network: BaseModel) -> str:
    """Name the last layer of a segmentor; empty for other networks."""
    head = getattr(network, 'decode_head', None)
    if head is None:
        return ''
    return ('decode_head' if hasattr(head, 'num_classes') else
            f'decode_head.{len(head) - 1}') + '.conv_seg'


def _fit(student: BaseModel, teacher: BaseModel, name: str, taps: tuple[str, str],
         setting: Setting) -> Choice:
    """Make the task on a small image.

    Raises:
        ConfigError: If it cannot be made.
    """
    problems = ConfigProblems()
    pairs = {name: make_tap_pair(student, teacher, taps)}
    found = dry_run(student, teacher, pairs, problems)
    problems.raise_if_any()
    maps = found[name]
    if name == 'logits' and maps.student and maps.teacher and (
            maps.student[0].size(1) != maps.teacher[0].size(1)):
        raise ConfigError(f'the student has {maps.student[0].size(1)} classes, the teacher '
                          f'{maps.teacher[0].size(1)}')
    levels = _choose_levels(maps, last_only=taps[0] == 'backbone')
    compared = zip(maps.student, maps.teacher) if levels is None else (
        (maps.student[i], maps.teacher[i]) for i in levels)
    resize = any(_size(ours) != _size(theirs) for ours, theirs in compared)
    DistillTask(name, maps.student, maps.teacher, levels=levels, resize=resize,
                loss=dict(setting.criterion), data_samples=dry_run_samples(student, 2))
    return Choice(name, taps, setting, maps, levels, resize)


def _choose_levels(maps: TaskMaps, last_only: bool) -> list[int] | None:
    """Choose the last, or those of equal size, counted from either end; None for all."""
    of_student, of_teacher = maps.student, maps.teacher
    number = min(len(of_student), len(of_teacher))
    if last_only:
        both = [i for i in range(-number, 0) if of_student[i].dim() == of_teacher[i].dim() == 4]
        return None if len(of_student) == len(of_teacher) == 1 else both[-1:]
    ways = [[i for i in levels if _size(of_student[i]) == _size(of_teacher[i])]
            for levels in (range(number), range(-number, 0))]
    same = max(ways, key=len) or list(range(number))
    if len(same) == len(of_student) == len(of_teacher):
        return None
    return same


def _size(feature: Tensor) -> tuple[int, ...]:
    return tuple(feature.shape[2:])
