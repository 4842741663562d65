"""Curves of distillation beyond its losses."""
import math
import time
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from ..distillers import AvatarDistiller
from ..distillers.teacher import Teacher
from ..utils.errors import ConfigError
from .perturbation_hook import avatar_losses
from .runner import is_training, unwrapped_model


@HOOKS.register_module()
class DistillationLogHook(Hook):
    """Logs what tells how a distillation goes, every few iterations.

    Together with the losses and with what ``PerturbationHook`` logs, these are the curves that
    ``tools/plot_log.py`` draws. They are scalars of the message hub, which every visualizer reads:

    - ``distill_share/<task>``: the part of a task's loss in the sum of all losses;
    - ``distance/<task>``: the relative distance of the student's maps to the teacher's,
      ``||S - T|| / ||T||``, the mean over levels, of this process's images;
    - ``sigma_min/<task>.<level>`` and ``sigma_max/<task>.<level>``: sigma of the least and of the
      most perturbed channel;
    - ``time_<teacher>``: seconds in which the teacher runs as far as its dense taps.

    In other iterations the hook costs nothing.

    Args:
        interval (int): Iterations from one measurement to the next. Defaults to 50.
    """

    priority = 'NORMAL'

    def __init__(self, interval: int = 50) -> None:
        if type(interval) is not int or interval < 1:
            raise ConfigError(f'interval={interval!r}: must be an integer >= 1')
        self.interval = interval
        self._handles: list[RemovableHandle] = []
        self._distances: dict[str, Tensor] = {}
        self._seconds: dict[str, Callable[[], float]] = {}

    def before_run(self, runner: Runner) -> None:
        """Raise a :class:`ConfigError` if the model has no distillation tasks."""
        if is_training(runner) and not isinstance(unwrapped_model(runner), AvatarDistiller):
            raise ConfigError('DistillationLogHook: the model has no distillation tasks; remove '
                              "the hook or train model=dict(type='AvatarDistiller', ...)")

    def before_train(self, runner: Runner) -> None:
        """Watch the tasks."""
        tasks: Any = unwrapped_model(runner).distiller
        self._handles = [task.register_forward_hook(self._watch(runner, name))
                         for name, task in tasks.items()]

    def after_train(self, runner: Runner) -> None:
        """Leave the model alone."""
        for handle in self._handles:
            handle.remove()

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Time the teachers in this iteration."""
        if self._is_due(runner):
            teachers: Any = unwrapped_model(runner).teachers
            for teacher in teachers.values():
                self._time(teacher)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None,
                         outputs: dict | None = None) -> None:
        """Log what was measured."""
        if not self._is_due(runner):
            return
        model: Any = unwrapped_model(runner)
        values = {f'distance/{name}': value for name, value in self._distances.items()}
        losses = outputs or {}
        for name in model.distiller:
            if f'distill.loss_{name}' in losses:
                values[f'distill_share/{name}'] = (
                    losses[f'distill.loss_{name}'].detach() / losses['loss'].detach())
        for name, loss in avatar_losses(runner).items():
            for level, sigma in enumerate(loss.sigma):
                place = f'{name}.{level}' if len(loss.sigma) > 1 else name
                values[f'sigma_min/{place}'], values[f'sigma_max/{place}'] = sigma.aminmax()
        seconds = {f'time_{label}': read() for label, read in self._seconds.items()}
        for teacher in model.teachers.values():
            vars(teacher).pop('run', None)
        if values:
            # One transfer for all.
            seconds.update(zip(values, torch.stack([
                value.float() for value in values.values()]).tolist()))
        for key, number in seconds.items():
            if math.isfinite(number):  # a task that is off, or has no RoI, has no distance
                runner.message_hub.update_scalar(f'train/{key}', number)
        self._distances.clear()
        self._seconds.clear()

    def _is_due(self, runner: Runner) -> bool:
        # In which LoggerHook, with the same interval, also logs.
        return (runner.iter + 1) % self.interval == 0

    def _watch(self, runner: Runner, name: str) -> Callable[..., None]:

        @torch.compiler.disable
        @torch.no_grad()
        def watch(task: Any, args: Any, loss: Any) -> None:
            if self._is_due(runner):
                self._distances[name] = torch.stack([
                    (student.float() - teacher.float()).norm() / teacher.float().norm()
                    for student, teacher in task.pairs(*args[:2])]).mean()

        return watch

    def _time(self, teacher: Teacher) -> None:
        """Replace the teacher's ``run`` by one that takes the time, until it is deleted."""
        run = teacher.run
        on_gpu = next(teacher.network.parameters()).is_cuda

        @wraps(run)
        def timed(*args: Any, **kwargs: Any) -> Any:
            if on_gpu:
                begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                begin.record()
                taps = run(*args, **kwargs)
                end.record()
                # The backward pass comes behind it, so this waits for nothing else.
                self._seconds[teacher.label] = lambda: begin.elapsed_time(end) / 1000
            else:
                start = time.perf_counter()
                taps = run(*args, **kwargs)
                passed = time.perf_counter() - start
                self._seconds[teacher.label] = lambda: passed
            return taps

        vars(teacher)['run'] = timed
