"""Inspect a config before training."""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mmengine.config import Config
from torch import nn

from ..distillers import AvatarDistiller, MaskTokenLearner
from ..distillers.distill_task import TaskMaps
from ..distillers.dry_run import SMALL, dry_run_tasks
from ..distillers.renormalize import swaps_channels
from ..distillers.teacher import Teacher
from ..losses.seeded_draws import SeededDraws
from ..utils.errors import ConfigProblems, describe
from .classes import check_classes, find_class_numbers
from .complexity import Complexity, measure_network, measure_tasks, measure_teacher
from .data_files import check_data
from .parts import SPLITS, build_parts, quiet
from .student import compare_with_student
from .weights import check_tokens, check_weights


@dataclass
class Inspection:
    """Results of inspecting a config.

    Attributes:
        problems (ConfigProblems): Problems and warnings.
        model (nn.Module, optional): The model; None if it cannot be built.
        networks (dict[str, tuple[nn.Module, Complexity | None]]): ``'model'``, or the
            students and teachers by label: ``'student'`` or ``'students.<name>'``, ``'teacher'``
            or ``'teacher.<name>'``.
        maps (dict[str, TaskMaps]): What each task compares, of one small image.
        teacher_flops (dict[str, int]): FLOPs of each teacher in a step, by label.
        task_flops (int): FLOPs of adapters, losses and Avatars in a step.
        images (dict[str, dict[str, tuple[str, str]]]): How the images of the student and of each
            teacher differ, by label.
        classes (dict[str, str]): Numbers of classes, by their source.
        weights (dict[str, str]): Source of each teacher's weights, by label.
        batch (str, optional): Images per step.
        differences (list[tuple[str, str, str]]): Key, value in the student's own config, and
            value here.
    """

    problems: ConfigProblems
    model: nn.Module | None = None
    networks: dict[str, tuple[nn.Module, Complexity | None]] = field(default_factory=dict)
    maps: dict[str, TaskMaps] = field(default_factory=dict)
    teacher_flops: dict[str, int] = field(default_factory=dict)
    task_flops: int = 0
    images: dict[str, dict[str, tuple[str, str]]] = field(default_factory=dict)
    classes: dict[str, str] = field(default_factory=dict)
    weights: dict[str, str] = field(default_factory=dict)
    batch: str | None = None
    differences: list[tuple[str, str, str]] = field(default_factory=list)


def inspect_config(cfg: Config, download: bool = True, gpus: int | None = None) -> Inspection:
    """Inspect a config without training and without reading an image.

    Args:
        cfg (Config): The config.
        download (bool): Whether the teacher's checkpoint may be fetched. Defaults to True.
        gpus (int, optional): Number of processes of the training. Defaults to None, as of
            :func:`describe_batch`.
    """
    problems = ConfigProblems()
    found = Inspection(problems)
    data = ConfigProblems()
    with data.under(''):
        check_data(cfg, *SPLITS)
    problems.warnings += data.problems  # a config may be checked away from its data
    parts = build_parts(cfg, problems, read_data=not data.problems)
    model = found.model = parts.model
    with quiet():
        with problems.attempt('model'):
            checkpoints = _inspect_model(found, download) if model is not None else {}
            check_classes(parts.metainfo, {side: network for side, (network, _)
                                           in found.networks.items()}, checkpoints, problems)
            _describe_classes(parts.metainfo, checkpoints, found)
        with problems.attempt('model.student'):
            if parts.runner is not None and isinstance(model, AvatarDistiller):
                found.differences = compare_with_student(cfg, parts.runner.hooks)
        with problems.attempt('auto_scale_lr'):
            if cfg.get('train_dataloader'):
                found.batch = describe_batch(cfg, gpus, problems)
    if model is not None and not problems.problems:
        _check_use(cfg, model, problems)
    return found


def _teachers(model: nn.Module | None) -> dict[str, Teacher]:
    return model.teachers if isinstance(model, (AvatarDistiller, MaskTokenLearner)) else {}


