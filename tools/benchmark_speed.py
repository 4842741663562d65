"""Time a distilled training step beside a plain one and beside MMRazor's.

In each round every variant runs once, in an order that is drawn, on the same random images and
from the same random weights, so that a noisy machine hits all alike; ratios are taken round by
round. Prints a table, and writes JSON and a plot.
"""
import argparse
from pathlib import Path

import torch
from mmengine.fileio import dump
from mmengine.logging import MMLogger
from rich.console import Console

from benchmark.comparison import compare_variants
from benchmark.plot import plot
from benchmark.report import check_report, print_result, update_report
from mmakd.utils.cli import config_errors_as_messages

_CONFIGS = Path(__file__).resolve().parents[1] / 'configs'
_DEFAULT = [
    _CONFIGS / 'det/retinanet/akd-cwd_retinanet-r101_retinanet-r50_fpn_2x_coco.py',
    _CONFIGS / 'seg/pspnet/akd-cwd_pspnet-r101_pspnet-r18_80k_cityscapes-512x1024.py',
]


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


def main() -> None:
    """Measure what the command line names."""
    args = parse_args()
    console = Console()
    MMLogger.get_instance('benchmark', log_level='WARNING')
    out = Path(args.out)
    if args.report:
        check_report(Path(args.report))
    for path in args.configs:
        result = compare_variants(path, args)
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
