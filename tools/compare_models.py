"""Compare a plain student with the AKD student on the validation set, on one HTML page.

The page has AP by size and class, or IoU by class and the confusion of classes; calibration; what
the models cost; and the images whose score changed most, for better and for worse, with what each
model predicts. It is one file that needs no other, so it opens from disk and can be mailed.
"""
from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import MMLogger
from mmengine.runner import Runner

from avatar_scores.evaluation import check_validation
from benchmark.measure import describe_machine
from comparison_page.models import ROUNDS, build_models, check_heads, measure_costs
from comparison_page.page import write_page
from comparison_page.scores import evaluate
from mmakd.checks.parts import quiet
from mmakd.utils.checkpoint import trust
from mmakd.utils.cli import add_cfg_options, add_trust, config_errors_as_messages
from mmakd.utils.config_file import read_config
from mmakd.utils.errors import ConfigError, ConfigProblems

_EPILOG = """\
Scores are those of CocoMetric or IoUMetric in the config's val_evaluator, calibration is that of
DetECE or SegECE. Any two checkpoints of one student can be compared, such as those of two methods.

exit status: 0, or 1 with a message if config, checkpoint or output is wrong, 2 for a wrong command
line.

example:
  python tools/compare_models.py configs/det/toy/akd-cwd_retinanet_shapes.py \\
      work_dirs/student_retinanet_shapes/epoch_4.pth \\
      work_dirs/akd-cwd_retinanet_shapes/epoch_4.pth --teacher --out retinanet.html"""
_SCORES = {'mmdet': ('comparison_page.detection', 'Detection'),
           'mmseg': ('comparison_page.segmentation', 'Segmentation')}


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, epilog=_EPILOG,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config of the distilled or of the plain student')
    parser.add_argument('student', metavar='STUDENT_CKPT',
                        help="path or address of the plain student's checkpoint")
    parser.add_argument('akd', metavar='AKD_CKPT', help="that of the AKD student's")
    parser.add_argument('--teacher', action='store_true',
                        help='add the teacher of the config, with the weights that it names')
    parser.add_argument('--out', default='comparison.html', metavar='FILE.html',
                        help='the page to write (default: %(default)s)')
    parser.add_argument('--force', action='store_true', help='replace a page that is there')
    parser.add_argument('--num-images', type=int, default=4, metavar='N',
                        help='show N images that gained and N that lost (default: %(default)s)')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu',
                        help='where to run (default here: %(default)s)')
    add_cfg_options(parser)
    add_trust(parser)
    args = parser.parse_args(argv)
    if args.num_images < 1:
        parser.error('--num-images must be positive')
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Compare what the command line names, and write the page.

    Args:
        argv (Sequence[str], optional): The command line. Defaults to None, the process's.
    """
    args = parse_args(argv)
    MMLogger.get_current_instance().setLevel('WARNING')
    for path in args.trust:
        trust(path)
    if Path(args.out).exists() and not args.force:
        raise ConfigError(f'--out={args.out!r}: exists; name another file, or replace it with '
                          '--force')
    cfg = read_config(args.config, args.cfg_options)
    scope, problems = cfg.get('default_scope'), ConfigProblems()
    check_validation(cfg, problems)
    if scope not in _SCORES:
        problems.add(f"default_scope={scope!r}: must be 'mmdet' or 'mmseg'")
    with quiet():
        built = build_models(cfg, args.student, args.akd, args.teacher, problems)
        problems.raise_if_any()
        dataloader: Any = Runner.build_dataloader(cfg.val_dataloader, seed=0)
    models = {name: model for name, (model, _) in built.items()}
    dataset = dataloader.dataset
    check_heads(models, dataset.metainfo)
    module, name = _SCORES[scope]
    of_task = getattr(import_module(module), name)
    scores = {name: of_task(cfg, dataset.metainfo) for name in models}
    costs = measure_costs(models, dataset, args.device)
    evaluate(models, scores, dataloader)
    with quiet():  # the visualizers warn of boxes that leave the image
        write_page(Path(args.out), models, scores, dataset, args.num_images,
                   config=Path(args.config).stem, rounds=ROUNDS, costs=costs,
                   machine=describe_machine(args.device),
                   checkpoints={name: checkpoint for name, (_, checkpoint) in built.items()})
    print(args.out)


if __name__ == '__main__':
    with config_errors_as_messages():
        main()
