"""Prove on a machine with a GPU what no other machine can: agreement, trainings, memory, speed.

Runs its steps one after the other, each in a process of its own and in less than 8 minutes. A step
that has finished is not run again, so that the command goes on after an interruption. Results go
to DIR/<device>.json and, with --report, into a page. The exit status is 0 if all steps passed.
"""
import argparse
import subprocess
import sys
from datetime import date
from pathlib import Path

import torch
from mmengine.fileio import dump
from rich.console import Console

from benchmark.measure import describe_machine
from benchmark.report import check_report
from gpu_steps.all_steps import STEPS
from gpu_steps.page import print_table, read_results, update_page
from gpu_steps.step import NOT_RUN, PASSED, Setting, run_step
from mmakd.utils.cli import config_errors_as_messages
from mmakd.utils.errors import ConfigError


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='examples:\n  python tools/gpu_check.py\n'
        '  python tools/gpu_check.py --steps seg-speed --again\n'
        '  python tools/gpu_check.py --device cpu --quick      # a rehearsal')
    parser.add_argument('--device', choices=('cuda', 'cpu'), default='cuda',
                        help='cpu stands for cuda in a rehearsal (default: %(default)s)')
    parser.add_argument('--quick', action='store_true', help='the smallest sizes')
    parser.add_argument('--steps', nargs='+', choices=list(STEPS), default=list(STEPS),
                        metavar='STEP', help=f'of {", ".join(STEPS)} (default: all)')
    parser.add_argument('--again', action='store_true', help='also steps that have finished')
    parser.add_argument('--out', type=Path, default='work_dirs/gpu_check', metavar='DIR',
                        help='where results go (default: %(default)s)')
    parser.add_argument('--work-dir', type=Path, default='work_dirs/gpu_check', metavar='DIR',
                        help='where data, checkpoints and logs go (default: %(default)s)')
    parser.add_argument('--report', type=Path, metavar='FILE',
                        help='a Markdown file whose tables are made anew')
    return parser.parse_args()


def main() -> int:
    """Run the steps, and give the exit status."""
    args = parse_args()
    if args.device == 'cuda' and not torch.cuda.is_available():
        raise ConfigError('--device=cuda: torch finds no GPU here; run on a machine with one and '
                          'a torch for CUDA, or rehearse with --device cpu --quick')
    if args.report:
        check_report(args.report)
    console = Console(width=None if sys.stdout.isatty() else 140)
    setting = Setting(args.device, args.quick, args.work_dir.resolve() / (
        args.device + '-quick' * args.quick))
    results = read_results(args.out, args.device)
    args.out.mkdir(parents=True, exist_ok=True)
    commit = _commit()  # before results change the working tree
    for name in args.steps:
        if not args.again and _has_finished(results.get(name), args.quick):
            console.print(f'{name}: {results[name]["status"]} before', highlight=False)
            continue
        with console.status(name):
            result = run_step(STEPS[name], setting)
        results[name] = dict(
            result, quick=args.quick, machine=describe_machine(args.device),
            date=str(date.today()), commit=commit)
        console.print(f'{name}: {result["status"]}, {result["seconds"]:.0f} s', highlight=False)
        results = {key: results[key] for key in STEPS if key in results}
        dump(results, args.out / f'{args.device}.json', indent=1)
        if args.report:
            update_page(args.report, args.out)
    chosen = {name: results[name] for name in args.steps}
    print_table(chosen, console)
    return int(any(result['status'] != PASSED for result in chosen.values()))


def _has_finished(result: dict | None, quick: bool) -> bool:
    return result is not None and result['quick'] == quick and result['status'] != NOT_RUN


def _commit() -> str:
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(['git', '-C', str(root), 'describe', '--always', '--dirty'],
                          capture_output=True, text=True)
    return done.stdout.strip() or 'unknown'


if __name__ == '__main__':
    with config_errors_as_messages():
        sys.exit(main())
