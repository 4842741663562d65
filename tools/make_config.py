"""Write the config of a distillation from a student and a teacher.

Looks at both networks, chooses where to compare them, and writes beside one another:

    my_akd.py          the student learns from the teacher, with Avatars
    my_akd_base.py     its child without Avatars, to compare with
    my_akd_student.py  the plain student's config, as text: where STUDENT is a reference, so that
                       the files work on any machine, or where --data changes it
    my_akd_teacher.py  the teacher's config with your classes: where --data gives it others

Data, schedule and hooks stay those of the student. The teacher is compared at the neck of two
detectors, at the logits of two segmentors that know the same classes, and else at the deepest
stage of the backbone; levels of equal size are chosen, and adapters are added. Then the written
configs are checked as tools/check_config.py does.
"""
from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.model import BaseModel
from rich.console import Console

from config_making.coco import read_coco
from config_making.files import write_base, write_distiller, write_student
from config_making.label_maps import read_label_maps
from config_making.methods import AKD, METHODS, find_settings
from config_making.own_data import Names, OwnData, learns_masks, set_data
from config_making.taps import choose_tap
from mmakd.checks import inspect_config, print_report
from mmakd.checks.classes import find_class_numbers
from mmakd.checks.parts import quiet
from mmakd.distillers.assembly import build_network, find_teacher_ckpt
from mmakd.utils.cli import config_errors_as_messages
from mmakd.utils.config_file import read_config
from mmakd.utils.errors import ConfigError, ConfigProblems
from mmakd.utils.references import find_config, is_reference

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


class Side:
    """The student or the teacher.

    Args:
        option (str): Its name on the command line.
        name (str): Reference or path.

    Attributes:
        cfg (Config): Its config, which may be changed.
    """

    def __init__(self, option: str, name: str) -> None:
        self.option = option
        self.name = name if is_reference(name) else _here(Path(name))
        problems = ConfigProblems()
        with problems.under(f'{option}={name!r}: '):
            self.path = find_config(self.name)
            self.cfg = read_config(self.path)
            self.is_lazy = 'read_base' in self.path.read_text()
        if not problems.problems:
            model = self.cfg.get('model')
            if not isinstance(model, dict) or 'distill' in model:
                problems.add(f'{option}={name!r}: defines no plain model; give the config of a '
                             'detector or a segmentor, without distillation')
        if problems.problems:
            raise ConfigError([text.replace(': .', ': ') for text in problems.problems])

    def build(self) -> BaseModel:
        """Build the network, with random weights."""
        problems = ConfigProblems()
        with problems.under(f'{self.option}={self.name!r}'), quiet():
            return build_network(dict(self.cfg.model, _scope_=self.cfg.get('default_scope')),
                                 self.cfg.get('data_preprocessor'))
        raise ConfigError(problems.problems)


def read_data(args: argparse.Namespace, student: Side) -> OwnData:
    """Read the folder that ``--data`` names, as the student needs it."""
    root = Path(_here(args.data))
    if not root.is_dir():
        raise ConfigError(f'--data={str(root)!r}: no such folder')
    places = {split: Names(getattr(args, f'{split}_images'), getattr(args, f'{split}_annotations'))
              for split in ('train', 'val')}
    if student.cfg.get('default_scope') == 'mmseg':
        return read_label_maps(root, places, args.classes, args.map_suffix)
    if args.map_suffix:
        raise ConfigError('--map-suffix: is for label maps, and the student is a detector; leave '
                          'it out')
    return read_coco(root, places, args.classes, learns_masks(student.cfg))


def _here(path: Path) -> str:
    """Write a path as seen from the current directory, if it is in there."""
    absolute = path.absolute()
    return (absolute.relative_to(Path.cwd()) if absolute.is_relative_to(Path.cwd()) else
            path).as_posix()


