"""Hooks, and the visualizer that some of them need."""
from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS, VISBACKENDS, VISUALIZERS
from mmengine.runner import BaseLoop, Priority, get_priority
from mmengine.visualization import Visualizer
from torch import nn

from ..hooks import DistillationScheduleHook, PerturbationHook, TeacherEvalHook
from ..losses import UncertaintyFeatureLoss
from ..utils.errors import suggest
from .components import build_component, check_component
from .findings import Findings
from .top_level import nearest_key

_DEFAULT_HOOKS = ('runtime_info', 'timer', 'sampler_seed', 'logger', 'param_scheduler',
                  'checkpoint', 'visualization')
# What our hooks do to look at model and training, and nothing else.
_CHECKS = {kind: kind.before_run
           for kind in (PerturbationHook, DistillationScheduleHook, TeacherEvalHook)}


def check_hooks(cfg: Config, model: nn.Module | None, loop: BaseLoop | None,
                findings: Findings) -> None:
    """Check the visualizer, and the default and custom hooks.

    Args:
        cfg (Config): The config.
        model (nn.Module, optional): The model; None where it cannot be built as a whole.
        loop (BaseLoop, optional): The training loop; None where there is none.
        findings (Findings): Takes what is wrong.
    """
    with _visualizer(cfg, findings):
        default = cfg.get('default_hooks') or {}
        hooks: list[Hook | None] = []
        with findings.attempt('default_hooks'):
            for name, hook in default.items():
                key = f'default_hooks.{name}'
                right = nearest_key(name, _DEFAULT_HOOKS)
                if right:
                    findings.warn(f'{key}: comes on top of the hooks that the Runner has by '
                                  f'default; did you mean {right!r}?')
                if hook is not None:
                    hooks.append(_check_hook(hook, key, findings))
                elif name not in _DEFAULT_HOOKS:
                    findings.add(f'{key}=None: the Runner has no such hook to leave out')
        custom = cfg.get('custom_hooks') or []
        if isinstance(custom, (list, tuple)):
            hooks += [_check_hook(hook, f'custom_hooks.{i}', findings)
                      for i, hook in enumerate(custom)]
            _check_together(cfg, hooks, model, loop, findings)
        else:
            findings.add(f'custom_hooks={custom!r}: expected a list of dict(type=...)')


@contextmanager
def _visualizer(cfg: Config, findings: Findings) -> Iterator[None]:
    """Check the visualizer and provide it in the block, as the Runner does."""
    name = 'check_config'
    with tempfile.TemporaryDirectory() as folder:
        with findings.attempt('visualizer'):
            wanted = cfg.get('visualizer') or dict(type='Visualizer')
            backends = wanted.get('vis_backends') or ()
            backends = [backends] if isinstance(backends, dict) else backends
            for i, backend in enumerate(backends):
                plain = {key: value for key, value in backend.items() if key != 'name'}
                check_component(plain, f'visualizer.vis_backends.{i}', VISBACKENDS, findings,
                                ('save_dir', ))
            build_component({**wanted, 'name': name, 'vis_backends': None, 'save_dir': folder},
                            'visualizer', VISUALIZERS, findings)
        if not Visualizer.check_instance_created(name):
            # Hooks are checked all the same.
            Visualizer.get_instance(name)
        try:
            yield
        finally:
            for cls in {Visualizer, type(Visualizer.get_instance(name))}:
                cls._instance_dict.pop(name, None)


def _check_hook(cfg: Any, key: str, findings: Findings) -> Hook | None:
    if isinstance(cfg, dict) and 'priority' in cfg:
        cfg = dict(cfg)
        priority = cfg.pop('priority')
        try:
            get_priority(priority)
        except (KeyError, TypeError, ValueError):
            findings.add(f'{key}.priority={priority!r}: must be 0 to 100 or a name; '
                         f'{suggest(priority, Priority.__members__)}')
    if check_component(cfg, key, HOOKS, findings) is None:
        return None
    return build_component(cfg, key, HOOKS, findings)


def _check_together(cfg: Config, hooks: list[Hook | None], model: nn.Module | None,
                    loop: BaseLoop | None, findings: Findings) -> None:
    """Check our hooks against model and training."""
    if loop is None:
        return
    runner = SimpleNamespace(
        cfg=cfg, model=model, hooks=[hook for hook in hooks if hook is not None],
        train_loop=loop, max_epochs=loop.max_epochs, max_iters=loop.max_iters,
        val_loop=cfg.get('val_cfg'), optim_wrapper=None)
    if model is None:
        # The names of its tasks are known all the same.
        runner.model = nn.Module()
        runner.model.distiller = nn.ModuleDict(dict.fromkeys(_task_names(cfg), nn.Identity()))
    for hook in runner.hooks:
        kind = type(hook)
        if kind in _CHECKS and (model is not None or kind is DistillationScheduleHook):
            with findings.under(''):
                _CHECKS[kind](hook, runner)
    if not any(isinstance(hook, PerturbationHook) for hook in runner.hooks) and any(
            isinstance(module, UncertaintyFeatureLoss) for module in runner.model.modules()):
        findings.warn('custom_hooks: no PerturbationHook, so the Avatars of a resumed training '
                      "differ and sigma is not logged; add dict(type='PerturbationHook')")


def _task_names(cfg: Config) -> list[str]:
    model = cfg.get('model')
    distill = model.get('distill') if isinstance(model, dict) else None
    usable = distill if isinstance(distill, dict) else {}
    return [name for name in usable if not hasattr(nn.ModuleDict(), str(name))]
