"""Time a distilled training step beside a plain one and beside MMRazor's.

In each round every variant runs once, in an order that is drawn, on the same random images and
from the same random weights, so that a noisy machine hits all alike; ratios are taken round by
round. Prints a table, and writes JSON and a plot.
"""
import argparse
import importlib
import os
import platform
import re
import shlex
import sys
from collections.abc import Callable
from datetime import date
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from mmengine.fileio import dump
from mmengine.logging import MMLogger
from mmengine.model import BaseModel
from mmengine.registry import DefaultScope
from rich.console import Console

from benchmark.growth import measure_growth
from benchmark.measure import (
    Step,
    checkpoint_size,
    distillation_loss,
    measure_memory,
    measure_time,
    training_step,
)
from benchmark.plot import plot
from benchmark.report import check_report, print_result, update_report
from benchmark.variants import MMRAZOR, Variants, make_batch, read_config
from mmakd.distillers.taps import forward_to_taps
from mmakd.utils.cli import config_errors_as_messages

_CONFIGS = Path(__file__).resolve().parents[1] / 'configs'
_DEFAULT = [
    _CONFIGS / 'det/retinanet/akd-cwd_retinanet-r101_retinanet-r50_fpn_2x_coco.py',
    _CONFIGS / 'seg/pspnet/akd-cwd_pspnet-r101_pspnet-r18_80k_cityscapes-512x1024.py',
]
# The papers', as the data preprocessors pad them.
_CUDA_SIZE = dict(mmdet=(800, 1344), mmseg=(512, 1024))
_CPU_SIZE = (256, 256)
_AVATARS = (1, 2, 4, 8)
_PACKAGES = ('torch', 'mmengine', 'mmcv', 'mmdet', 'mmseg')


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='example:\n  python tools/benchmark_speed.py configs/det/toy/'
        'akd-cwd_retinanet_shapes.py --size 128 128 --batch 8')
    parser.add_argument('configs', nargs='*', default=_DEFAULT, metavar='CONFIG',
                        help='configs of AvatarDistiller with an UncertaintyFeatureLoss (default: '
                        'the RetinaNet on COCO and the PSPNet on Cityscapes)')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu',
                        help='where to run (default here: %(default)s)')
    parser.add_argument('--size', type=int, nargs=2, metavar=('H', 'W'),
                        help='height and width of the images (default: 256 256 on a CPU, on a GPU '
                        '800 1344 for detectors and 512 1024 for segmentors)')
    parser.add_argument('--batch', type=int, default=2,
                        help='images a step (default: %(default)s)')
    parser.add_argument('--iters', type=int, default=20, help='rounds (default: %(default)s)')
    parser.add_argument('--teacher-precision', nargs='*', metavar='TYPE',
                        choices=('float16', 'bfloat16'), default=None,
                        help="measure also with teacher_precision='float16' or 'bfloat16' "
                        '(default: both on a GPU, none on a CPU)')
    parser.add_argument('--growth', action='store_true',
                        help='measure also how time and memory grow with the number of Avatars, '
                        'of levels, of pixels and of images')
    parser.add_argument('--out', default='work_dirs/benchmark', metavar='DIR',
                        help='where JSON and plot go (default: %(default)s)')
    parser.add_argument('--report', metavar='FILE',
                        help='a Markdown file whose tables are made anew from all JSON in DIR')
    args = parser.parse_args()
    if min(*(args.size or (1, )), args.batch, args.iters) < 1:
        parser.error('--size, --batch and --iters must be positive')
    if args.teacher_precision is None:
        args.teacher_precision = ['float16', 'bfloat16'] if 'cuda' in args.device else []
    return args


