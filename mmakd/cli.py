"""What the command line tools share."""

import argparse
import os
import os.path as osp
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from mmengine.config import Config, DictAction
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from .config import ConfigError
from .dist import start_gloo_without_accelerator


def make_parser(description: str) -> argparse.ArgumentParser:
    """Make a parser with the arguments that MMDetection's training and testing have in common.

    Args:
        description (str): What the tool does.

    Returns:
        argparse.ArgumentParser: The parser, to which the tool adds its own arguments.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument('config', help='path of the config')
    parser.add_argument('--work-dir', help='where logs and results go, '
                        'work_dirs/<name of the config> where the config does not say either')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE',
                        help='settings to override, as in train_dataloader.batch_size=4; '
                        'a list is written KEY="[a,b]", without white space')
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'],
                        default='none', help='what started the processes')
    # The launchers pass either spelling, depending on the version of torch.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0,
                        help=argparse.SUPPRESS)
    return parser


def load_config(args: argparse.Namespace) -> Config:
    """Read the config and merge what the common arguments say.

    Args:
        args (argparse.Namespace): The arguments of a parser of :func:`make_parser`.

    Returns:
        Config: The config, with ``launcher`` and ``work_dir``.

    Raises:
        ConfigError: If the config file does not exist.
    """
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    if not osp.isfile(args.config):
        raise ConfigError(f'config={args.config!r}: no such file')
    cfg = Config.fromfile(args.config)
    cfg.launcher = args.launcher
    if args.cfg_options:
        cfg.merge_from_dict(args.cfg_options)
    if args.work_dir:
        cfg.work_dir = args.work_dir
    elif not cfg.get('work_dir'):
        cfg.work_dir = osp.join('work_dirs', osp.splitext(osp.basename(args.config))[0])
    return cfg


def build_runner(cfg: Config) -> Runner:
    """Build the Runner, on any number of processes, with or without CUDA.

    Args:
        cfg (Config): The config.

    Returns:
        Runner: The Runner, or what ``cfg.runner_type`` names.
    """
    start_gloo_without_accelerator(cfg)
    return RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)


@contextmanager
def config_errors_as_messages() -> Iterator[None]:
    """End the program with the message alone, and status 1, on a :class:`ConfigError`.

    Yields:
        None: The body is the program.
    """
    try:
        yield
    except ConfigError as error:
        sys.exit(f'error: {error}')
