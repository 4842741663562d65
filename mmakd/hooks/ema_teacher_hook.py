"""The teacher that is the running average of its student."""
import logging
import math
from typing import Any

import torch
from mmengine.dist import broadcast, is_distributed
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from mmengine.runner.checkpoint import weights_to_cpu
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ..distillers.teacher import Teacher
from ..utils.errors import ConfigProblems, is_number
from .distillation_schedule_hook import DistillationScheduleHook
from .runner import is_training, unwrapped_model

# Under this name a checkpoint holds the averages.
_KEY = 'ema_teacher'


@HOOKS.register_module()
class EMATeacherHook(Hook):
    r"""Updates the teachers ``'ema'``, the running averages of the student.

    Mean Teacher (arXiv 1703.01780). After the t-th step of the optimizer, t = 1, 2, ..., each of
    them becomes :math:`d \cdot teacher + (1 - d) \cdot student` with
    :math:`d = \min(1 - 1 / (t + 1), momentum)`: the mean of all students so far, until d reaches
    ``momentum``. While gradients are accumulated, nothing changes. The average starts from the
    student's weights when training starts, so also from those of ``load_from``.

    Each checkpoint holds the averages under a key of its own, ``ema_teacher``; its ``state_dict``
    stays the student's. A resumed training continues with them bit for bit. All processes have
    equal averages: the student's buffers, such as the statistics of BatchNorm, differ between
    processes, and those of the first one count.

    Args:
        momentum (float): Largest decay d, 0 <= momentum < 1. Defaults to 0.999.
        ramp_iters (int): The first T iterations t = 0, 1, ... in which the weights of the tasks of
            these teachers are multiplied by :math:`\exp(-5 (1 - t / T)^2)`, logged as
            ``distill_weight/<task>``. Defaults to 0, full weight from the beginning.
        update_buffers (bool): Whether buffers of floating type are averaged like parameters, as in
            Unbiased Teacher (arXiv 2102.09480); False takes them from the student. The paper needs
            neither, since its teacher normalises by the statistics of the batch; ours is in eval
            mode. Integers are always the student's. Defaults to True.
    """

    priority = 'NORMAL'

    def __init__(self, momentum: float = 0.999, ramp_iters: int = 0,
                 update_buffers: bool = True) -> None:
        problems = ConfigProblems()
        if not is_number(momentum) or not 0 <= momentum < 1:
            problems.add(f'momentum={momentum!r}: must be a number >= 0 and < 1, e.g. 0.999')
        if type(ramp_iters) is not int or ramp_iters < 0:
            problems.add(f'ramp_iters={ramp_iters!r}: must be an integer >= 0')
        problems.raise_if_any()
        self.momentum = momentum
        self.ramp_iters = ramp_iters
        self.update_buffers = update_buffers
        self._steps = 0
        self._saved: dict[str, Any] = {}

    def before_run(self, runner: Runner) -> None:
        """Check the hook against the model and the other hooks.

        Raises:
            ConfigError: With all problems at once, if no teacher is ``'ema'``, there is another
                such hook, or a ``DistillationScheduleHook`` sets the weight of the same task.
        """
        if not is_training(runner):
            return
        problems = ConfigProblems()
        model: Any = unwrapped_model(runner)
        if not _averages(model):
            problems.add("EMATeacherHook: no teacher of the model is 'ema'; set "
                         "model.teacher='ema', or remove the hook")
        hooks = [hook for hook in runner.hooks if isinstance(hook, EMATeacherHook)]
        if len(hooks) > 1 and self is hooks[0]:
            problems.add(f'EMATeacherHook: the config has {len(hooks)} such hooks; leave one')
        for hook in runner.hooks:
            if isinstance(hook, DistillationScheduleHook) and self.ramp_iters:
                problems.problems += [
                    f'EMATeacherHook.ramp_iters={self.ramp_iters}: a DistillationScheduleHook '
                    f'sets the weight of the task {name!r} too; set ramp_iters=0, or leave the '
                    'task out of its tasks=[...]' for name in _averaged_tasks(model)
                    if hook.tasks is None or name in hook.tasks]
        problems.raise_if_any()

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Keep the averages of the checkpoint, for the case that the training resumes."""
        self._saved = checkpoint.get(_KEY, {})

    def before_train(self, runner: Runner) -> None:
        """Set the averages: the checkpoint's in a resumed training, else the student."""
        model: Any = unwrapped_model(runner)
        is_resumed = runner.iter > 0
        saved, self._saved = self._saved if is_resumed else {}, {}
        self._steps = saved.get('steps', 0)
        for name, teacher in _averages(model).items():
            state = saved.get('state_dicts', {}).get(name)
            if state is not None:
                teacher.network.load_state_dict(state)
                continue
            teacher.copy_student(model.student)
            if is_resumed:
                print_log(f'The checkpoint has no average for the {teacher.label}, which starts '
                          'from the student again', 'current', level=logging.WARNING)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Set and log the weights of the tasks."""
        if not self.ramp_iters:
            return
        model: Any = unwrapped_model(runner)
        rest = max(1 - runner.iter / self.ramp_iters, 0)
        for name in _averaged_tasks(model):
            model.distiller[name].weight_factor = math.exp(-5 * rest**2)
            runner.message_hub.update_scalar(f'train/distill_weight/{name}',
                                             model.distiller[name].weight_factor)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None,
                         outputs: dict | None = None) -> None:
        """Update the averages, if this iteration ended with a step of the optimizer."""
        if not runner.optim_wrapper.should_update():
            return
        self._steps += 1
        decay = min(1 - 1 / (self._steps + 1), self.momentum)
        model: Any = unwrapped_model(runner)
        for teacher in _averages(model).values():
            self._update(teacher.network, model.student, decay)

    @torch.no_grad()
    def _update(self, average: nn.Module, student: nn.Module, decay: float) -> None:
        # Each tensor once, also where modules share it.
        averaged: list[tuple[Tensor, Tensor]] = [*zip(average.parameters(), student.parameters())]
        copied: list[tuple[Tensor, Tensor]] = []
        for pair in zip(average.buffers(), student.buffers()):
            is_averaged = self.update_buffers and pair[0].is_floating_point()
            (averaged if is_averaged else copied).append(pair)
        get_ema_multi_avg_fn(decay)(*map(list, zip(*averaged)), self._steps)
        for own, of_student in copied:
            own.copy_(of_student)
        if is_distributed():
            _broadcast([buffer for buffer in average.buffers() if buffer.is_floating_point()])

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Save the averages, and how many steps they are made of."""
        checkpoint[_KEY] = dict(steps=self._steps, state_dicts={
            name: weights_to_cpu(teacher.network.state_dict())
            for name, teacher in _averages(unwrapped_model(runner)).items()})


def _averages(model: Any) -> dict[str, Teacher]:
    return {name: teacher for name, teacher in getattr(model, 'teachers', {}).items()
            if teacher.is_average}


def _averaged_tasks(model: Any) -> list[str]:
    """List the tasks of the averages."""
    return [name for name, pair in getattr(model, 'taps', {}).items()
            if pair.of in _averages(model)]


def _broadcast(buffers: list[Tensor]) -> None:
    """Take the buffers of the first process, in one collective."""
    if buffers:
        together = torch.cat([buffer.flatten() for buffer in buffers])
        broadcast(together)
        for buffer, values in zip(buffers, together.split([b.numel() for b in buffers])):
            buffer.copy_(values.view_as(buffer))
