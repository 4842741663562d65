"""The effective batch against the one that the learning rate is meant for."""
from __future__ import annotations

from mmengine.config import Config

from .findings import Findings


def check_batch(cfg: Config, gpus: int | None, findings: Findings) -> str:
    """Compare images a step with ``auto_scale_lr.base_batch_size``.

    Args:
        cfg (Config): The config.
        gpus (int, optional): Number of processes. None is one, the number that ``tools/train.py``
            starts by itself; then a difference is no warning, since many may be meant.
        findings (Findings): Takes what is suspicious.

    Returns:
        str: Both, in words.
    """
    batch = (cfg.get('train_dataloader') or {}).get('batch_size', 1)
    steps = (cfg.get('optim_wrapper') or {}).get('accumulative_counts', 1)
    scale = cfg.get('auto_scale_lr') or {}
    base = scale.get('base_batch_size')
    number = gpus or 1
    total = batch * number * steps
    words = f'{batch} images x {number} GPU{"s" * (number > 1)}'
    words += f' x {steps} accumulated steps' if steps > 1 else ''
    words += f' = {total}'
    if not base:
        return f'{words}; the config does not say what batch its learning rate is meant for'
    if total == base:
        return f'{words}, as the learning rate is meant for'
    words += f'; the learning rate is meant for {base} (auto_scale_lr.base_batch_size)'
    if base % (batch * steps) == 0:
        words += f', so for {base // (batch * steps)} GPUs'
    if scale.get('enable'):
        return f'{words}; it is scaled by {total / base:g}'
    if gpus:
        findings.warn(f'auto_scale_lr.base_batch_size={base}: a step takes {total} images; train '
                      f'with --auto-scale-lr, or multiply the learning rate by {total / base:g}')
    return words
