"""Time a distilled training step against a plain one, and count what is kept for backward.

In each round every variant runs once, on the same random images and with random weights, so that
all meet the same machine; the ratios are taken round by round.
"""
import argparse
import copy
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from mmengine.model import BaseModel, revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from rich.console import Console
from rich.progress import track
from rich.table import Table

from mmakd.cli import config_errors_as_messages
from mmakd.config import ConfigError
from mmakd.distillers import AvatarDistiller
from mmakd.distillers.assembly import build_network
from mmakd.losses import UncertaintyFeatureLoss

_CONFIGS = Path(__file__).resolve().parents[1] / 'configs'
_DEFAULT = [
    _CONFIGS / 'det/retinanet/akd-cwd_retinanet-r101_retinanet-r50_fpn_2x_coco.py',
    _CONFIGS / 'seg/pspnet/akd-cwd_pspnet-r101_pspnet-r18_80k_cityscapes-512x1024.py',
]
_WARM_UP = 2
_AVATARS = (1, 2, 4, 8)


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
    parser.add_argument('--size', type=int, nargs=2, default=(256, 256), metavar=('H', 'W'),
                        help='height and width of the images (default: 256 256)')
    parser.add_argument('--batch', type=int, default=2,
                        help='images a step (default: %(default)s)')
    parser.add_argument('--iters', type=int, default=10, help='rounds (default: %(default)s)')
    args = parser.parse_args()
    if min(*args.size, args.batch, args.iters) < 1:
        parser.error('--size, --batch and --iters must be positive')
    return args


def read_config(path: str | Path) -> tuple[Config, Config]:
    """Read a config and make its twin with the bare criteria.

    Args:
        path (str | Path): The config.

    Returns:
        tuple[Config, Config]: With the AKD losses, and with their criteria alone; the teachers of
        both keep random weights.

    Raises:
        ConfigError: If there is nothing to compare.
    """
    if not Path(path).is_file():
        raise ConfigError(f'config={str(path)!r}: no such file')
    cfg = Config.fromfile(path)
    if cfg.model.get('type') != AvatarDistiller.__name__:
        raise ConfigError(f"model.type={cfg.model.get('type')!r}: name a config whose model is an "
                          'AvatarDistiller')
    cfg.model.teacher_ckpt = None
    # Random weights must not grow to infinity in the course of the measurement.
    cfg.optim_wrapper.optimizer.lr = 1e-6
    bare = copy.deepcopy(cfg)
    for name, task in bare.model.distill.items():
        if task.loss.type != UncertaintyFeatureLoss.__name__:
            raise ConfigError(f'model.distill.{name}.loss.type={task.loss.type!r}: must be an '
                              'UncertaintyFeatureLoss, which is compared with its criterion')
        task.loss = task.loss.criterion
    return cfg, bare


def make_batch(scope: str, size: tuple[int, int], batch: int) -> dict:
    """Make random images with random ground truth, as a dataloader gives them.

    Args:
        scope (str): 'mmdet' or 'mmseg'.
        size (tuple[int, int]): Height and width.
        batch (int): How many.

    Returns:
        dict: ``inputs`` and ``data_samples``.
    """
    # Labels that every network has.
    data = demo_mm_inputs(batch, (3, *size), num_items=[8] * batch, num_classes=2)
    if scope == 'mmseg':
        rng = np.random.default_rng(0)
        labels = [torch.from_numpy(rng.integers(0, 2, (1, *size))) for _ in range(batch)]
        data['data_samples'] = [
            SegDataSample(gt_sem_seg=PixelData(data=label), metainfo=dict(
                img_shape=size, ori_shape=size)) for label in labels
        ]
    return data


def prepare(model: BaseModel, size: tuple[int, int], device: str) -> BaseModel:
    """Bring a model where the Runner brings it, and have it take images of any size."""
    if getattr(model.data_preprocessor, 'size', None):
        model.data_preprocessor.size = size
    return revert_sync_batchnorm(model).to(device).train()


