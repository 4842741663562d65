"""Training with errors in terms of the config wherever it fails before its first step."""
from __future__ import annotations

import copy
import inspect
import re
import traceback
from typing import Any

from mmengine.config import Config
from mmengine.hooks import CheckpointHook, Hook
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

from ..utils.build import find_type, wrong_types
from ..utils.cli import build_runner
from ..utils.config_file import describe
from ..utils.errors import ConfigError, suggest
from ..utils.rng import preserve_rng
from .components import REGISTRIES, nested_configs
from .data import check_all_data
from .data_files import check_data
from .findings import Findings
from .hooks import check_hooks
from .inspection import inspect_config, quiet
from .top_level import check_top_level
from .training import check_logging, check_loops, check_optimization


def train(cfg: Config, partial: bool = False) -> None:
    """Train as a config says.

    All but the model is checked first, which takes no time worth mentioning. Where the first
    iteration is not reached or fails, :func:`mmakd.checks.inspect_config` looks for the cause.

    Args:
        cfg (Config): The config.
        partial (bool): As of :func:`mmakd.utils.cli.build_runner`. Defaults to False.

    Raises:
        ConfigError: If the config cannot be trained.
    """
    check_settings(cfg)
    check_data(cfg, 'train', 'val')
    original = copy.deepcopy(cfg)
    first = _FirstIteration()
    try:
        runner = build_runner(cfg, partial)
        runner.register_hook(first, 'LOWEST')
        runner.train()
    except FloatingPointError:
        raise
    except Exception as error:
        if first.is_over:
            raise
        raise ConfigError(explain(original, error)) from error


def check_settings(cfg: Config) -> None:
    """Check what a config says about training, but for the model.

    Args:
        cfg (Config): The config.

    Raises:
        ConfigError: With all problems at once, if anything is wrong.
    """
    cfg = _without_testing(cfg)
    findings = Findings()
    with quiet(), preserve_rng():
        check_top_level(cfg, findings)
        init_default_scope(cfg.default_scope)
        check_all_data(cfg, findings)
        loop = check_loops(cfg, findings)
        check_optimization(cfg, None, loop, findings)
        check_hooks(cfg, None, loop, findings)
        check_logging(cfg, findings)
        problems = _with_types(cfg, findings.problems)
        # Of these the annotations can be relied on.
        parts = {key: cfg.get(key) for key in ('model', 'train_cfg', 'val_cfg',
                                               'param_scheduler', 'default_hooks',
                                               'custom_hooks')}
        problems += [problem for problem in _wrong_types(parts, ('mmengine', 'mmakd'))
                     if problem not in problems]
        problems += _unknown_saving(cfg)
    if problems:
        raise ConfigError(problems)


def explain(cfg: Config, error: Exception) -> list[str]:
    """Say in terms of the config why a training cannot begin.

    Args:
        cfg (Config): The config.
        error (Exception): What was raised.

    Returns:
        list[str]: The problems of the config; the error with its place where none is found, and
        its traceback printed.
    """
    cfg = _without_testing(cfg)
    problems = error.problems if isinstance(error, ConfigError) else []
    if not problems:
        findings = Findings()
        with findings.attempt('config'):
            inspect_config(cfg, findings, download=False)
        problems = findings.problems
    if problems:
        return _with_types(cfg, problems)
    traceback.print_exception(error)
    place = traceback.extract_tb(error.__traceback__)[-1]
    return _wrong_types(cfg.to_dict()) or [
        f'the first iteration fails: {describe(error)} (in {place.filename}, line {place.lineno}; '
        'see above); no key of the config is known to be wrong, perhaps one of the part of the '
        'model or of the data that works there']


def _with_types(cfg: Config, problems: list[str]) -> list[str]:
    """Put values of a wrong type first where something around them cannot be built."""
    around = {re.match(r'[\w.]*', problem)[0].removesuffix('.type')  # type: ignore[index]
              for problem in problems} - {''}
    wrong = [problem for problem in _wrong_types(cfg.to_dict())
             if any(problem.startswith(f'{key}.') for key in around)]
    return [*wrong, *(problem for problem in problems if problem not in wrong)]


def _without_testing(cfg: Config) -> Config:
    cfg = copy.deepcopy(cfg)
    for key in 'test_dataloader', 'test_cfg', 'test_evaluator':
        cfg.pop(key, None)
    # The module is there, since this code runs.
    cfg.setdefault('custom_imports', dict(imports=['mmakd']))
    return cfg


def _wrong_types(cfg: dict, packages: tuple[str, ...] = ()) -> list[str]:
    """Check the values of components, of some packages or all, against their annotations."""
    problems = []
    for key, part in nested_configs(cfg, ''):
        found = _find(dict(part)) if 'type' in part else None
        if found is not None and (not packages or found.__module__.split('.')[0] in packages):
            problems += [f'{key.removeprefix(".")}.{problem}'
                         for problem in wrong_types(part, found)]
    return problems


def _unknown_saving(cfg: Config) -> list[str]:
    """Find arguments that CheckpointHook would hand on to where nobody takes them."""
    hooks = cfg.get('default_hooks') or {}
    hook = hooks.get('checkpoint')
    if not isinstance(hook, dict) or hook.get('type') != 'CheckpointHook':
        return []
    valid = {'type', 'priority', *inspect.signature(CheckpointHook).parameters,
             *inspect.signature(Runner.save_checkpoint).parameters}
    return [f'default_hooks.checkpoint.{key}={hook[key]!r}: CheckpointHook has no such argument; '
            f'{suggest(key, valid)}' for key in sorted(set(hook) - valid)]


def _find(part: dict) -> Any:
    for registry in REGISTRIES:
        try:
            return find_type(part, registry)
        except ConfigError:
            pass
    return None


class _FirstIteration(Hook):
    """Notes that a training has begun."""

    is_over = False

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None,
                         outputs: dict | None = None) -> None:
        self.is_over = True
