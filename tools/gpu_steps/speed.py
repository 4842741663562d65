"""The benchmark at the papers' sizes, its targets, and the profile of one step."""
import argparse
from collections import Counter
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.fileio import dump
from mmengine.registry import DefaultScope
from torch.profiler import DeviceType, ProfilerActivity, profile

from benchmark.comparison import CUDA_SIZE, compare_variants
from benchmark.measure import training_step
from benchmark.report import TARGETS, median_ratio
from benchmark.variants import Variants, make_batch, read_config
from gpu_steps.step import LEFT_OUT, Row, Setting, at_most

_CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
_BENCHMARKED = dict(
    det='det/retinanet/akd-cwd_retinanet-r101_retinanet-r50_fpn_2x_coco.py',
    seg='seg/pspnet/akd-cwd_pspnet-r101_pspnet-r18_80k_cityscapes-512x1024.py')
_TOYS = dict(det='det/toy/akd-cwd_retinanet_shapes.py', seg='seg/toy/akd-cwd_pspnet_shapes.py')
_QUICK_SIZE = (64, 64)
# What a step that is not held up by the host reaches.
_BUSY = 0.95
_LAUNCHES, _WAITS = 'cudaLaunchKernel', ('cudaStreamSynchronize', 'cudaDeviceSynchronize',
                                         'cudaEventSynchronize', 'cudaMemcpy')


def benchmarked_config(setting: Setting, task: str) -> Path:
    """Path: The config that is measured; the toy's in a quick setting."""
    return _CONFIGS / (_TOYS if setting.quick else _BENCHMARKED)[task]


def image_size(setting: Setting, cfg: Config) -> tuple[int, int]:
    """tuple[int, int]: Height and width of the images: the paper's, or a small square."""
    return _QUICK_SIZE if setting.quick else CUDA_SIZE[cfg.default_scope]


def check_speed(setting: Setting, task: str) -> list[Row]:
    """Run the benchmark, and compare with its targets for a GPU.

    Args:
        setting (Setting): Where; on a CPU the targets are left out.
        task (str): ``'det'`` or ``'seg'``.

    Returns:
        list[Row]: A row for each ratio that has a target.
    """
    path = benchmarked_config(setting, task)
    result = compare_variants(path, argparse.Namespace(
        device=setting.device, size=image_size(setting, read_config(path)), batch=2,
        iters=1 if setting.quick else 20, growth=False,
        teacher_precision=['float16', 'bfloat16'] if setting.device == 'cuda' else []))
    dump(result, setting.folder / f'{result["device"]}_{result["config"]}.json', indent=1)
    rows = []
    for target in TARGETS:
        ratio = median_ratio(result, target)
        if ratio is None:
            rows.append(Row(target.ratio, 'not measured for this tap', status=LEFT_OUT))
        elif setting.device == 'cpu':
            rows.append(Row(target.ratio, 'measured', 'a number, of images that say nothing'))
        else:
            rows.append(at_most(target.ratio, ratio, target.cuda, '.3f'))
    return rows


def check_profile(setting: Setting, task: str) -> list[Row]:
    """Profile one step: how long the GPU is busy, what waits for it, how many kernels there are.

    Args:
        setting (Setting): Where.
        task (str): ``'det'`` or ``'seg'``.

    Returns:
        list[Row]: The share, and counts beside the plain student's.
    """
    cfg = read_config(benchmarked_config(setting, task))
    size = image_size(setting, cfg)
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (setting.device == 'cuda')
    rows = []
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        variants = Variants(cfg, size, setting.device)
        batch = make_batch(cfg.default_scope, size, 2)
        for name, model in ('plain', variants.plain()), ('distilled', variants.akd(1)):
            step = training_step(model, cfg.optim_wrapper, batch)
            for _ in range(3):
                step()
            with profile(activities=activities) as profiler:
                step()
                if setting.device == 'cuda':
                    torch.cuda.synchronize()
            events = profiler.events()
            calls = Counter(event.name for event in events)
            slowest = sorted(profiler.key_averages(), reverse=True, key=lambda event: (
                event.self_device_time_total if setting.device == 'cuda' else
                event.self_cpu_time_total))[:3]
            rows += [Row(f'{name} step, slowest', ', '.join(event.key for event in slowest))]
            if setting.device == 'cpu':
                continue
            rows += [Row(f'{name} step, kernels launched', str(calls[_LAUNCHES])),
                     Row(f'{name} step, waits', str(sum(calls[key] for key in _WAITS)))]
            share = _busy([(event.time_range.start, event.time_range.end) for event in events
                           if event.device_type == DeviceType.CUDA])
            if name == 'distilled':
                rows.append(at_most('GPU idle in the distilled step', 1 - share, 1 - _BUSY, '.1%'))
    return rows


def _busy(spans: list[tuple[float, float]]) -> float:
    """Give the share of the time from the first to the last span that spans cover."""
    covered, reached = 0.0, min(start for start, _ in spans)
    first = reached
    for start, end in sorted(spans):
        covered += max(end - max(start, reached), 0.0)
        reached = max(reached, end)
    return covered / (reached - first)
