"""All variants of one config, measured side by side."""
import argparse
import importlib
import shlex
import sys
from collections.abc import Callable
from datetime import date
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from mmengine.model import BaseModel
from mmengine.registry import DefaultScope

from benchmark.growth import measure_growth
from benchmark.measure import (
    checkpoint_size,
    describe_machine,
    distillation_loss,
    measure_memory,
    measure_time,
    training_step,
)
from benchmark.variants import MMRAZOR, Variants, make_batch, read_config

# The papers', as the data preprocessors pad them.
CUDA_SIZE = dict(mmdet=(800, 1344), mmseg=(512, 1024))
_CPU_SIZE = (256, 256)
_AVATARS = (1, 2, 4, 8)
_UPSTREAM_AVATARS = (1, 4)
PACKAGES = ('torch', 'mmengine', 'mmcv', 'mmdet', 'mmseg')


def compare_variants(path: str | Path, args: argparse.Namespace) -> dict[str, Any]:
    """Measure all variants of one config.

    Args:
        path (str | Path): The config.
        args (argparse.Namespace): The command line.

    Returns:
        dict[str, Any]: All that was measured, and where.
    """
    cfg = read_config(path)
    size = args.size or (CUDA_SIZE[cfg.default_scope] if 'cuda' in args.device else _CPU_SIZE)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        variants = Variants(cfg, tuple(size), args.device)
        results = _measure(variants, args)
        rounds = max(args.iters // 4, 1)
        growth = measure_growth(variants, args.batch, rounds) if args.growth else []
    return dict(
        config=Path(path).stem, device=args.device.split(':')[0],
        machine=describe_machine(args.device), threads=torch.get_num_threads(),
        date=str(date.today()), command=shlex.join(['python', *sys.argv]), size=list(size),
        batch=args.batch,
        rounds=args.iters,
        versions={**{package: importlib.import_module(package).__version__
                     for package in PACKAGES}, 'mmrazor': version('mmrazor')},
        variants=results, growth=growth,
        left_out={name: reason for name in MMRAZOR
                  if (reason := variants.why_not_mmrazor(name))})


def _measure(variants: Variants, args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    batch = make_batch(variants.cfg.default_scope, variants.size, args.batch)
    optim_wrapper = variants.cfg.optim_wrapper
    builders: dict[str, Callable[[], BaseModel]] = {
        'plain student': variants.plain, 'ours, base criterion': variants.base}
    for precision in args.teacher_precision:
        builders[f'ours, base criterion, {precision} teacher'] = (
            partial(variants.base, precision))
    for number in _AVATARS:
        builders[f'ours, AKD, K = {number}'] = partial(variants.akd, number)
    for number in _UPSTREAM_AVATARS:
        builders[f'ours, AKD, K = {number}, upstream'] = partial(
            variants.akd, number, upstream=True)
    for name in MMRAZOR:
        if not variants.why_not_mmrazor(name):
            builders[f'MMRazor {name}'] = partial(variants.mmrazor, name)

    models = {name: build() for name, build in builders.items()}
    losses = {name: distillation_loss(model, batch) for name, model in models.items()}
    steps = {name: training_step(model, optim_wrapper, batch) for name, model in models.items()}
    steps['teacher forward'] = variants.teacher_forward(batch)
    seconds = measure_time(steps, args.iters, args.device, 'time')
    sizes = {name: checkpoint_size(model, optim_wrapper, batch) for name, model in models.items()}
    del models, steps
    peaks = {name: measure_memory(build, optim_wrapper, batch, args.device)
             for name, build in builders.items()}
    return {name: dict(seconds=seconds[name], peak_bytes=peaks.get(name),
                       checkpoint_bytes=sizes.get(name), distillation_loss=losses.get(name))
            for name in seconds}
