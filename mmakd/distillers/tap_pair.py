"""The taps of a task in student and teacher, and how the teacher's RoI heads run."""
from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import torch
from mmengine.model import BaseModel

from ..utils.errors import ConfigError, ConfigProblems, suggest
from .roi_branch import RoIBranch, find_roi_branch
from .taps import FeatureTaps, check_tap


class TapPair(NamedTuple):
    """The two modules that a task compares.

    Attributes:
        student (str): Dotted path of the student's module.
        teacher (str): Dotted path of the teacher's module.
        branches (tuple[RoIBranch, RoIBranch], optional): The branches of the two RoI heads in
            which the taps are. Defaults to None, outside RoI heads.
        perturb_at (str, optional): Dotted path of the teacher's module whose input is perturbed.
            Defaults to None, the tap itself is perturbed.
        of (str): Name of the teacher, or label of the student that teaches. Defaults to
            ``'teacher'``.
        by (str): Label of the student that learns. Defaults to ``'student'``.
        key (str): The task's config key. Defaults to ``'model.distill'``.
    """

    student: str
    teacher: str
    branches: tuple[RoIBranch, RoIBranch] | None = None
    perturb_at: str | None = None
    of: str = 'teacher'
    by: str = 'student'
    key: str = 'model.distill'


def make_tap_pair(student: BaseModel, teacher: BaseModel, taps: tuple[str, str],
                  perturb_at: str | None = None) -> TapPair:
    """Check the paths of a task against the networks.

    Raises:
        ConfigError: If one is not a module, only one of the taps is in a RoI head, or the tap is
            not in the module that is perturbed.
    """
    keys = ('tap', 'tap') if taps[0] == taps[1] else ('student_tap', 'teacher_tap')
    problems = ConfigProblems()
    branches = []
    for network, key, tap, side in zip((student, teacher), keys, taps, ('student', 'teacher')):
        with problems.under(''):
            check_tap(network, key, tap, side)
            branches.append(find_roi_branch(network, key, tap))
    if perturb_at is not None:
        with problems.under(''):
            _check_perturb_at(teacher, perturb_at, taps[1])
    problems.raise_if_any()
    in_student, in_teacher = branches
    if in_student is None and in_teacher is None:
        return TapPair(*taps, perturb_at=perturb_at)
    if in_student is None or in_teacher is None or in_student.kind != in_teacher.kind:
        raise ConfigError(f'student_tap={taps[0]!r}: the teacher is tapped at {taps[1]!r}, and a '
                          "RoI head runs on the student's RoIs; tap the box heads of both, or "
                          'the mask heads')
    return TapPair(*taps, branches=(in_student, in_teacher), perturb_at=perturb_at)


def _check_perturb_at(teacher: BaseModel, perturb_at: str, tap: str) -> None:
    check_tap(teacher, 'perturb_at', perturb_at, 'teacher')
    names = tap.split('.')
    around = ['.'.join(names[:depth]) for depth in range(1, len(names) + 1)]
    if perturb_at not in around:
        raise ConfigError(f"perturb_at={perturb_at!r}: the teacher's tap {tap!r} is not inside "
                          f'that module; {suggest(perturb_at, around)}')
    if perturb_at == 'roi_head' or 'roi_extractor' in perturb_at:
        raise ConfigError(f'perturb_at={perturb_at!r}: its input is not the features of RoIs; '
                          "give a head inside roi_head, e.g. 'roi_head.bbox_head'")


def tap_student(student: BaseModel, pairs: Collection[TapPair]) -> FeatureTaps:
    """Tap the student; in RoI heads also its RoIs, on which the teacher's will run."""
    return FeatureTaps(student, {pair.student for pair in pairs},
                       {pair.branches[0].extractor for pair in pairs if pair.branches})


def dense_taps(teacher: BaseModel, pairs: Collection[TapPair]) -> set[str]:
    """List the paths at which a teacher is tapped before its RoI head runs.

    They are the taps outside RoI heads, and the modules whose features a RoI head uses.
    """
    return {_roi_input(teacher) if pair.branches else pair.teacher for pair in pairs}


def perturbed_modules(pairs: Collection[TapPair]) -> set[str]:
    """List the paths of the modules whose input is perturbed."""
    return {pair.perturb_at for pair in pairs if pair.perturb_at is not None}


def run_roi_heads(teacher: BaseModel, pairs: Collection[TapPair], dense: FeatureTaps,
                  student_taps: FeatureTaps) -> dict[TapPair, FeatureTaps]:
    """Run the teacher's RoI head on the RoIs of the student.

    Args:
        teacher (BaseModel): The teacher.
        pairs (Collection[TapPair]): The taps.
        dense (FeatureTaps): The teacher's features at its :func:`dense_taps`.
        student_taps (FeatureTaps): Those of :func:`tap_student`.

    Returns:
        dict[TapPair, FeatureTaps]: The features of the taps in RoI heads.
    """
    features: dict[TapPair, FeatureTaps] = {}
    for branches in dict.fromkeys(pair.branches for pair in pairs if pair.branches):
        together = [pair for pair in pairs if pair.branches == branches]
        in_student, in_teacher = branches
        with FeatureTaps(teacher, [pair.teacher for pair in together],
                         inputs_of=perturbed_modules(together)) as taps:
            for rois in student_taps.rois[in_student.extractor]:
                in_teacher.run(teacher, dense.features[_roi_input(teacher)], rois)
        features.update(dict.fromkeys(together, taps))
    return features


def check_gradient(pairs: Collection[TapPair], taps: Mapping[str, FeatureTaps]) -> None:
    """Check that each task's gradient reaches its student; the losses would not show it.

    Args:
        pairs (Collection[TapPair]): The taps.
        taps (Mapping[str, FeatureTaps]): The features of the students, by label.

    Raises:
        ConfigError: If all maps of a task carry no gradient where gradients are computed.
    """
    if not torch.is_grad_enabled():
        return
    problems = ConfigProblems()
    for pair in pairs:
        maps = taps[pair.by].features[pair.student]
        if maps and not any(feature.requires_grad for feature in maps):
            problems.add(
                f"{pair.key}.tap={pair.student!r}: the student's maps have no gradient: "
                'the module is frozen, or lies inside a checkpointed block; tap the end of the '
                'block or a later module, or set with_cp=False')
    problems.raise_if_any()


def _roi_input(detector: Any) -> str:
    return 'neck' if detector.with_neck else 'backbone'
