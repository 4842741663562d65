"""One run of both networks on a small image, which shows what their taps give."""
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from mmengine.model import BaseModel
from mmengine.structures import BaseDataElement, InstanceData
from torch import Tensor

from ..config import ConfigError, ConfigProblems
from ..config_file import describe
from .roi import RoIRecorder
from .tap_pair import TapPair, dense_taps, run_roi_heads
from .taps import FeatureTaps, forward_to_taps

# Large enough for five FPN levels and for pyramid pooling.
_SIZE = (128, 128)


@torch.no_grad()
def dry_run(student: BaseModel, teacher: BaseModel, pairs: Mapping[str, TapPair],
            problems: ConfigProblems) -> dict[str, tuple[list[Tensor], list[Tensor]]]:
    """Run student and teacher on a black image.

    Args:
        student (BaseModel): The student.
        teacher (BaseModel): The teacher.
        pairs (Mapping[str, TapPair]): Where each task taps them.
        problems (ConfigProblems): Takes what is wrong.

    Returns:
        dict[str, tuple[list[Tensor], list[Tensor]]]: Maps of student and teacher by task, without
        the tasks whose taps cannot be read.
    """
    if not pairs:
        return {}
    image, samples = torch.zeros(1, 3, *_SIZE), dry_run_samples(student, 1)
    training = student.training, teacher.training
    student.eval()
    teacher.eval()
    branches = {pair.branches for pair in pairs.values() if pair.branches}
    student_taps = FeatureTaps(student, {pair.student for pair in pairs.values()})
    teacher_taps = FeatureTaps(teacher, dense_taps(teacher, pairs.values()))
    recorder = RoIRecorder(student, {branch for branch, _ in branches})
    before = len(problems.problems)
    with problems.under('model.student'), _as_problem(), student_taps, recorder:
        forward_to_taps(student, student_taps.features, image, samples)
    with problems.under('model.teacher'), _as_problem(), teacher_taps:
        forward_to_taps(teacher, teacher_taps.features, image, samples)
    if len(problems.problems) > before:
        return {}
    roi_taps = run_roi_heads(teacher, pairs.values(), teacher_taps, recorder)
    student.train(training[0])
    teacher.train(training[1])

    maps = {}
    for name, pair in pairs.items():
        with problems.under(f'model.distill.{name}'):
            taps_there = roi_taps.get(pair, teacher_taps)
            for taps, tap in (student_taps, pair.student), (taps_there, pair.teacher):
                if tap in taps.overwritten():
                    raise ConfigError(f'tap={tap!r}: the layer behind it works in place on '
                                      'its output; tap that layer, or one further on')
            maps[name] = student_taps.features[pair.student], taps_there.features[pair.teacher]
    return maps


@contextmanager
def _as_problem() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise ConfigError(f': fails on a small image: {describe(error)}') from error


def dry_run_samples(network: BaseModel, number: int) -> list[BaseDataElement]:
    """Make data samples for images of the dry run.

    Args:
        network (BaseModel): A detector, whose samples have a box each, or a segmentor.
        number (int): How many.

    Returns:
        list[BaseDataElement]: The samples.
    """
    samples = [BaseDataElement(metainfo=dict(
        ori_shape=_SIZE, img_shape=_SIZE, pad_shape=_SIZE, batch_input_shape=_SIZE,
        scale_factor=(1.0, 1.0))) for _ in range(number)]
    if not hasattr(network, 'decode_head'):
        box = torch.tensor([[0., 0., _SIZE[1] / 2, _SIZE[0] / 2]])
        for sample in samples:
            sample.gt_instances = InstanceData(bboxes=box, labels=torch.zeros(1).long())
    return samples
