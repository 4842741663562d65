"""One run of both networks on a small image, to find the shapes at their taps."""
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any, TypeVar

import torch
from mmengine.model import BaseModel
from mmengine.structures import BaseDataElement, InstanceData, PixelData
from mmengine.utils import to_2tuple

from ..utils.errors import ConfigError, ConfigProblems
from .distill_task import TaskMaps
from .tap_pair import TapPair, dense_taps, perturbed_modules, run_roi_heads, tap_student
from .taps import FeatureTaps, forward_to_taps
from .teacher import Teacher, teacher_key
from .upstream_avatars import upstream_avatars

# Large enough for five FPN levels and for pyramid pooling.
SMALL = (128, 128)
_LARGE = (512, 512)
_Result = TypeVar('_Result')


def on_small_image(run: Callable[[tuple[int, int]], _Result], *networks: BaseModel) -> _Result:
    """Run networks in eval mode on a small image or, if one fails, on an image of training size.

    Position embeddings as in BEiT fit one size only, and DINO's queries need many positions. The
    training size is the first ``size`` of a ``data_preprocessor``, or else the first ``img_size``
    of a backbone, or else 512 x 512.

    Args:
        run (Callable): Runs them, given height and width of the image.
        *networks (BaseModel): The networks; the one that is trained comes first.
    """
    training = [network.training for network in networks]
    try:
        for network in networks:
            network.eval()
        return run(SMALL)
    except Exception:
        named = [*(getattr(network.data_preprocessor, 'size', None) for network in networks),
                 *(getattr(getattr(network, 'backbone', None), 'img_size', None)
                   for network in networks)]
        return run(next(filter(_is_size, map(to_2tuple, named)), _LARGE))
    finally:
        for network, mode in zip(networks, training):
            network.train(mode)


def _is_size(value: Any) -> bool:
    return [type(length) is int and length > 0 for length in value] == [True, True]


@torch.no_grad()
def dry_run(student: BaseModel, teacher: BaseModel, pairs: Mapping[str, TapPair],
            problems: ConfigProblems, keys: tuple[str, str] = ('model.student', 'model.teacher')
            ) -> dict[str, TaskMaps]:
    """Run student and teacher on a black image, and return their maps by task.

    Tasks with unreadable taps are left out, and their problems are added to ``problems``.
    """
    maps: dict[str, TaskMaps] = {}
    if not pairs:
        return maps
    with problems.under(''):
        student_taps, teacher_taps, roi_taps = on_small_image(
            partial(_run_to_taps, student, teacher, pairs.values(), keys), student, teacher)
        for name, pair in pairs.items():
            with problems.under(pair.key):
                taps_there = roi_taps.get(pair, teacher_taps)
                for taps, tap in (student_taps, pair.student), (taps_there, pair.teacher):
                    if ('tap', tap) in taps.overwritten():
                        raise ConfigError(f'tap={tap!r}: the layer behind it works in place on '
                                          'its output; tap that layer, or one further on')
                if ('perturb_at', pair.perturb_at) in taps_there.overwritten():
                    raise ConfigError(f'perturb_at={pair.perturb_at!r}: a layer works in place on '
                                      'its input; give a module behind that layer')
                maps[name] = TaskMaps(
                    student_taps.features[pair.student], taps_there.features[pair.teacher],
                    upstream_avatars(teacher, pair, taps_there))
    return maps


def dry_run_tasks(students: Mapping[str, BaseModel], teachers: Mapping[str, Teacher],
                  pairs: Mapping[str, TapPair], problems: ConfigProblems
                  ) -> dict[str, TaskMaps]:
    """Make the :func:`dry_run` of the tasks of each student with each of its teachers.

    Args:
        students (Mapping[str, BaseModel]): The students by label, of which some may be teachers.
        teachers (Mapping[str, Teacher]): The teachers by name.
        pairs (Mapping[str, TapPair]): The taps of each task.
        problems (ConfigProblems): Collects the problems.
    """
    maps: dict[str, TaskMaps] = {}
    for by, of in dict.fromkeys((pair.by, pair.of) for pair in pairs.values()):
        own = {task: pair for task, pair in pairs.items() if (pair.by, pair.of) == (by, of)}
        if of in teachers:
            network, key = teachers[of].network, teacher_key(teachers[of].name, 'cfg')
        else:
            network, key = students[of], f'model.{of}'
        maps.update(dry_run(students[by], network, own, problems, (f'model.{by}', key)))
    return maps


def _run_to_taps(
        student: BaseModel, teacher: BaseModel, pairs: Collection[TapPair],
        keys: tuple[str, str], size: tuple[int, int],
) -> tuple[FeatureTaps, FeatureTaps, dict[TapPair, FeatureTaps]]:
    image, samples = torch.zeros(1, 3, *size), dry_run_samples(student, 1, size)
    student_taps = tap_student(student, pairs)
    teacher_taps = FeatureTaps(teacher, dense_taps(teacher, pairs), inputs_of=perturbed_modules(
        [pair for pair in pairs if not pair.branches]))
    problems = ConfigProblems()
    for where, network, taps in zip(keys, (student, teacher), (student_taps, teacher_taps)):
        with problems.attempt(f'{where}: fails on a small image'), taps:
            forward_to_taps(network, taps.features, image, samples)
    problems.raise_if_any()
    return student_taps, teacher_taps, run_roi_heads(teacher, pairs, teacher_taps, student_taps)


def dry_run_samples(network: BaseModel, number: int,
                    size: tuple[int, int] = SMALL) -> list[BaseDataElement]:
    """Make data samples for the dry run; those of a detector have a box, of a segmentor labels."""
    samples = [BaseDataElement(metainfo=dict(
        ori_shape=size, img_shape=size, pad_shape=size, batch_input_shape=size,
        scale_factor=(1.0, 1.0))) for _ in range(number)]
    if hasattr(network, 'decode_head'):
        for sample in samples:
            sample.gt_sem_seg = PixelData(data=torch.zeros(1, *size).long())
    else:
        box = torch.tensor([[0., 0., size[1] / 2, size[0] / 2]])
        for sample in samples:
            sample.gt_instances = InstanceData(bboxes=box, labels=torch.zeros(1).long())
    return samples
