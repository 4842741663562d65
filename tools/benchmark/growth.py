"""How time and memory of a distilled step grow, beside the law that is expected."""
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import numpy as np

from benchmark.measure import measure_memory, measure_time, training_step
from benchmark.variants import Variants, make_batch

_AVATARS = (1, 2, 4, 8, 16)
_SCALES = (0.5, 0.75, 1, 1.25)
# PSPNet's global pooling leaves BatchNorm one value an image: it takes no single one.
_IMAGES = (2, 4, 6)
_STRIDE = 32


@dataclass
class Setting:
    """One measurement.

    Args:
        value (str): What is varied, as the table shows it.
        x (float): What time and memory are expected to be linear in.
        size (tuple[int, int]): Height and width of the images.
        batch (int): Images a step.
        num_avatars (int): K. Defaults to 1.
        levels (int, optional): Levels of each task. Defaults to None, all.
    """

    value: str
    x: float
    size: tuple[int, int]
    batch: int
    num_avatars: int = 1
    levels: int | None = None


def measure_growth(variants: Variants, batch: int, rounds: int) -> list[dict[str, Any]]:
    """Measure the AKD step and the plain one along each axis.

    Args:
        variants (Variants): Of the config.
        batch (int): Images a step where they are not varied.
        rounds (int): Number of rounds that count.

    Returns:
        list[dict]: For each axis ``axis`` and ``law`` (text), ``values`` (text), ``x``, ``plain``
        and ``akd`` (median seconds) and ``peak_bytes`` (of the AKD training).
    """
    return [dict(axis=axis, law=law, values=[setting.value for setting in settings],
                 x=[setting.x for setting in settings],
                 **_measure(variants, settings, rounds, axis))
            for axis, law, settings in _axes(variants, batch) if len(settings) > 2]


def _axes(variants: Variants, batch: int) -> list[tuple[str, str, list[Setting]]]:
    size = variants.size
    # Elements of the teacher's maps, level by level, summed over tasks.
    elements = np.cumsum(variants.tapped_elements(batch)).tolist()
    sizes = [tuple(max(_STRIDE, round(side * scale / _STRIDE) * _STRIDE) for side in size)
             for scale in _SCALES]
    return [
        ('Avatars', 'time linear in K, memory constant',
         [Setting(f'K = {k}', k, size, batch, num_avatars=k) for k in _AVATARS]),
        ('levels', 'time and memory linear in the elements of the tapped maps',
         [Setting(str(number), count, size, batch, levels=number)
          for number, count in enumerate(elements, 1)]),
        ('image size', 'time and memory linear in pixels',
         [Setting(f'{height} x {width}', height * width, (height, width), batch)
          for height, width in sizes]),
        ('images a step', 'time and memory linear in images',
         [Setting(str(number), number, size, number) for number in _IMAGES]),
    ]


def _measure(variants: Variants, settings: list[Setting], rounds: int,
             axis: str) -> dict[str, list]:
    steps, peaks = {}, []
    cfg, device = variants.cfg, variants.device
    for i, setting in enumerate(settings):
        of_size = (variants if setting.size == variants.size else
                   Variants(cfg, setting.size, device))
        batch = make_batch(cfg.default_scope, setting.size, setting.batch)
        build = partial(of_size.akd, setting.num_avatars, setting.levels)
        peaks.append(measure_memory(build, cfg.optim_wrapper, batch, device))
        steps[f'akd {i}'] = training_step(build(), cfg.optim_wrapper, batch)
        steps[f'plain {i}'] = training_step(of_size.plain(), cfg.optim_wrapper, batch)
    seconds = measure_time(steps, rounds, device, axis)
    return dict(
        akd=[median(seconds[f'akd {i}']) for i in range(len(settings))],
        plain=[median(seconds[f'plain {i}']) for i in range(len(settings))],
        peak_bytes=peaks)


def fit(x: list[float], y: list[float]) -> list[float]:
    """Fit a line.

    Args:
        x (list[float]): Abscissas.
        y (list[float]): Ordinates.

    Returns:
        list[float]: The line's ordinates.
    """
    slope, offset = np.polyfit(x, y, 1)
    return (offset + slope * np.asarray(x)).tolist()
