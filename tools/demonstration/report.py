"""The results of the demo: a table, what AKD changed, and the report."""
import io
import os
import platform
from collections.abc import Iterator
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
from demonstration.runs import OUT, ROLES, TASKS, Run
from demonstration.training import JOBS, num_threads

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
