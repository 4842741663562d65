"""Does it help? A controlled comparison on drawn shapes and on digits, that anyone can repeat.

`run` trains what is missing: arms x seeds, each a cell of about a minute on one core. It first
trains the teachers, and searches for the temperature and the weight of each base criterion. A
finished cell never runs again, and a killed one goes on from its last checkpoint. Start the same
command as often as there are cores: no cell is trained twice. `why` trains the headline pair once
more, and measures what explains its result. `report` writes the page of results from what is
finished, without training. docs/study.md is the protocol.
"""
from __future__ import annotations

import argparse
import os
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

# A cell is meant for one core; read when torch is imported.
os.environ.setdefault('OMP_NUM_THREADS', '1')

from mmakd.utils.cli import config_errors_as_messages
from mmakd.utils.errors import ConfigError, suggest
from trials.arms import ARMS
from trials.cells import Place
from trials.evidence import Evidence
from trials.explanation import PAIR, Explanations
from trials.plan import Plan, list_items
from trials.report import write_report
from trials.results import WHY, Results
from trials.schedule import train_all
from trials.tasks import DATA, TASKS

_EPILOG = """\
arms:
{arms}

examples:
  python tools/make_shapes.py && python tools/make_shapes.py --data digits
  python tools/study.py run                              # screening, five seeds
  python tools/study.py run --arms plain cwd akd-cwd --seeds 1000-1019
  python tools/study.py run --shard 1/4 --device cuda    # the first of four GPUs
  python tools/study.py why                              # where the setting of cwd is chosen
  python tools/study.py report"""


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=_EPILOG.format(arms='\n'.join(f'  {name:18}{arm.title}'
                                             for name, arm in ARMS.items())))
    commands = parser.add_subparsers(dest='command', required=True)
    run = commands.add_parser('run', help='train what is missing')
    tune = commands.add_parser('tune', help='only search for the settings of the arms')
    why = commands.add_parser('why', help=f'train {" and ".join(PAIR)} once more, and measure')
    for command in run, tune:
        command.add_argument('--arms', nargs='+', default=list(ARMS), metavar='ARM',
                             help='which (default: all)')
    why.set_defaults(arms=PAIR)
    for command in run, tune, why:
        command.add_argument('--task', nargs='+', choices=list(TASKS), default=list(TASKS),
                             help='detection, segmentation (default: both)')
        command.add_argument('--data', nargs='+', choices=list(DATA), default=list(DATA),
                             help='data sets (default: both)')
        command.add_argument('--data-root', type=Path, default=Path('data'),
                             help='their folder (default: %(default)s)')
        command.add_argument('--work-dir', type=Path, default=Path('work_dirs/study'),
                             help='folder of trainings in progress '
                             '(default: %(default)s)')
        command.add_argument('--device', choices=['cpu', 'cuda'], default='cpu',
                             help='cuda: the first one of CUDA_VISIBLE_DEVICES '
                             '(default: %(default)s)')
        command.add_argument('--iters', type=int, metavar='N',
                             help='rehearse with so many iterations a training, with --out and '
                             '--work-dir elsewhere')
    for command, seeds, text in (run, range(5), '0-4'), (why, range(1), '0'):
        command.add_argument('--seeds', type=parse_seeds, nargs='+', default=[seeds], metavar='N',
                             help=f'numbers and ranges such as 1000-1019 (default: {text})')
    run.add_argument('--shard', type=parse_shard, default=(1, 1), metavar='I/N',
                     help='part I of N, for machines that share no files')
    report = commands.add_parser('report', help='write the page of results')
    for command in run, tune, why, report:
        command.add_argument('--out', type=Path, default=Path('docs/study'),
                             help='folder of the results and of the teachers '
                             '(default: %(default)s)')
    args = parser.parse_args(argv)
    if args.command != 'report' and args.iters is not None and args.iters < 1:
        parser.error('--iters must be at least 1')
    return args


def parse_seeds(text: str) -> range:
    """Read a number, or a range that includes its end."""
    match = re.fullmatch(r'(\d+)(?:-(\d+))?', text)
    if match is None or int(match[2] or match[1]) < int(match[1]):
        raise argparse.ArgumentTypeError(f'{text!r}: give a number or a range such as 0-4')
    return range(int(match[1]), int(match[2] or match[1]) + 1)


def parse_shard(text: str) -> tuple[int, int]:
    """Read which part of how many."""
    match = re.fullmatch(r'(\d+)/(\d+)', text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise argparse.ArgumentTypeError(f'{text!r}: give part and number, such as 1/4')
    return int(match[1]), int(match[2])


def check_arms(names: Sequence[str]) -> None:
    """Check names of arms."""
    for name in names:
        if name not in ARMS:
            raise ConfigError(f'--arms={name!r}: unknown arm; {suggest(name, ARMS)}')


def use_device(device: str) -> None:
    """Have trainings use a device."""
    if device == 'cpu':
        os.environ['CUDA_VISIBLE_DEVICES'] = ''
        return
    import torch
    # Unlike is_available, it starts nothing that a forked process could not use.
    if not torch.cuda.device_count():
        raise ConfigError("--device='cuda': no GPU is visible; check nvidia-smi and "
                          'CUDA_VISIBLE_DEVICES, or use cpu')


def main(argv: Sequence[str] | None = None) -> None:
    """Do what the command line says.

    Args:
        argv (Sequence[str], optional): The command line. Defaults to None, the process's.
    """
    args = parse_args(argv)
    console = Console(highlight=False, markup=False, emoji=False)
    results = Results(args.out)
    if args.command == 'report':
        write_report(Evidence(results), args.out)
        console.print(f'{args.out}: results.md and results.html are written', soft_wrap=True)
        return
    check_arms(args.arms)
    # As an interruption does, it ends the cell's process too.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    use_device(args.device)
    seeds = [None] if args.command == 'tune' else [seed for part in args.seeds for seed in part]
    items = list_items(args.arms, seeds, args.task, args.data)
    if args.command == 'run':
        part, number = args.shard
        items = items[part - 1::number]
    place = Place(args.data_root, args.work_dir, args.iters, args.out / 'teachers')
    if args.command == 'why':
        plan: Plan = Explanations(items, results._replace(files=WHY), place)
    else:
        plan = Plan(items, results, place)
    failed: list[object] = [*train_all(plan, console), *plan.unready()]
    if failed:
        raise SystemExit('\n'.join(f'error: {error}' for error in failed))
    console.print(f'{args.out}: all {len(items)} cells are there')


if __name__ == '__main__':
    with config_errors_as_messages():
        main()
