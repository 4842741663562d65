"""Another checkpoint of the teacher as the student progresses."""
from __future__ import annotations

from bisect import bisect_right
from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ..distillers.teacher import Teacher, load_teacher_checkpoint, read_teacher_checkpoint
from ..utils.dist import same_on_all_ranks
from ..utils.errors import ConfigError, ConfigProblems, suggest
from .runner import is_training, unwrapped_model


@HOOKS.register_module()
class TeacherCheckpointHook(Hook):
    """Swaps the teacher's weights during training.

    Online distillation (arXiv 2301.12245): a student at the beginning learns from a teacher at the
    beginning of its own training, whose predictions are simpler, and later from later ones. Each
    file is read and compared with the teacher's network before the first batch. Which one is used
    depends on the iteration only, so a resumed training continues with the right one.

    Args:
        checkpoints (list[str]): Paths or URLs, earliest first.
        at (list[int] | str): The iteration from which on each is used, ascending; before the first
            of them the teacher has the weights of ``teacher_ckpt``. ``'progress'`` divides the
            training into equal parts. Defaults to ``'progress'``.
        teacher (str, optional): Name of the teacher. Defaults to None, where there is one.
    """

    # After ExactResumeHook, before hooks that look at the teacher.
    priority = 'HIGH'

    def __init__(self, checkpoints: list[str], at: list[int] | str = 'progress',
                 teacher: str | None = None) -> None:
        if not checkpoints or not isinstance(checkpoints, (list, tuple)) or not all(
                isinstance(path, str) for path in checkpoints):
            raise ConfigError(f'checkpoints={checkpoints!r}: must be a list of paths or URLs, '
                              'earliest first')
        if at != 'progress' and (
                not isinstance(at, (list, tuple)) or len(at) != len(checkpoints)
                or any(type(start) is not int or start < 0 for start in at)
                or list(at) != sorted(set(at))):
            raise ConfigError(f"at={at!r}: must be 'progress' or {len(checkpoints)} ascending "
                              'iterations, one for each of the checkpoints')
        self.checkpoints = checkpoints
        self.at = at
        self.teacher = teacher
        self._loaded: int | None = None

    def before_run(self, runner: Runner) -> None:
        """Check the hook against the model and the length of the training.

        Raises:
            ConfigError: With all problems at once, if there is no such teacher, it is the average
                of the student, another such hook swaps it too, or an iteration is never reached.
        """
        if not is_training(runner):
            return
        problems = ConfigProblems()
        with problems.under(type(self).__name__):
            self._find_teacher(runner)
        hooks = [hook for hook in runner.hooks if isinstance(hook, TeacherCheckpointHook)
                 and hook.teacher == self.teacher]
        if len(hooks) > 1 and self is hooks[0]:
            problems.add(f'TeacherCheckpointHook.teacher={self.teacher!r}: {len(hooks)} such '
                         'hooks swap its weights; leave one')
        if self._starts(runner)[-1] >= runner.max_iters:
            problems.add(f'TeacherCheckpointHook.at={self.at!r}: the training ends after '
                         f'{runner.max_iters} iterations; leave out what is never reached')
        problems.raise_if_any()

    @same_on_all_ranks()
    def before_train(self, runner: Runner) -> None:
        """Read all checkpoints and compare them with the network.

        Raises:
            ConfigError: On all ranks and with all problems at once, if one cannot be read or does
                not fit.
        """
        teacher = self._find_teacher(runner)
        problems = ConfigProblems()
        for index, checkpoint in enumerate(self.checkpoints):
            with problems.under(''):
                read_teacher_checkpoint(teacher.network, checkpoint, teacher.strict, teacher.name,
                                        self._key(index))
        problems.raise_if_any()
        self._loaded = None

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Load the checkpoint of this iteration, if it is not loaded."""
        index = bisect_right(self._starts(runner), runner.iter) - 1
        if index >= 0 and index != self._loaded:
            teacher = self._find_teacher(runner)
            load_teacher_checkpoint(teacher.network, self.checkpoints[index], teacher.strict,
                                    teacher.name, self._key(index))
            self._loaded = index

    def _starts(self, runner: Runner) -> list[int]:
        if isinstance(self.at, str):
            number = len(self.checkpoints)
            return [index * runner.max_iters // number for index in range(number)]
        return self.at

    def _key(self, index: int) -> str:
        return f'{type(self).__name__}.checkpoints[{index}]'

    def _find_teacher(self, runner: Runner) -> Teacher:
        teachers = getattr(unwrapped_model(runner), 'teachers', {})
        if not teachers:
            raise ConfigError(": the model has no teacher; remove the hook or train model=dict("
                              "type='AvatarDistiller', ...)")
        is_only = self.teacher is None and len(teachers) == 1
        name = next(iter(teachers)) if is_only else self.teacher
        if name not in teachers:
            raise ConfigError(f'teacher={name!r}: no such teacher; {suggest(name, teachers)}')
        if teachers[name].is_average:
            raise ConfigError(f"teacher={self.teacher!r}: it is 'ema', the average of the "
                              'student, which has no checkpoints; name another teacher')
        return teachers[name]
