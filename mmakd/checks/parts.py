"""Build the parts of a config by MMEngine's own builders, and report errors by key."""
from __future__ import annotations

import copy
import inspect
import io
import logging
import tempfile
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from typing import Any

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.evaluator import Evaluator
from mmengine.hooks import CheckpointHook, Hook
from mmengine.logging import MMLogger
from mmengine.registry import DATASETS, HOOKS, MODELS, OPTIMIZERS, init_default_scope
from mmengine.runner import Runner, get_priority
from torch import nn
from torch.utils.data import DataLoader

from ..distillers.teacher import teacher_key
from ..utils.build import build, check_arguments, find_type
from ..utils.errors import ConfigProblems, describe
from ..utils.rng import preserve_rng
from .keys import check_keys

SPLITS = ('train', 'val', 'test')
# Arguments with which a metric reads or writes files when it is built.
_FILES = ('ann_file', 'output_dir')


@dataclass
class Parts:
    """The parts of a config that could be built, and the metainfo of each split's dataset.

    The Runner is untrained, with loops, optimizer and hooks.
    """

    model: nn.Module | None = None
    runner: Runner | None = None
    metainfo: dict[str, dict] = field(default_factory=dict)


def build_parts(cfg: Config, problems: ConfigProblems, read_data: bool) -> Parts:
    """Build the parts of a config without training.

    Our own components check their keys one by one and report all problems at once. Parts of
    MMEngine, mmdet and mmseg are built by their own builders, and their errors are reported as
    they are.

    Args:
        cfg (Config): The config.
        problems (ConfigProblems): Collects the problems and warnings.
        read_data (bool): Whether to build the dataloaders, which read all annotations. Otherwise
            each dataset is built without reading, and a loader of numbers replaces the dataloader.
    """
    parts = Parts()
    check_keys(cfg, problems)
    if any(problem.startswith('default_scope') for problem in problems.problems):
        return parts
    with quiet(), preserve_rng(), tempfile.TemporaryDirectory() as folder:
        init_default_scope(cfg.default_scope)
        parts.model = _build_model(cfg, problems)
        data = {f'{split}_dataloader': _build_data(cfg, split, parts, problems, read_data)
                for split in SPLITS}
        loops = {f'{split}_cfg': cfg.get(f'{split}_cfg') for split in SPLITS}
        evaluators = {f'{split}_evaluator': cfg.get(f'{split}_evaluator') and Evaluator([])
                      for split in SPLITS[1:]}
        with problems.attempt('config'):
            parts.runner = Runner(
                nn.Identity(), folder, **data, **loops, **evaluators,
                optim_wrapper=cfg.get('optim_wrapper'), default_scope=cfg.default_scope,
                experiment_name=f'check_{uuid.uuid4().hex}', log_level='CRITICAL')
            parts.runner.cfg = cfg  # not before: a Runner formats and dumps what it is given
            parts.runner.model = parts.model or nn.Linear(1, 1)
            has_loops = _build_training(cfg, parts.runner, problems)
            _build_hooks(cfg, parts.runner, problems, has_loops and parts.model is not None)
    return parts


def _build_model(cfg: Config, problems: ConfigProblems) -> nn.Module | None:
    wanted = copy.deepcopy(cfg.get('model'))
    if isinstance(wanted, dict) and cfg.get('data_preprocessor') is not None:
        wanted.setdefault('data_preprocessor', copy.deepcopy(cfg.data_preprocessor))
    with problems.attempt('model'):
        check_arguments(wanted, find_type(wanted))
        with problems.under(''):  # a ConfigError of ours names the whole key
            return MODELS.build(wanted)
    return None


def _build_data(cfg: Config, split: str, parts: Parts, problems: ConfigProblems, read_data: bool
                ) -> DataLoader | None:
    """Build a split's metrics, and its dataloader or just its dataset."""
    metrics = cfg.get(f'{split}_evaluator')
    if metrics is not None and (split != 'test' or metrics != cfg.get('val_evaluator')):
        with problems.attempt(f'{split}_evaluator'):
            if isinstance(metrics, dict):
                metrics = metrics.get('metrics', metrics)
            metrics = metrics if isinstance(metrics, (list, tuple)) else [metrics]
            Evaluator([{key: value for key, value in metric.items() if key not in _FILES}
                       for metric in metrics])
    key, loader = f'{split}_dataloader', cfg.get(f'{split}_dataloader')
    if loader is None:
        return None
    # Longer than any warm-up.
    built: Any = DataLoader(range(10**6))  # type: ignore[arg-type]
    if split == 'test' and loader == cfg.get('val_dataloader'):
        return built
    with problems.attempt(key):
        if read_data:
            built = Runner.build_dataloader(loader, seed=0)
            parts.metainfo[split] = getattr(built.dataset, 'metainfo', {})
            return built
        dataset = loader['dataset']
        while 'dataset' in dataset or 'datasets' in dataset:  # a wrapper counts images when built
            dataset = dataset['dataset'] if 'dataset' in dataset else dataset['datasets'][0]
        with problems.attempt(f'{key}.dataset'):
            try:
                parts.metainfo[split] = build({**dataset, 'lazy_init': True}, DATASETS).metainfo
            except OSError as error:
                problems.warn(f'{key}.dataset: not checked, it needs a file ({describe(error)})')
    return built


