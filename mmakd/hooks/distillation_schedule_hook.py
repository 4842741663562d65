"""Schedule of the weights of distillation tasks."""
from collections.abc import Sequence
from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import nn

from ..utils.errors import ConfigError, ConfigProblems
from .runner import is_training, unwrapped_model
from .schedule import Schedule
from .task_names import check_task_names, task_names


@HOOKS.register_module()
class DistillationScheduleHook(Hook):
    """Sets the weights of distillation tasks over training.

    Before each iteration the hook sets every task's ``weight_factor``, a factor on its loss. It
    depends on the iteration or epoch only, so a resumed run continues correctly. Counted from 0:

    - before ``begin``, and from ``stop`` on, it is 0 and the task is off (whereas
      ``PerturbationHook`` keeps its first and last strength);
    - in between, it is ``start``, or goes from ``start`` to ``end``;
    - for the first ``warmup`` iterations or epochs k = 0, 1, ... after ``begin``, it is multiplied
      by (k + 1) / (``warmup`` + 1).

    While all tasks of a teacher are off, it does not run. While all tasks are off, training is the
    plain student's. The hook logs ``distill_weight/<task>``.

    Args:
        tasks (Sequence[str], optional): Names of the tasks. Defaults to None, all.
        mode (str): ``'constant'`` keeps ``start``; ``'linear'`` and ``'cosine'`` go from ``start``
            at ``begin`` to ``end`` at ``stop``. Defaults to ``'constant'``.
        start (float): First factor, >= 0. Defaults to 1.0.
        end (float): Last factor, >= 0; of no effect in mode ``'constant'``. Defaults to 0.0.
        warmup (int): Length of the linear warm-up, in iterations or epochs. Defaults to 0.
        begin (int): First iteration or epoch of distillation. Defaults to 0.
        stop (int, optional): First iteration or epoch without it. Defaults to None, the end of
            training.
        by_epoch (bool): Whether ``begin``, ``stop`` and ``warmup`` count epochs, and the factor
            changes between epochs only. Defaults to False.
    """

    priority = 'NORMAL'

    def __init__(self, tasks: Sequence[str] | None = None, mode: str = 'constant',
                 start: float = 1.0, end: float = 0.0, warmup: int = 0, begin: int = 0,
                 stop: int | None = None, by_epoch: bool = False) -> None:
        problems = ConfigProblems()
        with problems.under(''):
            check_task_names(tasks)
        with problems.under(''):
            self.schedule = Schedule(mode, start, end, begin, stop, by_epoch)
        if not isinstance(warmup, int) or warmup < 0:
            problems.add(f'warmup={warmup!r}: must be an integer >= 0')
        problems.raise_if_any()
        if stop is not None and warmup > stop - begin:
            raise ConfigError(f'warmup={warmup}: is longer than from begin={begin} to '
                              f'stop={stop}; shorten it')
        self.tasks = tasks
        self.warmup = warmup

    def before_run(self, runner: Runner) -> None:
        """Check the schedule against the model and the training loop.

        Raises:
            ConfigError: With all problems at once, if the model has no tasks or not these, another
                hook sets the same task, or epochs are counted in an iteration-based loop.
        """
        if not is_training(runner):
            return
        key = type(self).__name__
        problems = ConfigProblems()
        known = getattr(unwrapped_model(runner), 'distiller', None)
        if not isinstance(known, nn.ModuleDict):
            problems.add(f'{key}: the model has no distillation tasks; remove the hook or train '
                         "model=dict(type='AvatarDistiller', ...)")
        else:
            hooks = [h for h in runner.hooks if isinstance(h, DistillationScheduleHook)]
            with problems.under(key):
                for name in task_names(self.tasks, known):
                    count = sum(name in (hook.tasks or known) for hook in hooks)
                    if count > 1:
                        problems.add(f'{key}.tasks={self.tasks!r}: {count} such hooks set the '
                                     f'task {name!r}; leave it to one of them')
        with problems.under(key):
            self.schedule.check(runner)
        problems.raise_if_any()

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Set and log the factors."""
        tasks: Any = unwrapped_model(runner).distiller
        factor = self._factor(runner)
        for name in task_names(self.tasks, tasks):
            tasks[name].weight_factor = factor
            runner.message_hub.update_scalar(f'train/distill_weight/{name}', factor)

    def _factor(self, runner: Runner) -> float:
        now, stop = self.schedule.now(runner), self.schedule.stop
        past = now - self.schedule.begin
        if past < 0 or (stop is not None and now >= stop):
            return 0.0
        return self.schedule.value(runner) * min((past + 1) / (self.warmup + 1), 1.0)
