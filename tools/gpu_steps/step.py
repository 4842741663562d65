"""What a step is: a name and a function that gives rows, run in a process of its own."""
import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from mmengine.fileio import dump, load

# Seconds; a machine with a GPU may be lent for minutes.
TIME_LIMIT = 470
PASSED, FAILED, NOT_RUN, LEFT_OUT = 'passed', 'failed', 'not run', 'left out'
BUILD_OPS = ("this mmcv has no CUDA ops, which detectors need; build it with them, see 'An "
             "offline machine' in docs/gpu.md")


@dataclass(frozen=True)
class Setting:
    """Where and how large the steps are.

    Args:
        device (str): ``'cuda'``; ``'cpu'`` stands for it in a rehearsal.
        quick (bool): Whether sizes are the smallest.
        folder (Path): For data, checkpoints and logs.
    """

    device: str
    quick: bool
    folder: Path

    @property
    def start_method(self) -> str:
        """str: How processes are started: CUDA allows no fork, which spares imports."""
        return 'fork' if self.device == 'cpu' else 'spawn'


class Row(NamedTuple):
    """One thing that a step looked at.

    Args:
        what (str): What it is.
        found (str): What was found.
        expected (str): What is expected. Defaults to ''.
        status (str): ``'passed'``, ``'failed'``, ``'not run'`` where something is missing that the
            step needs, or ``'left out'`` where the machine has no such thing. Defaults to
            ``'passed'``.
    """

    what: str
    found: str
    expected: str = ''
    status: str = PASSED


class Step(NamedTuple):
    """A step.

    Args:
        name (str): Its name, of words and hyphens.
        run (Callable): Takes the :class:`Setting` and gives rows.
        needs_ops (bool): Whether it trains a detector, for which mmcv needs its CUDA ops. Defaults
            to False.
        hides_gpu (bool): Whether it runs as on a machine without one. Defaults to False.
    """

    name: str
    run: Callable[[Setting], list[Row]]
    needs_ops: bool = False
    hides_gpu: bool = False


def at_most(what: str, value: float, limit: float, form: str = '.1e') -> Row:
    """Make a row of a number that has an upper limit."""
    return Row(what, f'{value:{form}}', f'<= {limit:{form}}', PASSED if value <= limit else FAILED)


def is_true(what: str, value: bool) -> Row:
    """Make a row of a condition."""
    return Row(what, 'yes' if value else 'no', 'yes', PASSED if value else FAILED)


def has_cuda_ops() -> bool:
    """Tell whether mmcv was built with its CUDA ops."""
    from mmcv.ops import get_compiling_cuda_version
    return get_compiling_cuda_version() != 'not available'


def status_of(rows: list[Row]) -> str:
    """Sum up a step: it passed if nothing failed and nothing that it needs was missing."""
    found = {row.status for row in rows}
    return next((status for status in (FAILED, NOT_RUN) if status in found), PASSED)


def run_step(step: Step, setting: Setting, time_limit: float = TIME_LIMIT) -> dict[str, Any]:
    """Run a step in a process of its own.

    Args:
        step (Step): The step.
        setting (Setting): Where.
        time_limit (float): Seconds after which it has failed. Defaults to :data:`TIME_LIMIT`.

    Returns:
        dict[str, Any]: ``status``, ``rows`` and ``seconds``.
    """
    setting.folder.mkdir(parents=True, exist_ok=True)
    file = setting.folder / f'{step.name}.json'
    file.unlink(missing_ok=True)
    start = time.monotonic()
    if step.needs_ops and setting.device == 'cuda' and not has_cuda_ops():
        rows = [Row(step.name, BUILD_OPS, status=NOT_RUN)]
    else:
        context: Any = multiprocessing.get_context(setting.start_method)
        process = context.Process(target=_run, args=(step, setting, file))
        # MMEngine looks for a GPU when it is imported.
        with mock.patch.dict(os.environ, dict(CUDA_VISIBLE_DEVICES='') if step.hides_gpu else {}):
            process.start()
        try:
            process.join(time_limit)
            is_late = process.is_alive()
        finally:
            if process.is_alive():
                # With the processes that it started.
                os.killpg(process.pid, signal.SIGKILL)
        if is_late:
            rows = [Row(step.name, f'ran for more than {time_limit:.0f} s', status=FAILED)]
        elif file.exists():
            rows = [Row(*row) for row in load(file)]
        else:
            rows = [Row(step.name, f'ended with status {process.exitcode}, see '
                        f'{_log(step, setting)}', status=FAILED)]
    return dict(status=status_of(rows), rows=[list(row) for row in rows],
                seconds=round(time.monotonic() - start, 1))


def _run(step: Step, setting: Setting, file: Path) -> None:
    os.setsid()
    # Where the toy configs look for data and teachers, as at a user's.
    os.chdir(setting.folder)
    # All that trainings print; a page has no room for it.
    with open(_log(step, setting), 'w') as log:
        for stream in 1, 2:
            os.dup2(log.fileno(), stream)
        try:
            rows = step.run(setting)
        except Exception as error:
            traceback.print_exc()
            text = ' '.join(str(error).split())
            rows = [Row(step.name, f'{type(error).__name__}: {text[:200]}', status=FAILED)]
        dump(rows, file)


def _log(step: Step, setting: Setting) -> Path:
    return setting.folder / f'{step.name}.log'
