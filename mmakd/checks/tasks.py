"""What the distillation tasks compare."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from torch import Tensor, nn

from ..distillers import AvatarDistiller
from ..distillers.distill_task import DistillTask
from ..distillers.dry_run import dry_run
from ..losses import UncertaintyFeatureLoss
from ..utils.errors import ConfigProblems
from .complexity import count_parameters


@dataclass(frozen=True)
class LevelSummary:
    """One level of a task.

    Attributes:
        index (int): Which of the tap's maps.
        student (tuple[int, ...]): Shape of the student's map (C, H, W) or vector (C,).
        teacher (tuple[int, ...]): That of the teacher's.
        adapter (str): Type of the adapter; empty where there is none.
        adapter_parameters (int): Its number of parameters.
        loss_parameters (int): Learned parameters of the loss.
    """

    index: int
    student: tuple[int, ...]
    teacher: tuple[int, ...]
    adapter: str
    adapter_parameters: int
    loss_parameters: int


@dataclass(frozen=True)
class TaskSummary:
    """A distillation task.

    Attributes:
        name (str): Its name.
        student_tap (str): Path of the student's module.
        teacher_tap (str): Path of the teacher's module.
        loss (str): The loss in words.
        weight (float): Its weight.
        levels (list[LevelSummary]): Its levels.
    """

    name: str
    student_tap: str
    teacher_tap: str
    loss: str
    weight: float
    levels: list[LevelSummary]


def summarize_tasks(model: AvatarDistiller) -> list[TaskSummary]:
    """Summarise the tasks of a distiller.

    Args:
        model (AvatarDistiller): The distiller.

    Returns:
        list[TaskSummary]: Its tasks, with shapes from a dry run on a small image.
    """
    maps = dry_run(model.student, model.teacher, model.taps, ConfigProblems())
    summaries = []
    tasks = cast(Mapping[str, DistillTask], model.distiller)
    for name, task in tasks.items():
        pair = model.taps[name]
        summaries.append(TaskSummary(name, pair.student, pair.teacher,
                                     describe_loss(task.losses[0]), task.loss_weight,
                                     _summarize_levels(task, *maps[name])))
    return summaries


def _summarize_levels(task: DistillTask, student_maps: Sequence[Tensor],
                      teacher_maps: Sequence[Tensor]) -> list[LevelSummary]:
    indices = range(len(student_maps)) if task.levels is None else task.levels
    return [
        LevelSummary(index, tuple(student_maps[index].shape[1:]),
                     tuple(teacher_maps[index].shape[1:]),
                     '' if isinstance(adapter, nn.Identity) else type(adapter).__name__,
                     count_parameters(adapter), count_parameters(loss, learned_only=True))
        for index, adapter, loss in zip(indices, task.adapters, task.losses)
    ]


def describe_loss(loss: nn.Module) -> str:
    """Name a loss, and what an ``UncertaintyFeatureLoss`` is made of.

    Args:
        loss (nn.Module): The loss.

    Returns:
        str: Its type and, in brackets, those of its parts with the number of Avatars.
    """
    name = type(loss).__name__
    if not isinstance(loss, UncertaintyFeatureLoss):
        return name
    parts = [type(loss.criterion).__name__]
    if loss.perturbation is not None:
        parts.append(type(loss.perturbation).__name__ + (
            f' x {loss.num_avatars}' if loss.perturb else ' (sigma only)'))
    if loss.uncertainty is not None:
        parts.append(type(loss.uncertainty[0]).__name__)
    return f'{name}({", ".join(parts)})'
