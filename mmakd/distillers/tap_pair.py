"""The taps of a task in student and teacher, and how the teacher's RoI heads run."""
from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.model import BaseModel

from ..utils.errors import ConfigError, ConfigProblems
from .roi import RoIBranch, RoIRecorder, find_branch
from .taps import FeatureTaps, check_tap


@dataclass(frozen=True)
class TapPair:
    """The two modules that a task compares.

    Attributes:
        student (str): Dotted path of the student's module.
        teacher (str): Dotted path of the teacher's module.
        branches (tuple[RoIBranch, RoIBranch], optional): The branches of the two RoI heads in
            which the taps are. Defaults to None, outside RoI heads.
    """

    student: str
    teacher: str
    branches: tuple[RoIBranch, RoIBranch] | None = None


def make_tap_pair(student: BaseModel, teacher: BaseModel, taps: tuple[str, str]) -> TapPair:
    """Check the two paths of a task against the networks.

    Raises:
        ConfigError: If one is not a module, or only one of them is in a RoI head.
    """
    keys = ('tap', 'tap') if taps[0] == taps[1] else ('student_tap', 'teacher_tap')
    sides = ('student', 'teacher')
    problems = ConfigProblems()
    branches = []
    for network, key, tap, side in zip((student, teacher), keys, taps, sides):
        try:
            check_tap(network, key, tap, side)
            branches.append(find_branch(network, key, tap))
        except ConfigError as error:
            problems.problems += error.problems
    problems.raise_if_any()
    in_student, in_teacher = branches
    if in_student is None and in_teacher is None:
        return TapPair(*taps)
    if in_student is None or in_teacher is None or in_student.kind != in_teacher.kind:
        raise ConfigError(f'student_tap={taps[0]!r}: the teacher is tapped at {taps[1]!r}, and a '
                          "RoI head runs on the student's RoIs; tap the box heads of both, or "
                          'the mask heads')
    return TapPair(*taps, branches=(in_student, in_teacher))


def dense_taps(teacher: BaseModel, pairs: Collection[TapPair]) -> set[str]:
    """List the paths at which a teacher is tapped before its RoI head runs.

    They are the taps outside RoI heads, and the modules whose features a RoI head uses.
    """
    taps = {pair.teacher for pair in pairs if not pair.branches}
    return taps | {_roi_input(teacher)} if any(pair.branches for pair in pairs) else taps


def run_roi_heads(teacher: BaseModel, pairs: Collection[TapPair], dense: FeatureTaps,
                  recorder: RoIRecorder) -> dict[TapPair, FeatureTaps]:
    """Run the teacher's RoI head on the RoIs of the student.

    Args:
        teacher (BaseModel): The teacher.
        pairs (Collection[TapPair]): The taps.
        dense (FeatureTaps): The teacher's features at its :func:`dense_taps`.
        recorder (RoIRecorder): The student's RoIs.

    Returns:
        dict[TapPair, FeatureTaps]: The features of the taps in RoI heads.
    """
    features: dict[TapPair, FeatureTaps] = {}
    for pair in pairs:
        if pair.branches and pair not in features:
            together = [other for other in pairs if other.branches == pair.branches]
            student_branch, teacher_branch = pair.branches
            with FeatureTaps(teacher, {other.teacher for other in together}) as taps:
                for rois in recorder.rois[student_branch]:
                    teacher_branch.run(teacher, dense.features[_roi_input(teacher)], rois)
            features.update(dict.fromkeys(together, taps))
    return features


def check_gradient(pairs: Mapping[str, TapPair], taps: FeatureTaps) -> None:
    """Check that each task's gradient reaches the student; the losses would not show it.

    Raises:
        ConfigError: If all maps of a task carry no gradient where gradients are computed.
    """
    if not torch.is_grad_enabled():
        return
    problems = ConfigProblems()
    for name, pair in pairs.items():
        maps = taps.features[pair.student]
        if maps and not any(feature.requires_grad for feature in maps):
            problems.add(
                f'model.distill.{name}.tap={pair.student!r}: what the student gives there carries '
                'no gradient: the part is frozen, or lies inside a block that is checkpointed; '
                'tap the end of the block or further on, or set with_cp=False')
    problems.raise_if_any()


def _roi_input(detector: Any) -> str:
    return 'neck' if detector.with_neck else 'backbone'
