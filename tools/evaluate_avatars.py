"""Check a teacher alone: is the mean of its Avatars better than the teacher itself?

Predicts the validation set by the teacher, with its logits replaced by one Avatar, and by the mean
of K Avatars. Avatars are made at the tap (its output is perturbed) and upstream (the input of
--perturb-at is, and that module runs again), at several rates. An ensemble that is no better than
its teacher has nothing to teach. The student takes no part. For tasks that tap logits only:
conv_seg of a segmentor, the classification layer of a dense detector.
"""
from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mmcv
import mmdet
import mmengine
import mmseg
import torch
from mmengine.fileio import dump
from mmengine.logging import MMLogger
from rich import box
from rich.console import Console
from rich.table import Table

import mmakd
from avatar_scores.evaluation import Subject, build_subject, evaluate
from mmakd.hooks.teacher_eval_hook import main_metric
from mmakd.utils.checkpoint import trust
from mmakd.utils.cli import add_cfg_options, add_trust, config_errors_as_messages
from mmakd.utils.config_file import read_config
from mmakd.utils.errors import ConfigError
from mmakd.utils.rng import seed_rng

_EPILOG = """\
columns:
  mIoU or AP  of the config's val_evaluator, the metric with which TeacherEvalHook rates a teacher.
  NLL         mean negative log-likelihood, lower is better. Segmentation: of the labels, by the
              softmax over classes, at the size of the label map, pixels with the ignore index left
              out. Detection: log loss of the scores of all detections; one is right if it overlaps
              a box of its class with IoU >= 0.5 that no detection with a higher score has taken.
              Wrong ones inside ignored boxes, and boxes that are not found, do not count here, but
              in AP.
  ECE         expected calibration error, lower is better: mean |accuracy - confidence| over 20
              bins of the confidence, weighted by their numbers of pixels or detections.

exit status: 0, or 1 with a message if the config is wrong, 2 for a wrong command line.

examples:
  python tools/evaluate_avatars.py configs/seg/toy/akd-cwd_pspnet_shapes.py
  python tools/evaluate_avatars.py configs/det/toy/akd-cwd_retinanet_shapes.py \\
      --cfg-options model.distill.fpn.tap=bbox_head.retina_cls"""


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, epilog=_EPILOG,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='path of a config whose model is an AvatarDistiller')
    parser.add_argument('checkpoint', nargs='?', metavar='CKPT',
                        help="path or address of the teacher's checkpoint (default: the config's)")
    parser.add_argument('--task', help='which task, if several tap logits')
    parser.add_argument('--rates', type=float, nargs='+', default=[0.05, 0.1, 0.3],
                        metavar='RATE', help="drop_rate or std of the task's perturbation "
                        '(default: 0.05 0.1 0.3)')
    parser.add_argument('--num-avatars', type=int, default=8, metavar='K',
                        help='Avatars in the mean, at least 2 (default: %(default)s)')
    parser.add_argument('--perturb-at', metavar='MODULE',
                        help="the teacher's module whose input is perturbed upstream: the tap or "
                        "a module around it (default: the task's perturb_at, or else the tap)")
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu',
                        help='where to run (default here: %(default)s)')
    parser.add_argument('--seed', type=int, default=0,
                        help='seed of the Avatars (default: %(default)s)')
    parser.add_argument('--out', metavar='FILE.json', help='write the results, with all metrics')
    add_cfg_options(parser)
    add_trust(parser)
    args = parser.parse_intermixed_args(argv)  # CKPT may come behind an option
    if args.num_avatars < 2:
        parser.error('--num-avatars must be at least 2')
    if args.seed < 0:
        parser.error('--seed must not be negative')
    if args.out and not args.out.endswith('.json'):
        parser.error(f'--out={args.out!r}: must end in .json')
    args.rates = list(dict.fromkeys(args.rates))
    return args