def _build_training(cfg: Config, runner: Runner, problems: ConfigProblems) -> bool:
    """Build loops, optimizer and schedules as ``Runner.train``; tell if all loops were built."""
    loops = []
    for split in SPLITS:
        with problems.attempt(f'{split}_cfg'):
            loops.append(getattr(runner, f'{split}_loop'))
    wanted = cfg.get('optim_wrapper')
    if isinstance(wanted, dict) and wanted.get('type') == 'AmpOptimWrapper' and (
            get_device() == 'cpu'):
        # It cannot be built without an accelerator, and may be meant for another machine.
        wanted = {key: value for key, value in wanted.items()
                  if key not in ('type', 'loss_scale', 'dtype', 'use_fsdp')}
    with problems.attempt('optim_wrapper'), problems.under('optim_wrapper.optimizer'):
        if wanted is not None:
            wanted = {'type': 'OptimWrapper', **wanted}
            if isinstance(wanted.get('optimizer'), dict):
                find_type(wanted['optimizer'], OPTIMIZERS)  # MMEngine would not name it
            runner.optim_wrapper = runner.build_optim_wrapper(wanted)
            with problems.attempt('param_scheduler'):
                if len(loops) == len(SPLITS):  # they ask the training loop
                    built = runner.build_param_scheduler(cfg.get('param_scheduler') or [])
                    for scheduler in built if isinstance(built, list) else ():
                        if not getattr(scheduler, 'need_val_args', False):
                            scheduler.step()  # some values fail there only
            with problems.attempt('auto_scale_lr'):
                runner.scale_lr(runner.optim_wrapper, cfg.get('auto_scale_lr'))
    with problems.attempt('log_processor'):
        runner.build_log_processor(cfg.get('log_processor') or {})
    with problems.attempt('randomness'):
        if cfg.get('randomness') is not None:
            runner.set_randomness(**cfg.randomness)
    return len(loops) == len(SPLITS)


def _build_hooks(cfg: Config, runner: Runner, problems: ConfigProblems, is_whole: bool) -> None:
    """Build visualizer and hooks, and let our hooks check model and training loop."""
    with problems.attempt('visualizer'):
        visualizer = cfg.get('visualizer') or dict(type='Visualizer')
        # A name of its own: MMEngine would give the Runner of the training the same object.
        runner.visualizer = runner.build_visualizer({**visualizer, 'name': runner.experiment_name})
    hooks: dict[str, Any] = {}
    with problems.attempt('default_hooks'):
        hooks |= {f'default_hooks.{name}': hook
                  for name, hook in (cfg.get('default_hooks') or {}).items() if hook is not None}
    with problems.attempt('custom_hooks'):
        hooks |= {f'custom_hooks.{i}': hook
                  for i, hook in enumerate(cfg.get('custom_hooks') or ())}
    for key, hook_cfg in hooks.items():
        with problems.attempt(key):
            hook = hook_cfg
            if not isinstance(hook, Hook):
                wanted = dict(hook_cfg)
                get_priority(wanted.pop('priority', 'NORMAL'))
                hook = build(wanted, HOOKS)
            if isinstance(hook, CheckpointHook):
                # What it does not know itself it hands on when it saves, an epoch later.
                inspect.signature(runner.save_checkpoint).bind_partial(**hook.args)
            runner.hooks.append(hook)
    for teacher in getattr(runner.model, 'teachers', {}).values():
        if teacher.is_average and 'EMATeacherHook' not in str(hooks):
            problems.add(f"{teacher_key(teacher.name, 'cfg')}='ema': no hook updates the average; "
                         "set default_hooks=dict(ema_teacher=dict(type='EMATeacherHook'))")
    for hook in runner.hooks:
        if is_whole and type(hook).__module__.startswith('mmakd.'):
            with problems.attempt(type(hook).__name__), problems.under(''):
                hook.before_run(runner)  # a ConfigError names the hook itself


@contextmanager
def quiet() -> Iterator[None]:
    """Silence logs, warnings and prints of the block."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter('ignore')
            yield
    finally:
        logger.setLevel(level)
