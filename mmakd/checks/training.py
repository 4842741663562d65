"""Loops, optimization and logging."""
from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.evaluator import Evaluator
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import (
    LOG_PROCESSORS,
    LOOPS,
    OPTIM_WRAPPER_CONSTRUCTORS,
    OPTIM_WRAPPERS,
    OPTIMIZERS,
    PARAM_SCHEDULERS,
)
from mmengine.runner import BaseLoop, Runner
from torch import nn
from torch.optim import SGD
from torch.utils.data import DataLoader, TensorDataset

from ..utils.errors import ConfigError, suggest
from .components import build_component, check_component
from .findings import Findings

# Length of an epoch where schedules are converted to iterations; any will do.
_EPOCH_LENGTH = 1000


def check_loops(cfg: Config, findings: Findings) -> BaseLoop | None:
    """Check the loops of training, validation and testing.

    Args:
        cfg (Config): The config.
        findings (Findings): Takes what is wrong.

    Returns:
        BaseLoop | None: The training loop, around a stand-in for the Runner and one image.
    """
    given: dict[str, Any] = dict(runner=SimpleNamespace(),
                                 dataloader=DataLoader(TensorDataset(torch.zeros(1))))
    loop = None
    train_cfg = cfg.get('train_cfg')
    with findings.attempt('train_cfg'):
        if train_cfg is not None:
            loop = build_component(_with_loop_type(train_cfg), 'train_cfg', LOOPS, findings,
                                   **given)
    for split, default in ('val', 'ValLoop'), ('test', 'TestLoop'):
        key = f'{split}_cfg'
        with findings.attempt(key):
            if cfg.get(key) is not None:
                build_component({'type': default, **cfg[key]}, key, LOOPS, findings,
                                evaluator=Evaluator([]), **given)
    return loop


def _with_loop_type(cfg: dict) -> dict:
    if ('type' in cfg) == ('by_epoch' in cfg):
        raise ConfigError(f'={cfg!r}: expected dict(type=..., ...), with a type such as '
                          "'EpochBasedTrainLoop' or 'IterBasedTrainLoop', or by_epoch instead")
    if 'type' in cfg:
        return cfg
    name = 'EpochBasedTrainLoop' if cfg['by_epoch'] else 'IterBasedTrainLoop'
    return dict(type=name, **{key: value for key, value in cfg.items() if key != 'by_epoch'})


def check_optimization(cfg: Config, model: nn.Module | None, loop: BaseLoop | None,
                       findings: Findings) -> None:
    """Check the optimizer, its wrapper and the parameter schedulers.

    Args:
        cfg (Config): The config.
        model (nn.Module, optional): The model; None where it cannot be built.
        loop (BaseLoop, optional): The training loop; None where there is none.
        findings (Findings): Takes what is wrong.
    """
    wrapper = None
    with findings.attempt('optim_wrapper'):
        if cfg.get('optim_wrapper') is not None:
            wrapper = _check_optim_wrapper(cfg.optim_wrapper, model, findings)
    with findings.attempt('param_scheduler'):
        schedulers = cfg.get('param_scheduler') or []
        schedulers = [schedulers] if isinstance(schedulers, dict) else schedulers
        if not isinstance(schedulers, (list, tuple)):
            raise ConfigError(f'={schedulers!r}: expected a list of dict(type=...)')
        # Any optimizer with a momentum will do where the real one cannot be built.
        wrapper = wrapper or OptimWrapper(SGD(nn.Linear(1, 1).parameters(), 0.1, momentum=0.9))
        for i, scheduler in enumerate(schedulers):
            _check_scheduler(scheduler, f'param_scheduler.{i}', wrapper, loop, findings)


def _check_optim_wrapper(cfg: dict, model: nn.Module | None,
                         findings: Findings) -> OptimWrapper | None:
    if 'constructor' in cfg and 'optimizer' not in cfg:
        return None  # several optimizers, in the constructor's own way
    before = len(findings.problems)
    own = {key: value for key, value in cfg.items()
           if key not in ('constructor', 'paramwise_cfg')}
    own.setdefault('type', 'OptimWrapper')
    if 'optimizer' in own:
        check_component(own.pop('optimizer'), 'optim_wrapper.optimizer', OPTIMIZERS, findings,
                        ('params', ))
        check_component(own, 'optim_wrapper', OPTIM_WRAPPERS, findings, ('optimizer', ))
    else:
        findings.add('optim_wrapper.optimizer: missing; give dict(type=...)')
    if 'constructor' in cfg:
        check_component(dict(type=cfg['constructor']), 'optim_wrapper.constructor',
                        OPTIM_WRAPPER_CONSTRUCTORS, findings,
                        ('optim_wrapper_cfg', 'paramwise_cfg'))
    if len(findings.problems) > before or model is None:
        return None
    if own['type'] == 'AmpOptimWrapper' and get_device() == 'cpu':
        # It cannot be built without an accelerator.
        cfg = {key: value for key, value in cfg.items()
               if key not in ('type', 'loss_scale', 'dtype', 'use_fsdp')}
    return build_optim_wrapper(model, dict(type='OptimWrapper') | dict(cfg))


def _check_scheduler(cfg: Any, key: str, wrapper: OptimWrapper, loop: BaseLoop | None,
                     findings: Findings) -> None:
    plain = cfg
    if isinstance(cfg, dict):
        plain = {name: value for name, value in cfg.items() if name != 'convert_to_iter_based'}
    if check_component(plain, key, PARAM_SCHEDULERS, findings,
                       ('optimizer', 'param_name')) is None:
        return
    if loop is not None:
        end = loop.max_epochs if cfg.get('by_epoch', True) else loop.max_iters
        cfg = {'end': end, **cfg}
    with findings.attempt(key):
        PARAM_SCHEDULERS.build(
            cfg, default_args=dict(optimizer=wrapper, epoch_length=_EPOCH_LENGTH))


def check_logging(cfg: Config, findings: Findings) -> None:
    """Check the log processor and the Runner's small keys.

    Args:
        cfg (Config): The config.
        findings (Findings): Takes what is wrong.
    """
    with findings.attempt('log_processor'):
        if cfg.get('log_processor') is not None:
            build_component({'type': 'LogProcessor', **cfg.log_processor}, 'log_processor',
                            LOG_PROCESSORS, findings)
    valid = dict(
        randomness=tuple(inspect.signature(Runner.set_randomness).parameters)[1:],
        auto_scale_lr=('enable', 'base_batch_size'))
    for key, names in valid.items():
        with findings.attempt(key):
            for name in sorted(set(cfg.get(key) or ()) - set(names)):
                findings.add(f'{key}.{name}: no such key; {suggest(name, names)}')