def _inspect_model(found: Inspection, download: bool) -> dict[str, dict[str, Any]]:
    """Inspect networks and weights; return classes and palette of each teacher's checkpoint."""
    model: Any = found.model
    students = model.students if isinstance(model, AvatarDistiller) else dict(model=model)
    networks = {**students, **{
        teacher.label: teacher.network for teacher in _teachers(model).values()}}
    size = None
    for side, network in networks.items():
        found.networks[side] = network, None
        try:
            complexity = measure_network(network)
        except Exception as error:
            found.problems.warn(f'{side}: FLOPs not measured: {describe(error)}')
            continue
        found.networks[side] = network, complexity
        size = complexity.image_size if size in (None, SMALL) else size
    for side, (network, measured) in found.networks.items():
        if measured and measured.image_size != size:
            # One takes no small image; they are compared on what it takes.
            found.networks[side] = network, measure_network(network, size)
    if isinstance(model, AvatarDistiller):
        for name, teacher in model.teachers.items():
            mine, theirs = (_describe_preprocessor(network.data_preprocessor)
                            for network in (model.student, teacher.network))
            found.images[teacher.label] = {key: (mine[key], theirs[key]) for key in mine
                                           if mine[key] != theirs[key]}
            if all(found.networks[side][1] for side in students) and size:
                found.teacher_flops[teacher.label] = measure_teacher(model, name, size)
        found.maps = dry_run_tasks(model.students, model.teachers, model.taps, found.problems)
        try:
            found.task_flops = measure_tasks(model, found.maps)
        except Exception as error:
            found.problems.warn(f'model.distill: FLOPs not measured: {describe(error)}')
        check_tokens(model, found.problems, download)
    checkpoints = {}
    for teacher in _teachers(model).values():
        found.weights[teacher.label], checkpoints[teacher.label] = check_weights(
            teacher, found.problems, download)
    return checkpoints


def _describe_classes(metainfo: dict[str, dict], checkpoints: dict[str, dict[str, Any]],
                      found: Inspection) -> None:
    for split, info in metainfo.items():
        if info.get('classes'):
            found.classes[f'{split} data'] = str(len(info['classes']))
    for side, (network, _) in found.networks.items():
        numbers = sorted(set(find_class_numbers(network).values()))
        if numbers:
            found.classes[side] = ' and '.join(map(str, numbers))
    for side, meta in checkpoints.items():
        if meta.get('classes'):
            found.classes[f"{side}'s checkpoint"] = str(len(meta['classes']))


def _check_use(cfg: Config, model: nn.Module, problems: ConfigProblems) -> None:
    """Check what a valid model needs elsewhere in the config."""
    if type(model).__module__.startswith('mmakd.') and not cfg.get('custom_imports'):
        problems.add('custom_imports: missing, so the scripts of mmdet and mmseg do not know '
                     f'{type(model).__name__!r}; set custom_imports='
                     "dict(imports=['mmakd'], allow_failed_imports=False)")
    hooks = [*(cfg.get('default_hooks') or {}).values(), *(cfg.get('custom_hooks') or ())]
    draws = any(isinstance(module, SeededDraws) for module in model.modules())
    if draws and not any(isinstance(hook, dict) and hook.get('type') == 'PerturbationHook'
                               for hook in hooks):
        problems.warn(
            'default_hooks: no PerturbationHook, so the Avatars, or positions, of a resumed '
            'training differ and sigma is not logged; add '
            "perturbation=dict(type='PerturbationHook')")


def describe_batch(cfg: Config, gpus: int | None, problems: ConfigProblems) -> str:
    """Compare images a step with ``auto_scale_lr.base_batch_size``, in words.

    Without ``gpus`` one process is assumed, as ``tools/train.py`` starts by itself; then a
    difference is no warning, since more may be meant.
    """
    batch = cfg.train_dataloader.get('batch_size', 1)
    steps = (cfg.get('optim_wrapper') or {}).get('accumulative_counts', 1)
    scale = cfg.get('auto_scale_lr') or {}
    base = scale.get('base_batch_size')
    number = gpus or 1
    total = batch * number * steps
    words = (f'{batch} images x {number} GPU{"s" * (number > 1)}'
             f'{f" x {steps} accumulated steps" if steps > 1 else ""} = {total}')
    if not base:
        return f'{words}; the config does not say what batch its learning rate is meant for'
    if total == base:
        return f'{words}, as the learning rate is meant for'
    words += f'; the learning rate is meant for {base} (auto_scale_lr.base_batch_size)'
    if base % (batch * steps) == 0:
        words += f', so for {base // (batch * steps)} GPUs'
    if scale.get('enable'):
        return f'{words}; it is scaled by {total / base:g}'
    if gpus:
        problems.warn(f'auto_scale_lr.base_batch_size={base}: a step takes {total} images; train '
                      f'with --auto-scale-lr, or multiply the learning rate by {total / base:g}')
    return words


def _describe_preprocessor(preprocessor: Any) -> dict[str, str]:
    normalized = dict.fromkeys(('mean', 'std'), 'none')
    if getattr(preprocessor, '_enable_normalize', False):
        for name in normalized:
            values = getattr(preprocessor, name).flatten().tolist()
            normalized[name] = ', '.join(f'{value:g}' for value in values)
    divisor = getattr(preprocessor, 'pad_size_divisor', getattr(preprocessor, 'size_divisor', 1))
    size = getattr(preprocessor, 'size', None)
    return dict(
        normalized,
        channels='swapped (BGR to RGB)' if swaps_channels(preprocessor) else 'as read',
        padding=f'to {tuple(size)}' if size else f'to multiples of {divisor or 1}')
