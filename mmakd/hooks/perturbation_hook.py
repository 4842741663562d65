"""Schedule, randomness and logging of the perturbations."""
import math
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ..avatars import DropoutPerturbation
from ..losses import UncertaintyFeatureLoss
from ..losses.seeded_draws import SeededDraws
from ..utils.errors import ConfigProblems
from ..utils.rng import mix_seed
from .runner import is_training, unwrapped_model
from .schedule import Schedule


@HOOKS.register_module()
class PerturbationHook(Hook):
    """Schedules the perturbations, makes them reproducible and logs sigma.

    Before each iteration the hook sets every perturbation's ``strength``, a factor on its nominal
    rate or deviation, from the schedule. It reseeds the Avatars, and the draws of
    ``BetaSmoothingLoss``, from (seed, rank, iteration, task), so a resumed run draws the same. It
    logs ``perturbation_strength`` and ``sigma/<task>.<level>``, the mean over channels, to the
    message hub, which every visualizer reads. In a model without losses that draw it does nothing,
    because a child config can replace its parent's loss but cannot remove its parent's hook.

    Args:
        mode (str): ``'constant'`` keeps ``start``; ``'linear'`` and ``'cosine'`` go from ``start``
            at ``begin`` to ``end`` at ``stop``. Defaults to ``'constant'``.
        start (float): First strength, >= 0. Defaults to 1.0.
        end (float): Last strength, >= 0; of no effect in mode ``'constant'``. Defaults to 1.0.
        begin (int): First iteration or epoch of the schedule. Defaults to 0.
        stop (int, optional): Its last. Defaults to None, the end of training.
        by_epoch (bool): Whether ``begin`` and ``stop`` count epochs, and the strength changes
            between epochs only. Defaults to False.
    """

    priority = 'NORMAL'

    def __init__(self, mode: str = 'constant', start: float = 1.0, end: float = 1.0,
                 begin: int = 0, stop: int | None = None, by_epoch: bool = False) -> None:
        self.schedule = Schedule(mode, start, end, begin, stop, by_epoch)
        self._losses: dict[str, UncertaintyFeatureLoss] = {}
        self._seeded: dict[str, SeededDraws] = {}

    def before_run(self, runner: Runner) -> None:
        """Check the schedule against the model and the training loop.

        Raises:
            ConfigError: With all problems at once, if there is another such hook, a rate would
                reach 1, or epochs are counted in an iteration-based loop.
        """
        if not is_training(runner):
            return
        problems = ConfigProblems()
        hooks = [hook for hook in runner.hooks if isinstance(hook, PerturbationHook)]
        if len(hooks) > 1 and self is hooks[0]:
            problems.add(f'PerturbationHook: the config has {len(hooks)} such hooks; leave one, '
                         'in default_hooks.perturbation')
        start, end = self.schedule.start, self.schedule.end
        for name, loss in avatar_losses(runner).items():
            perturbation = loss.perturbation
            if isinstance(perturbation, DropoutPerturbation):
                rate = perturbation.drop_rate * max(start, end)
                if rate >= 1:
                    problems.add(f'PerturbationHook.start={start}, end={end}: the drop rate of '
                                 f'{name!r} reaches {rate}; keep it below 1')
        with problems.under('PerturbationHook'):
            self.schedule.check(runner)
        problems.raise_if_any()

    def before_train(self, runner: Runner) -> None:
        """Find the losses with Avatars."""
        self._losses = avatar_losses(runner)
        self._seeded = _losses_of(runner, SeededDraws)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Set the strength and reseed the Avatars."""
        for loss in self._losses.values():
            if loss.perturbation is not None:
                loss.perturbation.strength = self.schedule.value(runner)
        for name, seeded in self._seeded.items():
            seeded.reseed(mix_seed(runner.seed, runner.iter, name))

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None,
                         outputs: dict | None = None) -> None:
        """Log the strength and sigma."""
        if not self._losses:
            return
        hub = runner.message_hub
        hub.update_scalar('train/perturbation_strength', self.schedule.value(runner))
        means = {f'{name}.{level}' if len(loss.sigma) > 1 else name: sigma.mean()
                 for name, loss in self._losses.items() for level, sigma in enumerate(loss.sigma)}
        if means:
            # One transfer for all; MMEngine has just waited for the losses in the same way.
            for name, mean in zip(means, torch.stack(list(means.values())).tolist()):
                if math.isfinite(mean):  # a loss of weight zero has not run
                    hub.update_scalar(f'train/sigma/{name}', mean)


def avatar_losses(runner: Runner) -> dict[str, UncertaintyFeatureLoss]:
    """Find the losses with Avatars, by a short name (``fpn.0`` for level 0 of task ``fpn``)."""
    return _losses_of(runner, UncertaintyFeatureLoss)


def _losses_of(runner: Runner, kind: Any) -> dict[str, Any]:
    return {name.removeprefix('distiller.').replace('.losses.', '.'): module
            for name, module in unwrapped_model(runner).named_modules()
            if isinstance(module, kind)}
