"""Draw the curves of trainings over each other: metric, losses, sigma, distance, time.

Reads what MMEngine's local backend writes, WORK_DIR/*/vis_data/scalars.json; a training that was
resumed, and has several, is one curve. Which curves there are depends on the config:
PerturbationHook logs sigma and the perturbation's strength, DistillationLogHook the share of
distillation in the loss, the distance to the teacher and its time, TeacherEvalHook the teacher's
metric, DistillationBalanceHook the share in the gradient.
"""
from __future__ import annotations

import argparse
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from rich.console import Console

from mmakd.hooks.teacher_eval_hook import main_metric
from mmakd.utils.cli import config_errors_as_messages
from mmakd.utils.errors import ConfigError, ConfigProblems, suggest

_EPILOG = """\
exit status: 0; 1 with a message if a folder has no logs; 2 for a wrong command line.

examples:
  python tools/plot_log.py work_dirs/akd-cwd_pspnet_shapes
  python tools/plot_log.py work_dirs/cwd_pspnet_shapes work_dirs/akd-cwd_pspnet_shapes \\
      --student work_dirs/student_pspnet_shapes --out curves.png"""

# Panels in the order in which they are drawn: title, keys, unit.
_PANELS = (
    ('losses', r'(distill\.)?(\w+\.)?loss.*', ''),
    ('share of distillation in the loss', r'distill_share/.*', ''),
    ('share of distillation in the gradient', r'distill_balance/share', ''),
    ('weights of the tasks', r'(distill_weight/.*|distill_balance/weight)', ''),
    ("distance of the student's maps to the teacher's", r'distance/.*', 'relative'),
    ('sigma: mean, least and largest channel', r'sigma(_min|_max)?/.*', ''),
    ('strength of the perturbation', r'perturbation_strength', ''),
    ('learning rate', r'lr', ''),
    ('time of an iteration', r'(time|data_time|time_.*)', 's'),
)
_DASHES = ('solid', 'dashed', 'dotted', 'dashdot')


class Curve(NamedTuple):
    """Values by step."""

    steps: list[int]
    values: list[float]


class Log(NamedTuple):
    """What a training has logged: curves by key, and in what its validations are counted."""

    name: str
    train: dict[str, Curve]
    val: dict[str, Curve]
    unit: str


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, epilog=_EPILOG,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('work_dir', nargs='+', help='work directories of trainings')
    parser.add_argument('--student', metavar='WORK_DIR',
                        help='training of the plain student: its last metric is a line')
    parser.add_argument('--teacher', metavar='WORK_DIR',
                        help='training of the teacher, likewise (default: the metric that '
                        'TeacherEvalHook has logged)')
    parser.add_argument('--metric', help='metric of the validation, e.g. mIoU or coco/bbox_mAP '
                        '(default: the first that the trainings share)')
    parser.add_argument('--keys', nargs='+', metavar='KEY',
                        help='draw only these scalars, e.g. loss distance/fpn')
    parser.add_argument('--out', default='curves.png', metavar='FILE',
                        help='picture to write; .png, .svg or .pdf (default: %(default)s)')
    return parser.parse_args(argv)


def read_log(work_dir: str) -> Log:
    """Read the scalars of a training, of all its runs.

    Raises:
        ConfigError: If there are none.
    """
    files = sorted(Path(work_dir).glob('*/vis_data/scalars.json'))
    train: dict[str, dict[int, float]] = defaultdict(dict)
    val: dict[str, dict[int, float]] = defaultdict(dict)
    unit = 'iteration'
    for file in files:
        for line in file.read_text().splitlines():
            try:
                scalars = json.loads(line)
            except ValueError:  # cut off by a kill
                continue
            if 'epoch' in scalars:
                unit = 'epoch'
            step = scalars.get('step', 0)
            for key, value in scalars.items():
                if key not in ('step', 'iter', 'epoch') and isinstance(value, (int, float)):
                    # Only lines of training have a learning rate. A later run replaces what an
                    # earlier one logged behind the checkpoint.
                    (train if 'lr' in scalars else val)[key][step] = value
    if not train and not val:
        what = 'no such folder' if not Path(work_dir).is_dir() else (
            'no */vis_data/scalars.json with scalars in it; name the folder of a training whose '
            "visualizer has a LocalVisBackend, as mmdet's and mmseg's runtimes have")
        raise ConfigError(f'WORK_DIR={work_dir!r}: {what}')
    return Log(Path(work_dir).name, _curves(train), _curves(val), unit)


def _curves(scalars: dict[str, dict[int, float]]) -> dict[str, Curve]:
    return {key: Curve(sorted(found), [found[step] for step in sorted(found)])
            for key, found in scalars.items()}