def check_rates(subject: Subject, rates: list[float]) -> None:
    """Check the rates against the task's perturbation."""
    most = 1 if subject.rate_key == 'drop_rate' else float('inf')
    for rate in rates:
        if not 0 <= rate < most:
            raise ConfigError(f'--rates={rate}: {subject.rate_key} of '
                              f'{type(subject.perturbation).__name__} must be in [0, {most}); '
                              'give e.g. 0.1')


def make_table(results: dict[str, Any]) -> Table:
    """Make the table, a row for each way to predict."""
    rows, metric = results['rows'], results['main_metric']
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column('prediction')
    table.add_column('perturbed')
    for name in results['rate'], metric or 'metric', 'NLL', 'ECE':
        table.add_column(name, justify='right')
    for row in rows:
        number = row['num_avatars']
        name = {0: 'teacher', 1: 'one Avatar'}.get(number, f'mean of {number} Avatars')
        values = (row['metrics'].get(metric), 'g'), (row['nll'], '.4f'), (row['ece'], '.4f')
        table.add_row(name, row['perturbed'], '' if row['rate'] is None else f'{row["rate"]:g}',
                      *('-' if value is None else f'{value:{form}}' for value, form in values))
    return table


def compare(results: dict[str, Any]) -> str:
    """Say in how many cases the mean of the Avatars is better than the teacher."""
    teacher, *others = results['rows']
    ensembles = [row for row in others if row['num_avatars'] > 1]
    metric = results['main_metric']
    found = []
    for name, read, sign in ((metric, lambda row: row['metrics'].get(metric), 1),
                             ('NLL', lambda row: row['nll'], -1),
                             ('ECE', lambda row: row['ece'], -1)):
        own = read(teacher)
        if own is not None:
            better = sum(read(row) is not None and sign * (read(row) - own) > 0
                         for row in ensembles)
            found.append(f'{better} in {name}')
    return (f'Of {len(ensembles)} means of {ensembles[0]["num_avatars"]} Avatars are better than '
            f'the teacher: {", ".join(found) or "none can be compared"}.')


def main(argv: Sequence[str] | None = None) -> None:
    """Evaluate what the command line names, and print a table.

    Args:
        argv (Sequence[str], optional): The command line. Defaults to None, the process's.
    """
    args = parse_args(argv)
    MMLogger.get_current_instance().setLevel('WARNING')
    for path in args.trust:
        trust(path)
    cfg = read_config(args.config, args.cfg_options)
    seed_rng(args.seed)
    subject = build_subject(cfg, args.checkpoint, args.task, args.perturb_at)
    check_rates(subject, args.rates)
    rows = evaluate(cfg, subject, args.rates, args.num_avatars, args.device, args.seed)
    versions = {package.__name__: package.__version__
                for package in (mmakd, torch, mmengine, mmcv, mmdet, mmseg)}
    results = dict(
        config=Path(args.config).name, cfg_options=args.cfg_options,
        checkpoint=subject.teacher.checkpoint, task=subject.task, tap=subject.pair.teacher,
        perturb_at=subject.pair.perturb_at, perturbation=repr(subject.perturbation),
        rate=subject.rate_key, seed=args.seed, device=args.device, versions=versions,
        main_metric=main_metric(rows[0]['metrics']), rows=rows)
    console = Console(highlight=False, markup=False, emoji=False)
    for name, value in (
            ('config', f'{results["config"]}, task {subject.task}'),
            ('teacher', results['checkpoint'] or 'random weights, model.teacher_ckpt=None'),
            ('perturbation', type(subject.perturbation).__name__),
            ('tap', f'output of {subject.pair.teacher}'),
            ('upstream', f'input of {subject.pair.perturb_at}')):
        console.print(f'{name:13}{value}', soft_wrap=True)
    console.print(make_table(results))
    console.print(compare(results), soft_wrap=True)
    if args.out:
        Path(args.out).parent.mkdir(parents=True, exist_ok=True)
        dump(results, args.out, indent=1)
        console.print(args.out, soft_wrap=True)


if __name__ == '__main__':
    with config_errors_as_messages():
        main()
