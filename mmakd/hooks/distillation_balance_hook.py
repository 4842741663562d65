"""The share of distillation in the student's gradient, kept in a band."""
import math
from collections.abc import Sequence
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import nn
from torch.utils.hooks import RemovableHandle

from ..distillers import AvatarDistiller
from ..utils.errors import ConfigError, ConfigProblems, is_number
from .measured_module import find_measured_module, measure_gradient
from .runner import is_training, unwrapped_model
from .task_names import check_task_names, task_names

# Under this name the message hub, and with it every checkpoint, holds the factor.
_FACTOR = 'distill_balance_factor'
_LIMITS = 0.1, 10.0


@HOOKS.register_module()
class DistillationBalanceHook(Hook):
    """Keeps the share of distillation in the student's gradient inside a band.

    Every ``interval`` iterations, beginning with the first, the hook measures the share
    p = d / (d + s) at one module of the student. d and s are the norms of the gradients of the
    distillation losses and of the student's own losses by the parameters of that module, averaged
    over ranks. If p is outside ``share`` +- ``band``, the tasks' common ``balance_factor``, a
    factor on their losses, is multiplied by p* (1 - p) / (p (1 - p*)), with p* = ``share``: that
    weight would have given exactly p*. It holds from the next iteration on, and stays within 1/10
    and 10. Of several students the first is measured. Source of the rule: RT-DETRv4 (arXiv
    2510.25257), Gradient-guided Adaptive Modulation.

    A factor of ``DistillationScheduleHook`` is left out of p, so that the hook does not undo a
    warm-up or a decay. Nothing is measured in an iteration in which all tasks are off, or a norm
    is zero or not finite. The hook logs ``distill_balance/share``, which is p, and
    ``distill_balance/weight``, the new factor. The factor is saved with each checkpoint.

    Args:
        share (float): The share aimed at, between 0 and 1. Defaults to 0.1.
        band (float): The deviation from it that is left alone, > 0. Defaults to 0.02.
        interval (int): Iterations from one measurement to the next. Defaults to 100.
        tasks (Sequence[str], optional): Names of the tasks, which get one factor together; others
            count on neither side. Defaults to None, all.
        at (str, optional): Dotted path of the student's module. Defaults to None, the last
            stage of the backbone that is trained.
    """

    priority = 'NORMAL'

    def __init__(self, share: float = 0.1, band: float = 0.02, interval: int = 100,
                 tasks: Sequence[str] | None = None, at: str | None = None) -> None:
        problems = ConfigProblems()
        if not is_number(share) or not 0 < share < 1:
            problems.add(f'share={share!r}: must be a number between 0 and 1, e.g. 0.1')
        elif not is_number(band) or band <= 0 or share - band < 0 or share + band > 1:
            problems.add(f'band={band!r}: must be a number > 0, and share={share} +- band within '
                         '0 and 1')
        if type(interval) is not int or interval < 1:
            problems.add(f'interval={interval!r}: must be an integer >= 1')
        with problems.under(''):
            check_task_names(tasks)
        problems.raise_if_any()
        self.share = share
        self.band = band
        self.interval = interval
        self.tasks = tasks
        self.at = at
        self._path = ''
        self._handle: RemovableHandle | None = None

    def before_run(self, runner: Runner) -> None:
        """Check the hook against the model.

        Raises:
            ConfigError: With all problems at once, if the model is no ``AvatarDistiller``, has not
                these tasks or not this module, or the gradient there cannot be measured.
        """
        if not is_training(runner):
            return
        key = type(self).__name__
        model = unwrapped_model(runner)
        if not isinstance(model, AvatarDistiller):
            raise ConfigError(f'{key}: the model has no distillation tasks; remove the hook or '
                              "train model=dict(type='AvatarDistiller', ...)")
        problems = ConfigProblems()
        hooks = [hook for hook in runner.hooks if isinstance(hook, DistillationBalanceHook)]
        if len(hooks) > 1 and self is hooks[0]:
            problems.add(f'{key}: the config has {len(hooks)} such hooks; leave one')
        first = next(iter(model.students))
        with problems.under(key):
            if first not in {model.taps[name].by
                             for name in task_names(self.tasks, model.distiller)}:
                problems.add(f'{key}.tasks={self.tasks!r}: the first student, {first}, whose '
                             'gradient is measured, learns none of them; name one of its tasks')
        with problems.under(key):
            find_measured_module(model.student, self.at)
        problems.raise_if_any()

    def before_train(self, runner: Runner) -> None:
        """Set the factor, that of the checkpoint in a resumed training, and watch the losses."""
        model: Any = unwrapped_model(runner)
        self._set_factor(model, runner.message_hub.get_info(_FACTOR, 1.0))
        self._path = find_measured_module(model.student, self.at)

        # Registered once, since a compiled training step does not notice later hooks; a closure,
        # so that a copy of the model, which then has it too, does not copy the Runner.
        @torch.compiler.disable
        def watch(called: nn.Module, args: Any, losses: Any) -> None:
            if (runner.iter % self.interval == 0 and called is model
                    and isinstance(losses, dict) and torch.is_grad_enabled()):
                self._measure(runner, model, losses)

        self._handle = model.register_forward_hook(watch)

    def after_train(self, runner: Runner) -> None:
        """Leave the model alone."""
        if self._handle is not None:
            self._handle.remove()

    def _set_factor(self, model: Any, factor: float) -> None:
        for name in task_names(self.tasks, model.distiller):
            model.distiller[name].balance_factor = factor

    def _measure(self, runner: Runner, model: Any, losses: dict[str, Any]) -> None:
        """Measure and log the share, and change the factor if it is outside the band."""
        tasks = [task for name in task_names(self.tasks, model.distiller)
                 if (task := model.distiller[name]).loss_weight != 0]
        distill: Any = sum(losses[f'distill.loss_{task.name}'] / task.weight_factor
                           for task in tasks)
        weights = [weight for weight in model.student.get_submodule(self._path).parameters()
                   if weight.requires_grad]
        if not tasks or not distill.requires_grad or not weights:  # off, skipped, or frozen since
            return
        own = {name: loss for name, loss in losses.items() if not name.startswith('distill.')}
        # float16 would underflow without its scale, of which the share does not depend.
        scaler = getattr(runner.optim_wrapper, 'loss_scaler', None)
        norms = []
        for side, loss in (("the tasks'", distill),
                           ("the student's own", model.parse_losses(own)[0])):
            gradient = measure_gradient(loss if scaler is None else scaler.scale(loss), weights)
            if gradient is None:
                raise ConfigError(
                    f'{type(self).__name__}.at={self._path!r}: {side} losses have no gradient '
                    'there; name a module that both train, e.g. the tapped one, '
                    f'at={model.taps[tasks[0].name].student!r}', on_all_ranks=True)
            norms.append(gradient.norm())
        of_distill, of_student = torch.stack(norms).tolist()
        if not (0 < of_distill < math.inf and 0 < of_student < math.inf):
            return
        share = of_distill / (of_distill + of_student)
        factor = tasks[0].balance_factor
        if abs(share - self.share) > self.band:
            factor *= self.share * of_student / ((1 - self.share) * of_distill)
            factor = min(max(factor, _LIMITS[0]), _LIMITS[1])
            self._set_factor(model, factor)
        runner.message_hub.update_info(_FACTOR, factor)
        runner.message_hub.update_scalar('train/distill_balance/share', share)
        runner.message_hub.update_scalar('train/distill_balance/weight', factor)
