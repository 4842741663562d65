"""A value that changes during training."""
import math

from mmengine.runner import EpochBasedTrainLoop, Runner

from ..utils.errors import ConfigError, ConfigProblems, check_numbers, suggest

_MODES = ('constant', 'linear', 'cosine')


class Schedule:
    """A value that goes from ``start`` at ``begin`` to ``end`` at ``stop``, constant outside.

    Takes the arguments of :class:`PerturbationHook`, and raises all their problems at once.
    """

    def __init__(self, mode: str, start: float, end: float, begin: int, stop: int | None,
                 by_epoch: bool) -> None:
        problems = ConfigProblems()
        if mode not in _MODES:
            problems.add(f'mode={mode!r}: {suggest(mode, _MODES)}')
        with problems.under(''):
            check_numbers(not_negative=dict(start=start, end=end))
        if not isinstance(begin, int) or begin < 0:
            problems.add(f'begin={begin!r}: must be an integer >= 0')
        elif stop is not None and (not isinstance(stop, int) or stop <= begin):
            problems.add(f'stop={stop!r}: must be None or an integer > begin={begin}')
        if not isinstance(by_epoch, bool):
            problems.add(f'by_epoch={by_epoch!r}: must be True or False')
        problems.raise_if_any()
        self.start = start
        self.end = start if mode == 'constant' else end
        self.begin = begin
        self.stop = stop
        self.by_epoch = by_epoch
        self._is_cosine = mode == 'cosine'

    def check(self, runner: Runner) -> None:
        """Raise a :class:`ConfigError` if epochs are counted in an iteration-based loop."""
        if self.by_epoch and not isinstance(runner.train_loop, EpochBasedTrainLoop):
            raise ConfigError('by_epoch=True: this training counts iterations; set by_epoch=False')

    def now(self, runner: Runner) -> int:
        """Count the finished iterations, or epochs with ``by_epoch``."""
        return runner.epoch if self.by_epoch else runner.iter

    def value(self, runner: Runner) -> float:
        """Compute the current value from the iteration or epoch."""
        last = runner.max_epochs if self.by_epoch else runner.max_iters
        stop = last if self.stop is None else self.stop
        past = (self.now(runner) - self.begin) / max(stop - self.begin, 1)
        progress = min(max(past, 0.0), 1.0)
        if self._is_cosine:
            progress = (1 - math.cos(math.pi * progress)) / 2
        return self.start + (self.end - self.start) * progress
