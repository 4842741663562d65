"""Train a detector or a segmentor, distilled or plain: the config's default_scope decides."""

import argparse
from pathlib import Path

from mmengine.config import Config
from mmengine.device import get_device

from mmakd.checks.preflight import train
from mmakd.utils.amp import CPUAmpOptimWrapper
from mmakd.utils.cli import (
    config_errors_as_messages,
    last_checkpoint,
    load_config,
    make_parser,
)
from mmakd.utils.errors import ConfigError


def parse_args() -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument('--amp', action='store_true',
                        help='train in mixed precision: float16 on a GPU, bfloat16 on a CPU')
    parser.add_argument('--auto-scale-lr', action='store_true',
                        help='scale the learning rate to the batch size, all processes together')
    parser.add_argument('--resume', nargs='?', const='auto', metavar='CHECKPOINT',
                        help='go on from a checkpoint, without a path from the last one in the '
                        'work directory (from the beginning where there is none)')
    return parser.parse_args()


def enable_amp(cfg: Config) -> None:
    """Have the config's optimizer wrapper train in mixed precision."""
    wrapper = cfg.optim_wrapper
    wrapper_type = wrapper.get('type', 'OptimWrapper')
    if wrapper_type not in ('OptimWrapper', 'AmpOptimWrapper'):
        raise ConfigError(f'optim_wrapper.type={wrapper_type!r}: --amp replaces an OptimWrapper '
                          'only; leave out --amp or change the type')
    if get_device() == 'cpu':
        wrapper.type = CPUAmpOptimWrapper.__name__
        for gpu_only in ('loss_scale', 'dtype'):
            wrapper.pop(gpu_only, None)
    elif wrapper_type == 'OptimWrapper':
        wrapper.type = 'AmpOptimWrapper'
        wrapper.loss_scale = 'dynamic'


def enable_auto_scale_lr(cfg: Config) -> None:
    """Have the Runner scale the learning rate to the batch size."""
    if not cfg.get('auto_scale_lr', {}).get('base_batch_size'):
        raise ConfigError('auto_scale_lr.base_batch_size: missing, and --auto-scale-lr needs it; '
                          'set it to the batch size that optim_wrapper.optimizer.lr is meant for')
    cfg.auto_scale_lr.enable = True


def enable_resume(cfg: Config, checkpoint: str) -> None:
    """Have the Runner go on from a checkpoint, for 'auto' from the last one if there is any."""
    if checkpoint == 'auto':
        last = last_checkpoint(cfg.work_dir)
        if last is None:
            print(f'--resume: no checkpoint in {cfg.work_dir}, training from the beginning')
            return
        checkpoint = last
    elif not Path(checkpoint).is_file():
        raise ConfigError(f'--resume={checkpoint!r}: no such file')
    cfg.resume = True
    cfg.load_from = checkpoint


def main() -> None:
    args = parse_args()
    cfg = load_config(args)
    if args.amp:
        enable_amp(cfg)
    if args.auto_scale_lr:
        enable_auto_scale_lr(cfg)
    if args.resume:
        enable_resume(cfg, args.resume)
    train(cfg, partial=not cfg.get('resume'))


if __name__ == '__main__':
    with config_errors_as_messages():
        main()
