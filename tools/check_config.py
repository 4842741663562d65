"""Check a config before any training: models, taps, losses, data set-up, hooks and schedule.

Prints student and teacher, every level that is compared, adapters and their parameters, how images
and classes match, the batch and what distillation will cost; then all problems at once, with the
nearest valid names. Nothing is trained and no image is read.
"""
from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from rich.console import Console

from mmakd.checks import Inspection, inspect_config, print_report
from mmakd.utils.cli import add_cfg_options
from mmakd.utils.config_file import read_config
from mmakd.utils.errors import ConfigError, ConfigProblems

_EPILOG = """\
exit status: 0 without problems, 1 with problems, 2 for a wrong command line. Warnings, such as
data that is not on this machine, change nothing.

example:
  python tools/check_config.py configs/det/toy/akd-cwd_retinanet_shapes.py --no-download \\
      --cfg-options model.distill.fpn.tap=nek"""


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, epilog=_EPILOG,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='path of the config')
    parser.add_argument('--no-download', action='store_true',
                        help="do not fetch the teacher's checkpoint; one that is on this machine "
                        'already is checked all the same')
    parser.add_argument('--gpus', type=int, metavar='N',
                        help='number of processes that the training is meant for: warn where its '
                        'batch is not the one that the learning rate is meant for')
    add_cfg_options(parser)
    args = parser.parse_args(argv)
    if args.gpus is not None and args.gpus < 1:
        parser.error('--gpus must be positive')
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Check a config and print the report.

    Args:
        argv (Sequence[str], optional): The command line. Defaults to None, the process's.

    Returns:
        int: The exit status.
    """
    args = parse_args(argv)
    try:
        cfg = read_config(args.config, args.cfg_options)
    except ConfigError as error:
        found = Inspection(ConfigProblems())
        found.problems.problems += error.problems
    else:
        found = inspect_config(cfg, not args.no_download, args.gpus)
    print_report(found, Console(highlight=False, markup=False, emoji=False))
    return 1 if found.problems.problems else 0


if __name__ == '__main__':
    sys.exit(main())
