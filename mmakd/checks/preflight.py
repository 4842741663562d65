"""Train, with config errors reported together before training."""
from __future__ import annotations

import copy
import traceback
from typing import Any

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ..utils.cli import build_runner
from ..utils.dist import same_on_all_ranks
from ..utils.errors import ConfigError, ConfigProblems, describe
from .data_files import check_data
from .parts import build_parts


def train(cfg: Config, partial: bool = False) -> None:
    """Train as a config says.

    Every rank checks the same config. An error in the first iteration is reported under the part
    of the config that was running. ``partial`` is that of :func:`mmakd.utils.cli.build_runner`.

    Raises:
        ConfigError: If the config cannot be trained.
    """
    with same_on_all_ranks():
        check_before_training(cfg)
    first = _FirstIteration()
    try:
        runner = build_runner(cfg, partial)
        runner.register_hook(first, 'VERY_HIGH')
        runner.register_hook(_EndOfFirstIteration(first), 'LOWEST')
        # Builds what train() would build next.
        first.part = 'train_dataloader'
        runner.train_loop  # noqa: B018
        first.part = 'val_dataloader or val_evaluator'
        runner.val_loop  # noqa: B018
        first.part = 'model'
        runner.train()
    except (ConfigError, FloatingPointError):
        raise
    except Exception as error:
        if first.is_over:
            raise
        traceback.print_exception(error)
        raise ConfigError(f'{first.part}: fails in the first iteration: {describe(error)} (the '
                          'traceback is above)') from error


def check_before_training(cfg: Config) -> None:
    """Check the config and its data files, and raise all problems at once."""
    cfg = copy.deepcopy(cfg)
    for key in 'test_dataloader', 'test_cfg', 'test_evaluator':
        cfg.pop(key, None)
    problems = ConfigProblems()
    build_parts(cfg, problems, read_data=False)
    with problems.under(''):
        check_data(cfg, 'train', 'val')
    problems.raise_if_any()


class _FirstIteration(Hook):
    """Tracks which part of the config is running, until the first iteration is over."""

    part = 'config'
    is_over = False

    def before_train_epoch(self, runner: Runner) -> None:
        self.part = 'train_dataloader'

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        self.part = 'model'

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None,
                         outputs: dict | None = None) -> None:
        self.part = 'default_hooks or custom_hooks'


class _EndOfFirstIteration(Hook):
    """Runs behind all other hooks."""

    def __init__(self, first: _FirstIteration) -> None:
        self.first = first

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None,
                         outputs: dict | None = None) -> None:
        self.first.is_over = True
