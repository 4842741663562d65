"""Helpers of the command line tools."""

import argparse
import os
import re
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmengine.config import Config, DictAction
from mmengine.dist import is_distributed
from mmengine.registry import RUNNERS
from mmengine.runner import Runner, find_latest_checkpoint

from .checkpoint import read_checkpoints_safely, read_state_dict, trust
from .config_file import read_config
from .dist import local_rank, same_on_all_ranks, start_gloo_without_accelerator, take_place
from .errors import ConfigError
from .state_dict import OWN_KEYS, describe_mismatch, rename_keys


def make_parser(description: str) -> argparse.ArgumentParser:
    """Make a parser with the common arguments of MMDetection's training and testing."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument('config', help='path of the config')
    parser.add_argument('--work-dir', help='where logs and results go, '
                        'work_dirs/<name of the config> where the config does not say either')
    add_cfg_options(parser)
    add_trust(parser)
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'],
                        default='none', help='what started the processes')
    # The launchers pass either spelling, depending on the version of torch.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0,
                        help=argparse.SUPPRESS)
    return parser


def add_cfg_options(parser: argparse.ArgumentParser) -> None:
    """Add the argument ``--cfg-options``, which overrides settings of the config."""
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE',
                        help='settings to override, as in train_dataloader.batch_size=4; '
                        'a list is written KEY="[a,b]", without white space')


def add_trust(parser: argparse.ArgumentParser) -> None:
    """Add the argument ``--trust``, for :func:`mmakd.utils.checkpoint.trust`."""
    parser.add_argument('--trust', nargs='+', default=[], metavar='FILE',
                        help='checkpoints that may hold more than weights; reading one runs '
                        'whatever code is in it')


def load_config(args: argparse.Namespace) -> Config:
    """Read the config and apply the arguments of :func:`make_parser`.

    Raises:
        ConfigError: If the config cannot be read.
    """
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    take_place(args.launcher)
    cfg = read_config(args.config, args.cfg_options)
    cfg.launcher = args.launcher
    for path in args.trust:
        trust(path)
    cfg.work_dir = args.work_dir or cfg.get('work_dir') or f'work_dirs/{Path(args.config).stem}'
    return cfg


def build_runner(cfg: Config, partial: bool = False) -> Runner:
    """Build the Runner, on any number of processes, with or without CUDA.

    ``load_from`` is checked, since MMEngine loads any matching part of any checkpoint, and runs
    code in the file.

    Args:
        cfg (Config): The config.
        partial (bool): Whether ``load_from`` may match in part, as when a training starts from
            other weights. Defaults to False.

    Raises:
        ConfigError: If ``load_from`` is missing, damaged, unsafe or of another model.
    """
    start_gloo_without_accelerator(cfg)
    read_checkpoints_safely(cfg.get('load_from'))
    runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    if cfg.get('load_from'):
        # Not before the Runner has started the process group: one rank fetches it for the others.
        state_dict = read_state_dict(cfg.load_from, f'load_from={cfg.load_from!r}')
        with same_on_all_ranks():
            # Of several processes, or of test-time augmentation.
            model = getattr(runner.model, 'module', runner.model)
            rename_keys(model, state_dict)
            # A plain student's checkpoint in the distiller's config, and the other way round.
            both = all(any(name.startswith('peers.') for name in weights)
                       for weights in (model.state_dict(), state_dict))
            problem = describe_mismatch(model, state_dict,
                                        ignored=('distiller.', ) if both else OWN_KEYS)
            if partial and problem:
                own = model.state_dict()
                # BatchNorm adds its counters to old files itself.
                fits = any(name in own and own[name].shape == value.shape
                           for name, value in state_dict.items()
                           if not name.endswith('num_batches_tracked'))
                problem = '' if fits else ("none of its weights has the name and the shape of the "
                                           "model's")
            if problem:
                raise ConfigError(f'load_from={cfg.load_from!r}: does not fit the model: '
                                  f'{problem}; name a checkpoint of this config')
    return runner


def last_checkpoint(work_dir: str) -> str | None:
    """Find the newest complete checkpoint of a work directory.

    A training that is killed while saving leaves a truncated file, or a ``last_checkpoint`` that
    names a deleted one; both are skipped.
    """
    saved = [p for p in Path(work_dir).glob('*.pth') if re.fullmatch(r'(epoch|iter)_\d+', p.stem)]
    saved.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    candidates = [find_latest_checkpoint(work_dir) or '', *map(str, saved)]
    # A checkpoint is a zip archive, whose index is written last.
    return next((path for path in candidates if zipfile.is_zipfile(path)), None)


@contextmanager
def config_errors_as_messages() -> Iterator[None]:
    """On a :class:`ConfigError` in the block, exit with the message alone and status 1.

    If all processes raise it, one on each machine prints it; otherwise the one that raises it.
    """
    try:
        yield
    except ConfigError as error:
        # Without a process group the config is still being read, the same on all of a machine.
        is_shared = error.on_all_ranks or not is_distributed()
        sys.exit(1 if is_shared and local_rank() != 0 else f'error: {error}')