def measure(variants: dict[str, Callable[[], object]], rounds: int,
            device: str) -> dict[str, np.ndarray]:
    """Time each variant once a round.

    Args:
        variants (dict[str, Callable]): What to run, by name.
        rounds (int): Number of rounds that count.
        device (str): Where they run.

    Returns:
        dict[str, np.ndarray]: Seconds of each round.
    """
    times = np.zeros((_WARM_UP + rounds, len(variants)))
    for times_of_round in track(times, 'measuring', transient=True):
        for i, step in enumerate(variants.values()):
            _synchronize(device)
            start = time.perf_counter()
            step()
            _synchronize(device)
            times_of_round[i] = time.perf_counter() - start
    return dict(zip(variants, times[_WARM_UP:].T, strict=True))


def _synchronize(device: str) -> None:
    if device.startswith('cuda'):
        torch.cuda.synchronize()


def saved_megabytes(model: AvatarDistiller, data: dict, num_avatars: int) -> float:
    """Count what the loss keeps for the backward pass.

    Args:
        model (AvatarDistiller): The model.
        data (dict): A batch as the model's preprocessor gave it.
        num_avatars (int): K.

    Returns:
        float: Megabytes, each storage counted once.
    """
    for module in model.distiller.modules():
        if isinstance(module, UncertaintyFeatureLoss):
            module.num_avatars = num_avatars
    sizes: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        # The result keeps the graph, so that no storage is freed and its address used again.
        losses = model(**copy.deepcopy(data), mode='loss')
    del losses
    return sum(sizes.values()) / 1e6


def benchmark(cfg: Config, bare: Config, args: argparse.Namespace, console: Console) -> None:
    """Measure one config and print the results.

    Args:
        cfg (Config): The config with the AKD losses.
        bare (Config): The config with their criteria alone.
        args (argparse.Namespace): The command line.
        console (Console): Where to print.
    """
    size = tuple(args.size)
    batch = make_batch(cfg.default_scope, size, args.batch)
    models = {
        'plain step': build_network(cfg.model.student),
        'distilled step, bare criterion': MODELS.build(bare.model),
        'distilled step, AKD': MODELS.build(cfg.model),
    }
    models = {name: prepare(model, size, args.device) for name, model in models.items()}
    akd = models['distilled step, AKD']
    data = akd.data_preprocessor(copy.deepcopy(batch), True)

    def training_step(model: BaseModel) -> Callable[[], object]:
        optimizer = build_optim_wrapper(model, cfg.optim_wrapper)
        return lambda: model.train_step(copy.deepcopy(batch), optimizer)

    variants = {name: training_step(model) for name, model in models.items()}
    variants['teacher forward'] = lambda: akd._teacher.features(
        akd._taps.values(), data['inputs'], data['data_samples'], akd.data_preprocessor)
    times = measure(variants, args.iters, args.device)

    table = Table('', 'median, ms', 'quartiles, ms', title=Path(cfg.filename).stem,
                  title_justify='left')
    for name, seconds in times.items():
        table.add_row(name, *_median_and_quartiles(1000 * seconds, '.0f'))
    console.print(table)
    akd_time, bare_time = times['distilled step, AKD'], times['distilled step, bare criterion']
    for title, ratio, target in (
            ('AKD / (plain + teacher forward)',
             akd_time / (times['plain step'] + times['teacher forward']), 1.10),
            ('AKD / bare criterion', akd_time / bare_time, 1.03)):
        median, quartiles = _median_and_quartiles(ratio, '.3f')
        console.print(f'{title}: {median} ({quartiles}); target: at most {target:.2f}')
    kept = {k: saved_megabytes(akd, data, k) for k in _AVATARS}
    sizes = ', '.join(f'{k}: {megabytes:.1f} MB' for k, megabytes in kept.items())
    console.print(f'kept for backward, by the number of Avatars: {sizes}\n')


def _median_and_quartiles(values: np.ndarray, form: str) -> tuple[str, str]:
    low, median, high = np.quantile(values, (0.25, 0.5, 0.75))
    return format(median, form), f'{low:{form}} to {high:{form}}'


def main() -> None:
    """Measure what the command line names."""
    args = parse_args()
    console = Console()
    height, width = args.size
    console.print(f'{args.device}, torch {torch.__version__}, {torch.get_num_threads()} threads, '
                  f'{args.batch} images of {height} x {width}, {args.iters} rounds\n')
    for path in args.configs:
        cfg, bare = read_config(path)
        with DefaultScope.overwrite_default_scope(cfg.default_scope):
            benchmark(cfg, bare, args, console)


if __name__ == '__main__':
    with config_errors_as_messages():
        main()
