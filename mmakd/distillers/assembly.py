"""From the config of a distiller to its networks and tasks, noting every problem on the way."""
from typing import Any

import torch
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from mmengine.structures import BaseDataElement
from torch import nn

from ..config import ConfigError, ConfigProblems, build
from ..references import find_checkpoint, is_reference, resolve_model
from .distill_task import DistillTask, task_taps
from .taps import FeatureTaps, check_tap, forward_to_taps

# The image of the dry run: large enough for five FPN levels and for pyramid pooling.
_DRY_RUN_SIZE = 128


def build_network(cfg: str | dict) -> BaseModel:
    """Build a student or a teacher.

    Args:
        cfg (str | dict): What :func:`mmakd.references.resolve_model` takes.

    Returns:
        BaseModel: The network, with random weights.

    Raises:
        ConfigError: If it cannot be built.
    """
    cfg = resolve_model(cfg)
    try:
        network = MODELS.build(cfg)
    except (AssertionError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(f'type={cfg["type"]!r}: cannot be built: {error}') from error
    if not isinstance(network, BaseModel):
        raise ConfigError(f'type={cfg["type"]!r}: is no detector or segmentor (BaseModel)')
    return network


def published_checkpoint(teacher: str | dict) -> str:
    """Find the weights of a teacher whose ``teacher_ckpt`` is ``'auto'``.

    Args:
        teacher (str | dict): The config key ``teacher``.

    Returns:
        str: Address of the checkpoint.

    Raises:
        ConfigError: If there is none.
    """
    reference = teacher.get('cfg') if isinstance(teacher, dict) else teacher
    if not isinstance(reference, str) or not is_reference(reference):
        raise ConfigError("teacher_ckpt='auto': only a 'mmdet::...' or 'mmseg::...' teacher has "
                          'published weights; give the path or the URL of a checkpoint')
    return find_checkpoint(reference)


def read_taps(distill: dict[str, Any], student: nn.Module, teacher: nn.Module,
              problems: ConfigProblems) -> dict[str, tuple[str, str]]:
    """Read where each task taps the two networks.

    Args:
        distill (dict[str, dict]): Configs of the tasks.
        student (nn.Module): The student.
        teacher (nn.Module): The teacher.
        problems (ConfigProblems): Takes what is wrong.

    Returns:
        dict[str, tuple[str, str]]: Student tap and teacher tap of the tasks that have both.
    """
    taps = {}
    for name, cfg in distill.items():
        found = ConfigProblems()
        with found.under(f'model.distill.{name}'):
            if not str(name).isidentifier() or hasattr(nn.ModuleDict(), name):
                raise ConfigError('name: a task needs a Python name that nn.ModuleDict does not '
                                  'use; rename the task')
            pair = task_taps(cfg)
        if not found.problems:
            for network, side, tap in zip((student, teacher), ('student', 'teacher'), pair):
                with found.under(f'model.distill.{name}'):
                    check_tap(network, 'tap' if 'tap' in cfg else f'{side}_tap', tap, side)
        if found.problems:
            problems.problems += found.problems
        else:
            taps[name] = pair
    return taps


def build_tasks(distill: dict[str, Any], taps: dict[str, tuple[str, str]], student: nn.Module,
                teacher: nn.Module, problems: ConfigProblems) -> nn.ModuleDict:
    """Find channels and levels by one dry run of both networks, and build the tasks.

    Args:
        distill (dict[str, dict]): Configs of the tasks.
        taps (dict[str, tuple[str, str]]): What :func:`read_taps` found.
        student (nn.Module): The student.
        teacher (nn.Module): The teacher.
        problems (ConfigProblems): Takes what is wrong.

    Returns:
        nn.ModuleDict: The tasks by name.
    """
    tasks = nn.ModuleDict()
    student_taps = _dry_run(student, {pair[0] for pair in taps.values()})
    teacher_taps = _dry_run(teacher, {pair[1] for pair in taps.values()})
    for name, cfg in distill.items():
        if name in taps:
            student_tap, teacher_tap = taps[name]
            options = {key: value for key, value in cfg.items()
                       if key not in ('tap', 'student_tap', 'teacher_tap')}
            with problems.under(f'model.distill.{name}'):
                for tap, recorded in (student_tap, student_taps), (teacher_tap, teacher_taps):
                    if tap in recorded.overwritten():
                        raise ConfigError(f'tap={tap!r}: the layer behind it works in place on '
                                          'its output; tap that layer, or one further on')
                tasks[name] = DistillTask(name, student_taps.features[student_tap],
                                          teacher_taps.features[teacher_tap], **options)
        elif isinstance(cfg, dict) and 'loss' in cfg:
            # Its taps are wrong already; its loss may be wrong as well.
            with problems.under(f'model.distill.{name}.loss'):
                build(cfg['loss'])
    return tasks


@torch.no_grad()
def _dry_run(network: nn.Module, taps: set[str]) -> FeatureTaps:
    size = (_DRY_RUN_SIZE, _DRY_RUN_SIZE)
    sample = BaseDataElement(metainfo=dict(
        ori_shape=size, img_shape=size, pad_shape=size, batch_input_shape=size,
        scale_factor=(1.0, 1.0)))
    training = network.training
    network.eval()
    with FeatureTaps(network, taps) as recorded:
        if taps:
            forward_to_taps(network, taps, torch.zeros(1, 3, *size), [sample])
    network.train(training)
    return recorded
