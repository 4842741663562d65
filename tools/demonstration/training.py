"""Running the trainings of the demo side by side, and showing how far they are."""
import os
import re
import shlex
import subprocess
import sys
import time
from collections import deque
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from threading import Lock

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from demonstration.runs import OUT, ROOT, Run

# So many at a time: these networks are too small to fill two cores each.
JOBS = 2
# A step in steps of the plain student, roughly; for the estimate of the remaining time only.
_STEP_COST = {'teacher': 3, 'student': 1, 'cwd': 2, 'akd-cwd': 2}
_PLACE = re.compile(r'(?:Iter|Epoch)\((train|val|test)\) *(?:\[(\d+)\])?\[ *(\d+)/(\d+)\]')
_SHOWN_LINES = 15


class TrainingError(RuntimeError):
    """A training that failed; the message names its log and shows its end."""


class Display:
    """Progress of all trainings: bars on a terminal, elsewhere a line now and then.

    Args:
        runs (list[Run]): The trainings.
        console (Console): Where to show it.
    """

    def __init__(self, runs: list[Run], console: Console) -> None:
        self.console = console
        self.bars = Progress(
            TextColumn('{task.description:24}'), BarColumn(), TextColumn('{task.fields[status]}'),
            console=console, disable=not console.is_terminal)
        self.tasks = {run.name: self.bars.add_task(run.title, total=run.steps, status='waiting')
                      for run in runs}
        self.overall = self.bars.add_task('all together', total=1, status='')
        self.cost = {run.name: _STEP_COST[run.role] * run.steps for run in runs}
        self.done = {run.name: 0.0 for run in runs}
        self.start = self.last_line = time.monotonic()

    def update(self, run: Run, step: int, status: str) -> None:
        """Show where a training is.

        Args:
            run (Run): The training.
            step (int): Iterations done.
            status (str): What else to say.
        """
        self.bars.update(self.tasks[run.name], completed=step, status=status)
        self.done[run.name] = self.cost[run.name] * min(step / run.steps, 1)
        overall = self._overall()
        if self.bars.disable and time.monotonic() - self.last_line > 5:
            self.last_line = time.monotonic()
            self.console.print(f'{overall} | {run.title}: {status}', soft_wrap=True)

    def keep(self, run: Run, status: str) -> None:
        """Show a training that is kept; it says nothing about the time that the others need.

        Args:
            run (Run): The training.
            status (str): What else to say.
        """
        self.cost[run.name] = 0
        self.update(run, run.steps, status)

    def _overall(self) -> str:
        share = sum(self.done.values()) / max(sum(self.cost.values()), 1)
        passed = time.monotonic() - self.start
        status = f'{share:4.0%}, {minutes(passed)} gone'
        # At first there are only the seconds that the start takes.
        if share > 0.05:
            status += f', about {minutes(passed / share - passed)} left'
        self.bars.update(self.overall, completed=share, status=status)
        return status


def minutes(seconds: float) -> str:
    """Write a time.

    Args:
        seconds (float): The time.

    Returns:
        str: As in '9:05'.
    """
    return '{}:{:02}'.format(*divmod(round(seconds), 60))


def num_threads() -> int:
    """Share the cores between the trainings; more than a few do not help such small networks."""
    return min(max(torch.get_num_threads() // JOBS, 1), 4)


class Trainer:
    """Runs the trainings as processes.

    Args:
        display (Display): Where progress is shown.
        lock (int): File descriptor that stays open as long as any process runs.
    """

    def __init__(self, display: Display, lock: int) -> None:
        self.display = display
        self.lock = lock
        # On the CPU everywhere, so that results and times compare.
        self.env = dict(os.environ, OMP_NUM_THREADS=str(num_threads()), CUDA_VISIBLE_DEVICES='',
                        PYTHONUNBUFFERED='1')
        self.processes: set[subprocess.Popen] = set()
        self.stopped = False
        self.starting = Lock()

    def train(self, run: Run, teacher: Future | None) -> None:
        """Bring a training to its end, from wherever it is.

        Args:
            run (Run): The training.
            teacher (Future, optional): What must be finished before.

        Raises:
            TrainingError: If it fails.
        """
        if teacher is not None:
            teacher.result()
        metric = run.find_metric()
        if metric is not None:
            run.collect(metric)
            self.display.keep(run, f'{run.task.unit} {metric:.1f}, kept')
            return
        if not run.finished:
            self._call(run, 'train.py', '--resume')
            metric = run.find_metric()
        if metric is None:
            # It was killed between its last checkpoint and the end of the evaluation.
            self._call(run, 'test.py', str(run.checkpoint), '--work-dir',
                       str(OUT / 'tests' / run.name))
            metric = run.find_metric()
        if metric is None:
            raise TrainingError(f'{run.config}: no {run.task.metric} in its logs, see {run.log}')
        run.collect(metric)
        self.display.update(run, run.steps, f'{run.task.unit} {metric:.1f}')

    def stop(self) -> None:
        """End the processes that run, and start no more."""
        with self.starting:
            self.stopped = True
            for process in self.processes.copy():
                process.terminate()

    def _call(self, run: Run, tool: str, *args: str) -> None:
        command = [sys.executable, str(ROOT / 'tools' / tool), str(ROOT / run.config), *args]
        self.display.update(run, 0, 'starting')
        end: deque[str] = deque(maxlen=_SHOWN_LINES)
        run.log.parent.mkdir(parents=True, exist_ok=True)
        with run.log.open('a', buffering=1) as log:
            print('$', shlex.join(command), file=log, flush=True)
            process = self._start(command)
            for line in process.stdout or ():
                log.write(line)
                end.append(line)
                self._show(run, line)
            status = process.wait()
            self.processes.discard(process)
        if status:
            raise TrainingError(f'{tool} {run.config} ended with status {status}. The end of '
                                f'{run.log}:\n\n{"".join(end)}')

    def _start(self, command: list[str]) -> subprocess.Popen[str]:
        with self.starting:
            if self.stopped:
                raise TrainingError('stopped')
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                errors='replace', env=self.env, pass_fds=[self.lock])
            self.processes.add(process)
            return process

    def _show(self, run: Run, line: str) -> None:
        place = _PLACE.search(line)
        if place is None:
            return
        mode, epoch, step, length = place.groups()
        if mode != 'train':
            self.display.update(run, run.steps, f'evaluation {step} of {length}')
            return
        steps = int(step) + (int(epoch) - 1) * int(length) if epoch else int(step)
        loss = re.search(r' loss: (\S+)', line)
        status = f'step {steps} of {run.steps}' + (f', loss {loss[1]}' if loss else '')
        self.display.update(run, steps, status)


def train_all(runs: list[Run], console: Console, lock: int) -> None:
    """Run the trainings, several side by side.

    Args:
        runs (list[Run]): The trainings, a teacher before its students.
        console (Console): Where to show progress.
        lock (int): File descriptor that the processes inherit.

    Raises:
        TrainingError: If one fails; the others are stopped and can be resumed.
    """
    display = Display(runs, console)
    trainer = Trainer(display, lock)
    pool = ThreadPoolExecutor(JOBS)
    futures: dict[str, Future] = {}
    try:
        with display.bars:
            for run in runs:
                teacher = futures[run.teacher.name] if run.teacher else None
                futures[run.name] = pool.submit(trainer.train, run, teacher)
            for future in wait(futures.values(), return_when=FIRST_EXCEPTION).done:
                future.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        trainer.stop()
