"""Schedule, randomness and logging of the perturbations."""
import math
from collections.abc import Iterator
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop, Runner

from ..avatars import DropoutPerturbation
from ..config import ConfigError, ConfigProblems, suggest
from ..losses import UncertaintyFeatureLoss
from ..rng import mix_seed

_MODES = ('constant', 'linear', 'cosine')


@HOOKS.register_module()
class PerturbationHook(Hook):
    """Schedules the perturbations, makes them reproducible and logs sigma.

    Before each iteration every perturbation's ``strength``, a factor on its nominal rate or
    deviation, is set from the schedule, and the Avatars' streams start anew from (seed, rank,
    iteration, task), so a resumed run draws the same Avatars. The message hub, and through it
    every visualizer, gets ``perturbation_strength`` and ``sigma/<task>.<level>``, the mean over
    channels.

    Args:
        mode (str): ``'constant'`` keeps ``start``; ``'linear'`` and ``'cosine'`` go from ``start``
            at ``begin`` to ``end`` at ``stop``. Defaults to ``'constant'``.
        start (float): First strength, >= 0. Defaults to 1.0.
        end (float): Last strength, >= 0; of no effect in mode ``'constant'``. Defaults to 1.0.
        begin (int): Where the schedule begins, in iterations or epochs. Defaults to 0.
        stop (int, optional): Where it ends. Defaults to None, the end of training.
        by_epoch (bool): Whether ``begin`` and ``stop`` count epochs, and the strength changes
            between epochs only. Defaults to False.

    Raises:
        ConfigError: If an argument is wrong.
    """

    priority = 'NORMAL'

    def __init__(self, mode: str = 'constant', start: float = 1.0, end: float = 1.0,
                 begin: int = 0, stop: int | None = None, by_epoch: bool = False) -> None:
        problems = []
        if mode not in _MODES:
            problems.append(f'mode={mode!r}: {suggest(mode, _MODES)}')
        for key, value in (('start', start), ('end', end)):
            if not isinstance(value, (int, float)) or not value >= 0:
                problems.append(f'{key}={value!r}: must be a number >= 0, e.g. 1.0')
        if not isinstance(begin, int) or begin < 0:
            problems.append(f'begin={begin!r}: must be an integer >= 0')
        elif stop is not None and (not isinstance(stop, int) or stop <= begin):
            problems.append(f'stop={stop!r}: must be None or an integer > begin={begin}')
        _raise(problems)
        self.mode = mode
        self.start = start
        self.end = start if mode == 'constant' else end
        self.begin = begin
        self.stop = stop
        self.by_epoch = by_epoch

    def before_train(self, runner: Runner) -> None:
        """Check the schedule against the model.

        Args:
            runner (Runner): The runner of the training process.

        Raises:
            ConfigError: If the model has no Avatars, a rate would reach 1, or epochs are counted
                in an iteration-based loop.
        """
        problems = []
        losses = dict(_avatar_losses(runner))
        if not losses:
            problems.append(': there is no UncertaintyFeatureLoss in the model; remove the hook '
                            "or give a task loss=dict(type='UncertaintyFeatureLoss', ...)")
        strongest = max(self.start, self.end)
        for name, loss in losses.items():
            perturbation = loss.perturbation
            if isinstance(perturbation, DropoutPerturbation):
                rate = perturbation.drop_rate * strongest
                if rate >= 1:
                    problems.append(f'start={self.start}, end={self.end}: the drop rate of '
                                    f'{name!r} reaches {rate}; keep it below 1')
        if self.by_epoch and not isinstance(runner.train_loop, EpochBasedTrainLoop):
            problems.append('by_epoch=True: this training counts iterations; set by_epoch=False')
        _raise(problems)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Set the strength and start the Avatars' streams.

        Args:
            runner (Runner): The runner of the training process.
            batch_idx (int): Index of the batch in the loop.
            data_batch (Any): The batch. Defaults to None.
        """
        strength = self._strength(runner)
        for name, loss in _avatar_losses(runner):
            if loss.perturbation is not None:
                loss.perturbation.strength = strength
            loss.reseed(mix_seed(runner.seed, runner.iter, name))

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None,
                         outputs: dict | None = None) -> None:
        """Log the strength and sigma.

        Args:
            runner (Runner): The runner of the training process.
            batch_idx (int): Index of the batch in the loop.
            data_batch (Any): The batch. Defaults to None.
            outputs (dict, optional): Logged values of the model. Defaults to None.
        """
        hub = runner.message_hub
        hub.update_scalar('train/perturbation_strength', self._strength(runner))
        means = {}
        for name, loss in _avatar_losses(runner):
            for level, sigma in enumerate(loss.sigma):
                means[name if len(loss.sigma) == 1 else f'{name}.{level}'] = sigma.mean()
        if not means:
            return
        # One transfer for all; MMEngine has just waited for the losses in the same way.
        for name, mean in zip(means, torch.stack(list(means.values())).tolist()):
            if math.isfinite(mean):  # a loss of weight zero has not run
                hub.update_scalar(f'train/sigma/{name}', mean)

    def _strength(self, runner: Runner) -> float:
        now = runner.epoch if self.by_epoch else runner.iter
        last = runner.max_epochs if self.by_epoch else runner.max_iters
        stop = last if self.stop is None else self.stop
        progress = min(max((now - self.begin) / max(stop - self.begin, 1), 0.0), 1.0)
        if self.mode == 'cosine':
            progress = (1 - math.cos(math.pi * progress)) / 2
        return self.start + (self.end - self.start) * progress


def _raise(problems: list[str]) -> None:
    found = ConfigProblems()
    with found.under('custom_hooks.PerturbationHook'):
        if problems:
            raise ConfigError(problems)
    found.raise_if_any()


def _avatar_losses(runner: Runner) -> Iterator[tuple[str, UncertaintyFeatureLoss]]:
    """Find the losses with Avatars, by a short name (``fpn.0`` for level 0 of task ``fpn``)."""
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    for name, module in model.named_modules():
        if isinstance(module, UncertaintyFeatureLoss):
            yield name.removeprefix('distiller.').replace('.losses.', '.'), module