def plan_files(args: argparse.Namespace, console: Console) -> tuple[dict[Path, str], list[str]]:
    """Make the text of all files, by path; and the commands to go on with."""
    problems = ConfigProblems()
    sides = {}
    for option in 'STUDENT', 'TEACHER':
        with problems.under(''):
            sides[option] = Side(option, getattr(args, option.lower()))
    with problems.under(''):
        settings = find_settings(args.method)
    problems.raise_if_any()
    student, teacher = sides.values()
    with problems.under(''):
        teacher_ckpt = _find_ckpt(teacher, args.teacher_ckpt)
    data = None
    with problems.under(''):
        data = read_data(args, student) if args.data else None
        if data:
            set_data(student.cfg, data)
    problems.raise_if_any()
    networks = [side.build() for side in (student, teacher)]
    numbers = set(find_class_numbers(networks[1]).values())
    is_foreign = data is not None and (is_reference(teacher.name)
                                       or not numbers <= {len(data.classes)})
    with quiet():
        choice = choose_tap(*networks, settings, args.tap, use_logits=not is_foreign)

    def beside(name: str) -> Path:
        return args.out.with_name(f'{args.out.stem}_{name}.py')

    files, notes = {}, []
    plain = student.path
    if is_reference(student.name) or data or student.is_lazy:
        plain = beside('student')
        files[plain] = write_student(student.cfg, _comment(student, data))
    if is_foreign and data:
        classes = '/'.join(map(str, sorted(numbers)))
        notes = [f'It was trained on other classes ({classes or "unknown"}) than the '
                 f'{len(data.classes)} of {data.root.as_posix()}:',
                 'its features can be compared, its class scores cannot.']
        set_data(teacher.cfg, data)
        files[beside('teacher')] = write_student(teacher.cfg, _comment(teacher, data))
    imports = student.cfg.get('custom_imports', {}).get('imports', [])
    files[args.out] = write_distiller(
        os.path.relpath(plain, args.out.parent), [imports] if isinstance(imports, str) else imports,
        args.method, teacher.name, teacher_ckpt, notes, choice,
        clips=bool(student.cfg.get('optim_wrapper', {}).get('clip_grad')))
    if args.method.startswith(AKD):
        files[beside('base')] = write_base(args.out.name, choice)
    for fact in data.facts if data else ():
        console.print(fact, soft_wrap=True)
    if data:
        console.print(f'{len(data.classes)} classes: {", ".join(data.classes)}', soft_wrap=True)
    return files, _commands(args, plain, student.cfg, teacher_ckpt, beside('teacher'), files)


def _find_ckpt(teacher: Side, given: str | None) -> str | None:
    if given is not None:
        return None if given == 'none' else given
    if not is_reference(teacher.name):
        raise ConfigError('--teacher-ckpt: missing; a config of your own has no published '
                          "weights; give the teacher's checkpoint, or none for random weights")
    problems = ConfigProblems()
    with problems.under('--teacher-ckpt'):
        find_teacher_ckpt(teacher.name, 'auto')
    problems.raise_if_any()
    return 'auto'


def _comment(side: Side, data: OwnData | None) -> str:
    return (f'{side.name} with all that it inherits'
            + (f', and the data of {data.root.as_posix()}.' if data else '.'))


def _commands(args: argparse.Namespace, plain: Path, cfg: Config, teacher_ckpt: str | None,
              own_teacher: Path, files: dict[Path, str]) -> list[str]:
    """List what to do next."""
    loop: Any = cfg.get('train_cfg') or {}
    last = (f'iter_{loop.max_iters}' if loop.get('max_iters') else
            f'epoch_{loop.get("max_epochs", "N")}')
    lines = ['Train, then test as the plain student:',
             *(f'  python tools/train.py {path.as_posix()}' for path in files
               if path in (args.out, args.out.with_name(f'{args.out.stem}_base.py'))),
             f'  python tools/train.py {plain.as_posix()}',
             f'  python tools/test.py {plain.as_posix()} work_dirs/{args.out.stem}/{last}.pth']
    if own_teacher in files:
        start = (find_teacher_ckpt(args.teacher, 'auto') if teacher_ckpt == 'auto' else
                 teacher_ckpt)
        from_there = f' --cfg-options load_from={start}' if start else ''
        lines += ['', 'The teacher was trained on other classes. It teaches more after a training '
                  'on your data:',
                  f'  python tools/train.py {own_teacher.as_posix()}{from_there}',
                  f'then make the config again with TEACHER={own_teacher.as_posix()} and '
                  f'--teacher-ckpt work_dirs/{own_teacher.stem}/....pth']
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    """Write the configs, check them, and print what to do next.

    Args:
        argv (Sequence[str], optional): The command line. Defaults to None, the process's.

    Returns:
        int: The exit status.
    """
    args = parse_args(argv)
    console = Console(highlight=False, markup=False, emoji=False)
    files, commands = plan_files(args, console)
    there = [path.as_posix() for path in files if path.exists()]
    if there and not args.force:
        raise ConfigError(f'-o {args.out}: {", ".join(there)} already there; give another name, '
                          'or --force to replace')
    args.out.parent.mkdir(parents=True, exist_ok=True)
    for path, text in files.items():
        path.write_text(text)
        console.print(f'written: {path.as_posix()}', soft_wrap=True)
    status = 0
    for path in files:
        if 'AvatarDistiller' not in files[path] and path.stem != f'{args.out.stem}_base':
            continue
        console.print(f'\n{path.as_posix()}:', style='bold')
        found = inspect_config(read_config(path), download=False)
        print_report(found, console)
        status |= bool(found.problems.problems)
    console.print('\n' + '\n'.join(commands), soft_wrap=True)
    return status


if __name__ == '__main__':
    with config_errors_as_messages():
        sys.exit(main())