def find_metric(logs: Iterable[Log], wanted: str | None) -> str | None:
    """Find the metric of the validation that all trainings have logged."""
    every = [{key for key in log.val if not key.startswith('teacher')} for log in logs]
    shared = [key for key in dict.fromkeys(key for log in logs for key in log.val)
              if all(key in keys for keys in every)]
    if wanted is not None and wanted not in shared:
        raise ConfigError(f'--metric={wanted!r}: not logged by all trainings; '
                          f'{suggest(wanted, shared)}')
    return wanted or main_metric(shared) or next(
        (key for key in shared if not key.endswith('time')), None)


def draw_metric(ax: Axes, logs: Sequence[Log], metric: str, levels: dict[str, Log]) -> None:
    """Draw the metric of each training, and the last one of others as lines."""
    for log in logs:
        ax.plot(*log.val[metric], marker='o', label=log.name)
    heights = {name: log.val[metric].values[-1] for name, log in levels.items()
               if metric in log.val}
    if 'teacher' not in levels:
        heights.update({key.removesuffix(f'/{metric}'): curve.values[-1]
                        for log in logs for key, curve in log.val.items()
                        if key.startswith('teacher') and key.endswith(f'/{metric}')})
    for number, (name, height) in enumerate(heights.items()):
        ax.axhline(height, color='gray', linestyle=_DASHES[1 + number % 3],
                   label=f'{name}: {height:g}')
    ax.set(title=metric, xlabel=logs[0].unit)
    ax.set_xlim(left=0)
    ax.legend(fontsize='small')


def draw_panel(ax: Axes, title: str, logs: Sequence[Log], keys: Sequence[str], unit: str) -> None:
    """Draw the curves of a panel: a colour for each key, a dash pattern for each training."""
    colours = {key: f'C{number % 10}' for number, key in enumerate(dict.fromkeys(
        re.sub('^sigma_(min|max)/', 'sigma/', key) for key in keys))}
    for number, log in enumerate(logs):
        for key in keys:
            if key in log.train:
                name = re.sub('^sigma_(min|max)/', 'sigma/', key)
                is_bound = name != key
                label = f'{key}, {log.name}' if len(logs) > 1 else key
                ax.plot(*log.train[key], color=colours[name], alpha=0.4 if is_bound else 1,
                        linestyle=_DASHES[number % len(_DASHES)],
                        label='_' if is_bound else label)
    ax.set(title=title, xlabel='iteration', ylabel=unit)
    values = [value for log in logs for key in keys if key in log.train
              for value in log.train[key].values]
    if title == 'losses' and min(values) > 0:
        ax.set_yscale('log')
    else:
        ax.set_ylim(bottom=min(0, *values))
    ax.legend(fontsize='x-small')


def draw(logs: Sequence[Log], levels: dict[str, Log], metric: str | None,
         wanted: Sequence[str] | None) -> plt.Figure:
    """Draw all panels.

    Raises:
        ConfigError: If a wanted scalar was not logged.
    """
    known = list(dict.fromkeys(key for log in logs for key in log.train))
    problems = ConfigProblems()
    for key in wanted or ():
        if key not in known:
            problems.add(f'--keys={key!r}: no training has logged it; {suggest(key, known)}')
    problems.raise_if_any()
    panels = [(title, keys, unit) for title, pattern, unit in _PANELS
              if (keys := [key for key in wanted or known if re.fullmatch(pattern, key)])]
    drawn = {key for _, keys, _ in panels for key in keys}
    panels += [(key, [key], '') for key in wanted or () if key not in drawn]
    number = len(panels) + (metric is not None)
    columns = min(number, 2)
    rows = -(-number // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(6.5 * columns, 3.6 * rows),
                                squeeze=False, layout='constrained')
    places = iter(axes.flat)
    if metric is not None:
        draw_metric(next(places), logs, metric, levels)
    for ax, (title, keys, unit) in zip(places, panels):
        draw_panel(ax, title, logs, keys, unit)
    for ax in places:
        ax.axis('off')
    for ax in axes.flat:
        ax.spines[['top', 'right']].set_visible(False)
        ax.grid(alpha=0.3)
    return figure


def main(argv: Sequence[str] | None = None) -> None:
    """Draw what the command line names.

    Args:
        argv (Sequence[str], optional): The command line. Defaults to None, the process's.
    """
    args = parse_args(argv)
    problems = ConfigProblems()
    logs, levels = [], {}
    for work_dir in args.work_dir:
        with problems.under(''):
            logs.append(read_log(work_dir))
    for name, work_dir in ('plain student', args.student), ('teacher', args.teacher):
        if work_dir:
            with problems.under(''):
                levels[name] = read_log(work_dir)
    problems.raise_if_any()
    figure = draw(logs, levels, find_metric(logs, args.metric), args.keys)
    out = Path(args.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        figure.savefig(out, dpi=120)
    except ValueError as error:
        raise ConfigError(f'--out={args.out!r}: {error}') from error
    plt.close(figure)
    Console(highlight=False, markup=False, emoji=False).print(out, soft_wrap=True)


if __name__ == '__main__':
    with config_errors_as_messages():
        main()
