"""Distil a detector and a segmentor on the CPU, and compare them with plain training.

Draws the shapes data to data/shapes/, trains teacher, plain student, CWD student and AKD student
for detection and for segmentation by tools/train.py, prints one table and writes
work_dirs/demo/report.md with two figures.
"""
import argparse
import fcntl
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

from rich import box
from rich.console import Console

from demonstration.report import compare, make_table, write_report
from demonstration.runs import DATA, OUT, ROLES, TASKS, Run, plan_runs
from demonstration.training import TrainingError, minutes, train_all
from shapes.dataset import make_shapes

_EPILOG = """\
A second call takes seconds: a training is kept as long as its config, the data and its teacher are
the same, and one that was killed goes on from its last checkpoint. What does not fit is renamed,
never overwritten. `make demo-clean` removes everything.

  work_dirs/demo/report.md              the results
  work_dirs/demo/logs/<config>.log      all that a training printed
  work_dirs/<config>/                   checkpoints and logs, as of
                                        python tools/train.py configs/det/toy/<config>.py
"""


def main() -> None:
    """Run the demo."""
    argparse.ArgumentParser(
        description=__doc__, epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    # A demo that is asked to end ends its trainings too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    start = time.monotonic()
    # Bound to this stream, which is redirected while the figures are drawn.
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 110)
    try:
        with only_demo() as lock:
            runs = train(console, lock)
    except (TrainingError, FileExistsError) as error:
        sys.exit(f'error: {error}')
    except KeyboardInterrupt:
        sys.exit('\nstopped; the next call goes on from the last checkpoints')
    console.print(make_table(runs, box.SIMPLE_HEAD))
    for sentence in compare(runs):
        console.print(sentence)
    with console.status('drawing the figures'), open(OUT / 'logs' / 'figures.log', 'w') as log, \
            redirect_stdout(log), redirect_stderr(log):
        report = write_report(runs)
    console.print(f'\n{report} written after {minutes(time.monotonic() - start)} minutes')


@contextmanager
def only_demo() -> Iterator[int]:
    """Keep out a second demo while this one, or a training that it left behind, runs.

    Yields:
        int: File descriptor to hand down to the trainings.

    Raises:
        TrainingError: If another one runs.
    """
    OUT.mkdir(parents=True, exist_ok=True)
    with open(OUT / 'lock', 'w') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TrainingError(f'another demo or one of its trainings runs in {Path.cwd()}; wait '
                                'for its end') from None
        yield file.fileno()


def train(console: Console, lock: int) -> list[Run]:
    """Make the data and all trainings that are not there.

    Args:
        console (Console): Where to show progress.
        lock (int): File descriptor that the trainings inherit.

    Returns:
        list[Run]: The finished trainings.
    """
    make_shapes(DATA)
    runs = plan_runs()
    for run in runs:
        if run.teacher and Path(run.cfg.model.teacher_ckpt) != run.teacher.checkpoint:
            raise TrainingError(
                f'{run.config}: model.teacher_ckpt={run.cfg.model.teacher_ckpt!r}, but '
                f'{run.teacher.config} saves {str(run.teacher.checkpoint)!r}; make them agree')
        reason = run.stale_because()
        if reason:
            console.print(f'{run.work_dir} {reason}: renamed to {run.move_aside()}')
    train_all(runs, console, lock)
    return sorted(runs, key=lambda run: (TASKS.index(run.task), list(ROLES).index(run.role)))


if __name__ == '__main__':
    main()
