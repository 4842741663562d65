"""Distil a detector and a segmentor on the CPU, and compare them with plain training.

Draws the shapes data to data/shapes/, trains teacher, plain student, CWD student and AKD student
for detection and for segmentation by tools/train.py, prints one table and writes
work_dirs/demo/report.md with two figures.
"""
import argparse
import fcntl
import io
import os
import platform
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import mmcv
import mmdet
import mmengine
import mmseg
import torch
from rich import box
from rich.console import Console
from rich.table import Table

from demonstration.figure import caption, draw_figure
from demonstration.runs import DATA, OUT, ROLES, TASKS, Run, plan_runs
from demonstration.training import JOBS, TrainingError, minutes, train_all
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

_REPORT = """\
# Demo: Avatar Knowledge Distillation on drawn shapes

{table}

{comparison}

One run each, with one seed: differences of a point or so may be chance. The three students of a
task are the same network, trained on the same batches for the same number of iterations; only the
teacher is larger and trains longer. AP (at IoU 0.50 to 0.95, by CocoMetric) and mIoU (by
IoUMetric) are those of the last checkpoint on the validation set. Time per iteration is the median
over the training, without loading of data, with {jobs} trainings side by side:
`python tools/benchmark_speed.py <config>` compares times more exactly. The checkpoint file holds
the state of the optimizer too, and what a distilled training needs to resume. The parameters are
those of the network that is deployed.

{figures}
## How it was made

`make demo`, which draws `data/shapes` and then runs

```shell
{commands}
```

{system} {machine}, {cores} cores, {threads} thread(s) for each of {jobs} processes; Python
{python}, {versions}.
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
    train_all(runs, console, num_threads(), lock)
    return sorted(runs, key=lambda run: (TASKS.index(run.task), list(ROLES).index(run.role)))


def num_threads() -> int:
    """Share the cores between the trainings; more than a few do not help such small networks."""
    return min(max(torch.get_num_threads() // JOBS, 1), 4)


def make_table(runs: list[Run], style: box.Box) -> Table:
    """Make the table of results.

    Args:
        runs (list[Run]): The finished trainings.
        style (box.Box): How to draw its lines.

    Returns:
        Table: One row a training.
    """
    table = Table(box=style)
    table.add_column('task, metric')
    table.add_column('network')
    for header in ('result', 'over student', 'ms / iteration', 'checkpoint, MB', 'parameters, M'):
        table.add_column(header, justify='right')
    plain = {run.task: run.result.metric for run in runs if run.role == 'student'}
    for run in runs:
        result = run.result
        gain = '' if run.role == 'student' else f'{result.metric - plain[run.task]:+.1f}'
        table.add_row(
            f'{run.task.name}, {run.task.unit}', ROLES[run.role], f'{result.metric:.1f}', gain,
            f'{1000 * result.step_time:.0f}', f'{result.checkpoint_size / 1e6:.2f}',
            f'{result.num_parameters / 1e6:.3f}',
            end_section=run.role == 'akd-cwd' and style is not box.MARKDOWN)
    return table


def compare(runs: list[Run]) -> Iterator[str]:
    """Say what AKD changed, for better or worse.

    Args:
        runs (list[Run]): The finished trainings.

    Yields:
        str: A sentence for each task.
    """
    for task in TASKS:
        metric = {run.role: run.result.metric for run in runs if run.task == task}
        akd = metric['akd-cwd']
        yield (f'{task.name.capitalize()}: AKD is {_against(akd - metric["student"])} the plain '
               f'student and {_against(akd - metric["cwd"])} CWD, in {task.unit}.')


def _against(gain: float) -> str:
    if abs(gain) < 0.05:
        return 'level with'
    return f'{abs(gain):.1f} {"above" if gain > 0 else "below"}'


def write_report(runs: list[Run]) -> Path:
    """Draw the figures and write the report.

    Args:
        runs (list[Run]): The finished trainings.

    Returns:
        Path: The report.
    """
    table = io.StringIO()
    Console(file=table, width=200).print(make_table(runs, box.MARKDOWN))
    sections = []
    for task in TASKS:
        student, akd = (next(run for run in runs if (run.task, run.role) == (task, role))
                        for role in ('student', 'akd-cwd'))
        figure = f'figure_{task.name}.png'
        draw_figure((student.cfg, student.checkpoint), (akd.cfg, akd.checkpoint), OUT / figure)
        sections.append(f'## {task.name.capitalize()}\n\n![{task.name}]({figure})\n\n'
                        f'{caption(task.name)}\n')
    versions = ', '.join(f'{package.__name__} {package.__version__}'
                         for package in (torch, mmengine, mmcv, mmdet, mmseg))
    report = OUT / 'report.md'
    report.write_text(_REPORT.format(
        table=table.getvalue().strip(), comparison='\n'.join(compare(runs)),
        figures='\n'.join(sections),
        commands='\n'.join(f'python tools/train.py {run.config}' for run in runs),
        jobs=JOBS, threads=num_threads(), versions=versions, machine=platform.machine(),
        system=platform.system(), cores=os.cpu_count(), python=platform.python_version()))
    return report


if __name__ == '__main__':
    main()
