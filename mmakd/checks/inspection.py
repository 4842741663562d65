"""The whole inspection of a config, before any training."""
from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from typing import Any

from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope

from ..distillers import AvatarDistiller, MaskTokenLearner
from ..distillers.dry_run import SMALL
from ..utils.config_file import describe, import_custom_modules
from ..utils.errors import ConfigError
from .batch import check_batch
from .classes import check_classes, find_class_numbers
from .complexity import Complexity, measure_network, measure_teaching
from .data import check_all_data
from .findings import Findings
from .hooks import check_hooks
from .model import BuiltModel, build_model
from .preprocessors import compare_preprocessors
from .tasks import TaskSummary, summarize_tasks
from .top_level import check_top_level
from .training import check_logging, check_loops, check_optimization
from .weights import check_tokens, check_weights


@dataclass
class Inspection:
    """What there is to report about a config.

    Attributes:
        findings (Findings): Problems and warnings.
        networks (dict[str, tuple[str, Complexity | None]]): Type, and size and work, of
            ``'student'`` and ``'teacher'`` or of ``'model'``.
        tasks (list[TaskSummary]): The distillation tasks.
        teaching (int, optional): FLOPs of the teacher in a step.
        images (dict[str, tuple[str, str]], optional): How the images of student and teacher
            differ; None where there is no distiller.
        classes (dict[str, str]): Numbers of classes, by where they stand.
        weights (str, optional): Where the teacher's weights come from.
        batch (str, optional): Images a step.
    """

    findings: Findings
    networks: dict[str, tuple[str, Complexity | None]] = field(default_factory=dict)
    tasks: list[TaskSummary] = field(default_factory=list)
    teaching: int | None = None
    images: dict[str, tuple[str, str]] | None = None
    classes: dict[str, str] = field(default_factory=dict)
    weights: str | None = None
    batch: str | None = None


def inspect_config(cfg: Config, findings: Findings, download: bool = True,
                   gpus: int | None = None) -> Inspection:
    """Inspect a config without training and without reading data.

    Args:
        cfg (Config): The config. Misspelt top-level keys are corrected in place, to go on.
        findings (Findings): Takes what is wrong.
        download (bool): Whether the teacher's checkpoint may be fetched. Defaults to True.
        gpus (int, optional): Number of processes that the training is meant for. Defaults to
            None, one.

    Returns:
        Inspection: What was found.
    """
    found = Inspection(findings)
    with quiet():
        try:
            import_custom_modules(cfg)
        except ConfigError as error:
            findings.problems += error.problems
        check_top_level(cfg, findings)
        init_default_scope(cfg.default_scope)
        built = build_model(cfg, findings)
        with findings.attempt('model'):
            _inspect_networks(built, found)
        dataset_meta: dict[str, Any] = {}
        with findings.attempt('model'):
            dataset_meta = _inspect_distiller(built, found, download)
        metainfo = check_all_data(cfg, findings)
        with findings.attempt('metainfo'):
            check_classes(metainfo, built.networks, dataset_meta, findings)
            _describe_classes(metainfo, built, dataset_meta, found)
        loop = check_loops(cfg, findings)
        check_optimization(cfg, built.model, loop, findings)
        check_hooks(cfg, built.model if built.is_whole else None, loop, findings)
        check_logging(cfg, findings)
        with findings.attempt('auto_scale_lr'):
            if cfg.get('train_dataloader') is not None:
                found.batch = check_batch(cfg, gpus, findings)
    return found


def _inspect_networks(built: BuiltModel, found: Inspection) -> None:
    for side, network in built.networks.items():
        complexity = None
        try:
            complexity = measure_network(network)
        except Exception as error:
            # A network of a distiller that fails is a problem already.
            if not any(problem.startswith('model') for problem in found.findings.problems):
                found.findings.warn(f'{side}: FLOPs not measured: {describe(error)}')
        found.networks[side] = type(network).__name__, complexity
    sizes = {complexity.image_size for _, complexity in found.networks.values() if complexity}
    if len(sizes) > 1:
        # One takes no small image; they are compared on what it takes.
        size = max(sizes - {SMALL})
        for side, (name, complexity) in found.networks.items():
            if complexity and complexity.image_size != size:
                found.networks[side] = name, measure_network(built.networks[side], size)


def _inspect_distiller(built: BuiltModel, found: Inspection, download: bool) -> dict[str, Any]:
    """Look at tasks, images and the teacher's weights; return the checkpoint's classes."""
    networks = built.networks
    if 'teacher' in networks and 'student' in networks:
        found.images = compare_preprocessors(networks['student'], networks['teacher'])
    if isinstance(built.model, AvatarDistiller):
        found.tasks = summarize_tasks(built.model)
        measured = found.networks['student'][1]
        if measured is not None:
            found.teaching = measure_teaching(built.model, measured.image_size)
        check_tokens(built.model, found.findings, download)
    elif not isinstance(built.model, MaskTokenLearner):
        return {}
    if any(problem.startswith('model.teacher_ckpt') for problem in found.findings.problems):
        return {}
    found.weights, dataset_meta = check_weights(built.model, found.findings, download)
    return dataset_meta


def _describe_classes(metainfo: dict[str, dict], built: BuiltModel, dataset_meta: dict[str, Any],
                      found: Inspection) -> None:
    for split, info in metainfo.items():
        if info.get('classes'):
            found.classes[f'{split} data'] = str(len(info['classes']))
    for side, network in built.networks.items():
        numbers = sorted(set(find_class_numbers(network).values()))
        if numbers:
            found.classes[side] = ' and '.join(map(str, numbers))
    if dataset_meta.get('classes'):
        found.classes["teacher's checkpoint"] = str(len(dataset_meta['classes']))


@contextmanager
def quiet() -> Iterator[None]:
    """Keep back the remarks of what is built."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter('ignore')
            yield
    finally:
        logger.setLevel(level)
