"""Peak memory by the number of Avatars, and over many steps."""
import gc
from functools import partial

import torch
from mmengine.registry import DefaultScope

from benchmark.measure import measure_memory, training_step
from benchmark.variants import Variants, make_batch, read_config
from gpu_steps.speed import benchmarked_config, image_size
from gpu_steps.step import Row, Setting, at_most

_AVATARS = (1, 2, 4, 8)
_WARM_UP = 3


def check_memory(setting: Setting, task: str) -> list[Row]:
    """Measure the peak of K Avatars, and what lies in memory after many steps.

    Args:
        setting (Setting): Where.
        task (str): ``'det'`` or ``'seg'``.

    Returns:
        list[Row]: Peaks, and their growth.
    """
    cfg = read_config(benchmarked_config(setting, task))
    size = image_size(setting, cfg)
    number = 20 if setting.quick else 200
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        variants = Variants(cfg, size, setting.device)
        batch = make_batch(cfg.default_scope, size, 2)
        peaks = [measure_memory(partial(variants.akd, avatars), cfg.optim_wrapper, batch,
                                setting.device) for avatars in _AVATARS]
        step = training_step(variants.akd(2), cfg.optim_wrapper, batch)
        held = []
        # The optimizer's state is there from the first step on.
        for steps in _WARM_UP, number - _WARM_UP:
            for _ in range(steps):
                step()
            gc.collect()
            held.append(_allocated(setting.device))
    rows = [Row(f'peak, K = {avatars}', f'{peak / 1e6:.0f} MB')
            for avatars, peak in zip(_AVATARS, peaks)]
    return [
        *rows, at_most('peak, K = 8 / K = 1', peaks[-1] / peaks[0], 1.05, '.3f'),
        at_most(f'memory after step {number} / after step {_WARM_UP}', held[1] / held[0], 1.0,
                '.4f')]


def _allocated(device: str) -> int:
    if device == 'cuda':
        return torch.cuda.memory_allocated()
    return sum(value.untyped_storage().nbytes() for value in gc.get_objects()
               if isinstance(value, torch.Tensor))
