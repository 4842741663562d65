"""Make the text of all files from the command line."""
from __future__ import annotations

import argparse
import os.path
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmakd.checks.classes import find_class_numbers
from mmakd.checks.parts import quiet
from mmakd.distillers.assembly import find_teacher_ckpt
from mmakd.utils.errors import ConfigError, ConfigProblems
from mmakd.utils.references import is_reference

from .coco import read_coco
from .files import write_base, write_distiller, write_whole
from .label_maps import read_label_maps
from .methods import AKD, find_settings
from .networks import Side, seen_from_here
from .own_data import Names, OwnData, learns_masks, set_data
from .taps import choose_tap


@dataclass
class Plan:
    """What is to be written.

    Attributes:
        files (dict[str, str]): Text by name.
        distilled (list[str]): The names of the distillers' configs, that of the method first.
        facts (list[str]): What was found and decided, to be printed.
        steps (list[str]): What to do next, to be printed.
    """

    files: dict[str, str]
    distilled: list[str]
    facts: list[str]
    steps: list[str]


def make_plan(args: argparse.Namespace) -> Plan:
    """Choose the task, and make the text of all files.

    Args:
        args (argparse.Namespace): The arguments of tools/make_config.py.

    Raises:
        ConfigError: With all that is wrong.
    """
    problems = ConfigProblems()
    sides = []
    for option, name in ('STUDENT', args.student), ('TEACHER', args.teacher):
        with problems.under(''):
            sides.append(Side(option, name))
    with problems.under(''):
        settings = find_settings(args.method)
    problems.raise_if_any()
    student, teacher = sides
    data = None
    with problems.under(''):
        ckpt = _find_weights(teacher, args.teacher_ckpt)
    with problems.under(''):
        if args.data is not None:
            data = _read_data(args, student)
            set_data(student.cfg, data)
    problems.raise_if_any()
    networks = [side.build() for side in sides]
    numbers = sorted(set(find_class_numbers(networks[1]).values()))
    # The weights of a reference are for the classes of its own data.
    is_foreign = data is not None and (is_reference(args.teacher)
                                       or numbers != [len(data.classes)])
    with quiet():
        choice = choose_tap(networks[0], networks[1], settings, args.tap,
                            use_logits=not is_foreign)
    facts = [*(data.facts if data else ()),
             *(f'not compared: {reason}' for reason in choice.refused)]

    names = {what: f'{args.out.stem}_{what}.py' for what in ('base', 'student', 'teacher')}
    plain, notes, others = os.path.relpath(student.path, args.out.parent), [], {}
    if data or not student.can_be_base:
        plain = names['student']
        others[plain] = write_whole(student, data)
    if data and is_foreign:
        notes = [f'Its classes ({" and ".join(map(str, numbers)) or "unknown"}) are not the '
                 f'{len(data.classes)} of {data.root.as_posix()}: its features can',
                 'be compared, its class scores cannot.']
        try:
            # It may need more than the student, such as masks.
            set_data(teacher.cfg, _read_data(args, teacher))
            others[names['teacher']] = write_whole(teacher, data)
        except ConfigError as error:
            facts.append(f'not written: {names["teacher"]}, for the teacher: {error}')
    files = {args.out.name: write_distiller(
        plain, student.cfg, args.method, teacher.name, ckpt, notes, choice)}
    if args.method.startswith(AKD):
        files[names['base']] = write_base(args.out.name, choice)
    steps = _training_steps(args.out, student, plain, list(files))
    if names['teacher'] in others:
        steps += _teacher_steps(args.out.with_name(names['teacher']), teacher, ckpt)
    return Plan({**files, **others}, list(files), facts, steps)


def _read_data(args: argparse.Namespace, side: Side) -> OwnData:
    """Read the folder that ``--data`` names, as the student or the teacher needs it."""
    root = Path(seen_from_here(args.data))
    if not root.is_dir():
        raise ConfigError(f'--data={str(root)!r}: no such folder')
    places = {split: Names(getattr(args, f'{split}_images'), getattr(args, f'{split}_annotations'))
              for split in ('train', 'val')}
    if side.cfg.get('default_scope') == 'mmseg':
        return read_label_maps(root, places, args.classes, args.map_suffix)
    if args.map_suffix:
        raise ConfigError(f'--map-suffix={args.map_suffix!r}: is for label maps, which a detector '
                          'does not read; leave it out')
    return read_coco(root, places, args.classes, learns_masks(side.cfg))


def _find_weights(teacher: Side, given: str | None) -> str | None:
    """Find ``teacher_ckpt``: what is given, or the published weights of a reference."""
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


def _training_steps(out: Path, student: Side, plain: str, distilled: Sequence[str]) -> list[str]:
    """Say how to train and test."""
    loop = student.cfg.get('train_cfg') or {}
    last = (f'iter_{loop["max_iters"]}' if loop.get('max_iters') else
            f'epoch_{loop.get("max_epochs", "N")}')
    own = os.path.normpath(out.parent / plain)
    return ['Train; for comparison also without Avatars, and the plain student:',
            *(f'  python tools/train.py {out.parent / name}' for name in distilled),
            f'  python tools/train.py {own}',
            'Test as the plain student:',
            f'  python tools/test.py {own} work_dirs/{out.stem}/{last}.pth']


def _teacher_steps(own: Path, teacher: Side, ckpt: str | None) -> list[str]:
    """Say how to train the teacher on the data."""
    weights = find_teacher_ckpt(teacher.name, 'auto') if ckpt == 'auto' else ckpt
    start = f' --cfg-options load_from={weights}' if weights else ''
    return ['The teacher has never seen your classes. It teaches more if you first train it:',
            f'  python tools/train.py {own}{start}',
            f'then make the config again, with {own} as TEACHER and its checkpoint in '
            '--teacher-ckpt.']
