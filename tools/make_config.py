"""Write the config of a distillation from a student and a teacher.

Looks at both networks, chooses where to compare them, and writes beside one another:

    my_akd.py          the student learns from the teacher, with Avatars
    my_akd_base.py     its child without Avatars, to compare with
    my_akd_student.py  the plain student's config, as text: where STUDENT is a reference, so that
                       the files work on any machine, or where --data changes it
    my_akd_teacher.py  the teacher's config with your classes: where --data gives it others

Data, schedule and hooks stay those of the student. The teacher is compared at the neck of two
detectors, at the logits of two segmentors that know the same classes, and else at the last
output of the backbone; levels of equal size are chosen, and adapters are added. Then the written
configs are checked as tools/check_config.py does.
"""
from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from config_making.methods import METHODS
from config_making.plan import Plan, make_plan
from mmakd.checks import inspect_config, print_report
from mmakd.utils.cli import config_errors_as_messages
from mmakd.utils.config_file import read_config
from mmakd.utils.errors import ConfigError

_EPILOG = """\
data of your own (--data DIR):
  a detector    DIR/annotations/*train*.json and *val*.json in COCO's format, images anywhere in
                DIR; classes are the categories of the file, or those of --classes
  a segmentor   DIR/img_dir/train, DIR/ann_dir/train and the same for val (or images and
                annotations, or leftImg8bit and gtFine); --classes names the labels from 0 on
  What is found twice, or not at all, is asked for by the option that names it.

exit status: 0, or 1 with a message if nothing can be written or a written config has problems, 2
for a wrong command line.

examples:
  python tools/make_config.py mmdet::retinanet/retinanet_r50_fpn_1x_coco.py \\
      mmdet::retinanet/retinanet_r101_fpn_2x_coco.py -o my_akd.py
  python tools/make_config.py my_student.py my_teacher.py --teacher-ckpt my_teacher.pth \\
      --method akd-mgd --tap backbone.layer4 -o my_akd.py
  python tools/make_config.py mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py \\
      mmdet::rtmdet/rtmdet_l_8xb32-300e_coco.py --data data/mine -o my_akd.py

MasKD needs tokens that are learned first: docs/configs.md."""


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, epilog=_EPILOG,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    model = "'mmdet::name.py', 'mmseg::name.py' or the path of a config"
    parser.add_argument('student', metavar='STUDENT', help=model)
    parser.add_argument('teacher', metavar='TEACHER', help='likewise')
    parser.add_argument('-o', '--out', type=Path, required=True, metavar='FILE.py',
                        help='the config to write; the others are written beside it')
    parser.add_argument('--method', default='akd-cwd', metavar='METHOD',
                        help=f'one of {", ".join(METHODS)}; akd- is with Avatars (default: '
                        '%(default)s)')
    parser.add_argument('--tap', nargs='+', metavar='MODULE',
                        help="where both are compared, as in backbone.layer4; or the student's "
                        "and the teacher's module")
    parser.add_argument('--teacher-ckpt', metavar='CKPT',
                        help="path or URL of the teacher's weights (default: the published ones "
                        'of a reference); none for random ones')
    parser.add_argument('--force', action='store_true', help='replace files that are there')
    data = parser.add_argument_group('data of your own')
    data.add_argument('--data', type=Path, metavar='DIR', help='see below')
    data.add_argument('--classes', nargs='+', metavar='NAME', help='their names')
    for split in 'train', 'val':
        data.add_argument(f'--{split}-images', metavar='DIR', help='a folder in --data')
        data.add_argument(f'--{split}-annotations', metavar='PATH',
                          help='a file, or the folder of the label maps, in --data')
    data.add_argument('--map-suffix', metavar='SUFFIX',
                      help='how the names of the label maps end, as in _labelTrainIds.png')
    args = parser.parse_args(argv)
    if args.out.suffix != '.py' or not args.out.stem.isidentifier():
        parser.error(f'-o {args.out}: must be a Python name and .py, as in my_akd.py')
    if args.tap and len(args.tap) > 2:
        parser.error("--tap takes one module, or the student's and the teacher's")
    given = [f'--{name.replace("_", "-")}' for name in (
        'classes', 'train_images', 'train_annotations', 'val_images', 'val_annotations',
        'map_suffix') if getattr(args, name) is not None]
    if given and args.data is None:
        parser.error(f'{given[0]} describes the folder that --data names; give both')
    return args


def write(plan: Plan, out: Path, force: bool) -> None:
    """Write the files of a plan.

    Raises:
        ConfigError: If one is there already.
    """
    there = [name for name in plan.files if (out.parent / name).exists()]
    if there and not force:
        raise ConfigError(f'-o {out}: {", ".join(there)} already there; give another name, or '
                          '--force to replace')
    out.parent.mkdir(parents=True, exist_ok=True)
    for name, text in plan.files.items():
        (out.parent / name).write_text(text)


def check(distilled: Sequence[Path], console: Console) -> int:
    """Check the written configs; of all but the first, print only what is new.

    Returns:
        int: The exit status.
    """
    first, *others = distilled
    found = inspect_config(read_config(first), download=False)
    print_report(found, console)
    told = found.problems.problems + found.problems.warnings
    status = 1 if found.problems.problems else 0
    for path in others:
        problems = inspect_config(read_config(path), download=False).problems
        new = [line for line in problems.problems + problems.warnings if line not in told]
        console.print('\n'.join([f'\n{path}: {"" if new else "nothing else."}', *new]),
                      soft_wrap=True)
        status |= 1 if problems.problems else 0
    return status


def main(argv: Sequence[str] | None = None) -> int:
    """Write the configs, check them, and print what to do next.

    Args:
        argv (Sequence[str], optional): The command line. Defaults to None, the process's.

    Returns:
        int: The exit status.
    """
    args = parse_args(argv)
    plan = make_plan(args)
    write(plan, args.out, args.force)
    console = Console(highlight=False, markup=False, emoji=False)
    for line in [*plan.facts, *(f'written: {args.out.parent / name}' for name in plan.files), '']:
        console.print(line, soft_wrap=True)
    status = check([args.out.parent / name for name in plan.distilled], console)
    for line in ['', *plan.steps]:
        console.print(line, soft_wrap=True)
    return status


if __name__ == '__main__':
    with config_errors_as_messages():
        sys.exit(main())