def benchmark(path: str | Path, args: argparse.Namespace) -> dict[str, Any]:
    """Measure one config.

    Args:
        path (str | Path): The config.
        args (argparse.Namespace): The command line.

    Returns:
        dict[str, Any]: All that was measured, and where.
    """
    cfg = read_config(path)
    size = args.size or (_CUDA_SIZE[cfg.default_scope] if 'cuda' in args.device else _CPU_SIZE)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        variants = Variants(cfg, tuple(size), args.device)
        results = _compare(variants, args)
        rounds = max(args.iters // 4, 1)
        growth = measure_growth(variants, args.batch, rounds) if args.growth else []
    return dict(
        config=Path(path).stem, device=args.device.split(':')[0],
        machine=_machine(args.device), threads=torch.get_num_threads(), date=str(date.today()),
        command=shlex.join(['python', *sys.argv]), size=list(size), batch=args.batch,
        rounds=args.iters,
        versions={**{package: importlib.import_module(package).__version__
                     for package in _PACKAGES}, 'mmrazor': version('mmrazor')},
        variants=results, growth=growth,
        left_out={name: reason for name in MMRAZOR
                  if (reason := variants.why_not_mmrazor(name))})


def _compare(variants: Variants, args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Measure all variants of one config, by name."""
    batch = make_batch(variants.cfg.default_scope, variants.size, args.batch)
    optim_wrapper = variants.cfg.optim_wrapper
    builders: dict[str, Callable[[], BaseModel]] = {
        'plain student': variants.plain, 'ours, base criterion': variants.base}
    for precision in args.teacher_precision:
        builders[f'ours, base criterion, {precision} teacher'] = (
            partial(variants.base, precision))
    for number in _AVATARS:
        builders[f'ours, AKD, K = {number}'] = partial(variants.akd, number)
    for name in MMRAZOR:
        if not variants.why_not_mmrazor(name):
            builders[f'MMRazor {name}'] = partial(variants.mmrazor, name)

    models = {name: build() for name, build in builders.items()}
    losses = {name: distillation_loss(model, batch) for name, model in models.items()}
    steps = {name: training_step(model, optim_wrapper, batch) for name, model in models.items()}
    steps['teacher forward'] = _teacher_forward(variants, models['ours, base criterion'], batch)
    seconds = measure_time(steps, args.iters, args.device, 'time')
    sizes = {name: checkpoint_size(model, optim_wrapper, batch) for name, model in models.items()}
    del models, steps
    peaks = {name: measure_memory(build, optim_wrapper, batch, args.device)
             for name, build in builders.items()}
    return {name: dict(seconds=seconds[name], peak_bytes=peaks.get(name),
                       checkpoint_bytes=sizes.get(name), distillation_loss=losses.get(name))
            for name in seconds}


def _teacher_forward(variants: Variants, ours: Any, batch: dict) -> Step:
    """Run the teacher as it comes, in float32, as one would without thinking of its speed."""
    teacher = variants.teacher()
    data = ours.data_preprocessor(batch, True)
    taps = {pair.teacher for pair in ours.taps.values()}

    @torch.no_grad()
    def step() -> None:
        forward_to_taps(teacher, taps, data['inputs'], data['data_samples'])

    return step


def _machine(device: str) -> str:
    if 'cuda' in device:
        return torch.cuda.get_device_name(device)
    cpuinfo = Path('/proc/cpuinfo')
    found = re.search(r'model name\s*: (.*)', cpuinfo.read_text()) if cpuinfo.exists() else None
    name = found[1] if found else platform.processor() or platform.machine()
    return f'{name}, {os.cpu_count()} cores'


def main() -> None:
    """Measure what the command line names."""
    args = parse_args()
    console = Console()
    MMLogger.get_instance('benchmark', log_level='WARNING')
    out = Path(args.out)
    if args.report:
        check_report(Path(args.report))
    for path in args.configs:
        result = benchmark(path, args)
        name = f'{result["device"]}_{result["config"]}'
        out.mkdir(parents=True, exist_ok=True)
        dump(result, out / f'{name}.json', indent=1)
        plot(result, out / f'{name}.png')
        print_result(result, console)
        console.print(f'{out / name}.json, .png\n')
    if args.report:
        update_report(Path(args.report), out)


if __name__ == '__main__':
    with config_errors_as_messages():
        main()
