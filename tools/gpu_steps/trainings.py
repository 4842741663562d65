"""Trainings of the toy configs: every precision and company, and a resume after a kill."""
import json
import multiprocessing
import os
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

from gpu_steps.step import FAILED, NOT_RUN, PASSED, Row, Setting, is_true
from mmakd.checks.preflight import train
from mmakd.utils.amp import CPUAmpOptimWrapper
from shapes.dataset import make_shapes

_ROOT = Path(__file__).resolve().parents[2]
_CONFIGS = dict(det='configs/det/toy/{}_retinanet_shapes.py',
                seg='configs/seg/toy/{}_pspnet_shapes.py')
_METRICS = dict(det=('coco/bbox_mAP', 'AP', 100), seg=('mIoU', 'mIoU', 1))
# Points of AP or mIoU: two toy trainings that differ by rounding differ by a few.
_TOLERANCE = 5.0
_REFERENCE = 'score-of-the-cpu-{}'
VARIANTS = ('float32', 'float16', 'bfloat16', 'accumulation', 'ema-on-cpu', 'compile')


def toy_config(setting: Setting, task: str, name: str) -> Config:
    """Load a toy config.

    Args:
        setting (Setting): Where; in a quick one there are 16 images and 4 iterations.
        task (str): ``'det'`` or ``'seg'``.
        name (str): As in the config's file name: ``'teacher'``, ``'akd-cwd'``.

    Returns:
        Config: The config.
    """
    cfg = Config.fromfile(_ROOT / _CONFIGS[task].format(name))
    cfg.work_dir = f'work_dirs/{Path(cfg.filename).stem}'
    if setting.quick:
        cfg.train_dataloader.batch_size = 4
        if task == 'det':
            cfg.train_cfg.update(max_epochs=1, val_interval=1)
        else:
            cfg.train_cfg.update(max_iters=4, val_interval=4)
            cfg.default_hooks.checkpoint.interval = 4
        if name != 'teacher':
            cfg.model.teacher_ckpt = str(_last_checkpoint(toy_config(setting, task, 'teacher')))
    return cfg


def has_teacher(setting: Setting, task: str) -> bool:
    """bool: Whether the teacher of a task is trained."""
    return _last_checkpoint(toy_config(setting, task, 'teacher')).exists()


def train_teacher(setting: Setting, task: str) -> list[Row]:
    """Train the teacher of the others.

    Args:
        setting (Setting): Where.
        task (str): ``'det'`` or ``'seg'``.

    Returns:
        list[Row]: Its score.
    """
    make_shapes('data/shapes', *(((64, 64), (16, 8)) if setting.quick else ()))
    cfg = toy_config(setting, task, 'teacher')
    score, seconds = _train(cfg, task)
    return [Row(f'{_METRICS[task][1]} of the teacher', f'{score:.1f}, {seconds:.0f} s')]


def train_on_cpu(setting: Setting, task: str) -> list[Row]:
    """Train the distilled student on the CPU, with which the others are compared.

    Args:
        setting (Setting): Where.
        task (str): ``'det'`` or ``'seg'``.

    Returns:
        list[Row]: Its score.
    """
    if not has_teacher(setting, task):
        return [_no_teacher(task)]
    cfg = toy_config(setting, task, 'akd-cwd')
    cfg.work_dir += '-cpu'
    score, seconds = _train(cfg, task)
    Path(_REFERENCE.format(task)).write_text(str(score))
    return [Row(f'{_METRICS[task][1]} on the CPU', f'{score:.1f}, {seconds:.0f} s')]


def train_variant(setting: Setting, task: str, variant: str) -> list[Row]:
    """Train the distilled student on the device, and compare its score with the CPU's.

    Args:
        setting (Setting): Where.
        task (str): ``'det'`` or ``'seg'``.
        variant (str): One of :data:`VARIANTS`.

    Returns:
        list[Row]: Its score.
    """
    reference = Path(_REFERENCE.format(task))
    if not (has_teacher(setting, task) and reference.exists()):
        return [_no_teacher(task)]
    cfg = toy_config(setting, task, 'akd-cwd')
    cfg.work_dir += f'-{variant}'
    if variant in ('float16', 'bfloat16'):
        if setting.device == 'cpu':
            cfg.optim_wrapper.type = CPUAmpOptimWrapper.__name__
            variant = {'float16': 'bfloat16, as --amp on a CPU'}.get(variant, variant)
        elif task == 'det' and variant == 'bfloat16':
            # mmcv's focal loss has no kernel for it on a GPU.
            cfg.model.teacher_precision = variant
            variant += ' teacher'
        else:
            cfg.optim_wrapper.update(type='AmpOptimWrapper', dtype=variant)
    if variant == 'accumulation':
        cfg.optim_wrapper.accumulative_counts = 2
        cfg.train_dataloader.batch_size //= 2
    if variant == 'ema-on-cpu':
        cfg.custom_hooks = [dict(type='EMAHook', device='cpu', momentum=0.05)]
    if variant == 'compile':
        # Machine code for a CPU takes minutes.
        cfg.compile = dict(backend='eager') if setting.device == 'cpu' else True
    score, seconds = _train(cfg, task)
    expected = float(reference.read_text())
    unit = _METRICS[task][1]
    # After 4 iterations it says nothing.
    tolerance = 100.0 if setting.quick else _TOLERANCE
    return [Row(f'{unit} with {variant}', f'{score:.1f}, {seconds:.0f} s',
                f'{expected:.1f} +- {tolerance:.0f}',
                PASSED if abs(score - expected) <= tolerance else FAILED)]


def check_resume(setting: Setting, task: str) -> list[Row]:
    """Kill a training behind its first checkpoint, resume it, and compare with a whole one.

    Args:
        setting (Setting): Where.
        task (str): ``'det'`` or ``'seg'``.

    Returns:
        list[Row]: Whether each part of the last checkpoint is the same, bit for bit.
    """
    if not has_teacher(setting, task):
        return [_no_teacher(task)]
    last = dict(det='epoch_2.pth', seg='iter_4.pth')[task]
    context: Any = multiprocessing.get_context(setting.start_method)
    folders = {}
    for name in 'whole', 'killed':
        folder = folders[name] = Path(f'work_dirs/{task}-resume-{name}')
        shutil.rmtree(folder, ignore_errors=True)
        process = context.Process(target=_train_deterministic, args=(setting, task, folder, False))
        process.start()
        if name == 'killed':
            while process.is_alive() and not (folder / 'last_checkpoint').exists():
                time.sleep(0.01)
            process.kill()
        process.join()
    was_killed = not (folders['killed'] / last).exists()
    process = context.Process(
        target=_train_deterministic, args=(setting, task, folders['killed'], True))
    process.start()
    process.join()
    whole, resumed = (torch.load(folder / last, weights_only=False, map_location='cpu')
                      for folder in folders.values())
    return [is_true('was killed before its end', was_killed), *(
        is_true(f'{part} after the resume is the same, bit for bit',
                _same(whole[part], resumed[part]))
        for part in ('state_dict', 'optimizer', 'param_schedulers'))]


def _train_deterministic(setting: Setting, task: str, folder: Path, resume: bool) -> None:
    os.environ['CUBLAS_WORKSPACE_CONFIG'] = ':4096:8'
    cfg = toy_config(setting, task, 'akd-cwd')
    cfg.work_dir = str(folder)
    cfg.randomness = dict(seed=0, deterministic=True)
    cfg.default_hooks.exact_resume = dict(type='ExactResumeHook')
    # Behind the first checkpoint there is time for the kill.
    cfg.default_hooks.checkpoint.update(type='AtomicCheckpointHook', max_keep_ckpts=-1)
    if task == 'det':
        cfg.train_cfg.update(max_epochs=2, val_interval=2)
    else:
        cfg.train_cfg.update(max_iters=4, val_interval=4)
        cfg.default_hooks.checkpoint.interval = 2
    if resume:
        saved = (folder / 'last_checkpoint').read_text().strip()
        cfg.update(resume=True, load_from=saved)
    train(cfg)


def _train(cfg: Config, task: str) -> tuple[float, float]:
    """Train, and give the last score in per cent and the seconds."""
    shutil.rmtree(cfg.work_dir, ignore_errors=True)
    start = time.monotonic()
    train(cfg)
    seconds = time.monotonic() - start
    log, = Path(cfg.work_dir).glob('*/vis_data/scalars.json')
    key, _, scale = _METRICS[task]
    # Where nothing is detected CocoMetric gives no score.
    scores = [json.loads(line).get(key, 0.0) for line in log.read_text().splitlines()]
    return scale * scores[-1], seconds


def _last_checkpoint(cfg: Config) -> Path:
    loop = cfg.train_cfg
    return Path(cfg.work_dir, f'epoch_{loop.max_epochs}.pth' if 'max_epochs' in loop else
                f'iter_{loop.max_iters}.pth')


def _no_teacher(task: str) -> Row:
    return Row(task, f'run the steps {task}-teacher and {task}-cpu first', status=NOT_RUN)


def _same(first: Any, second: Any) -> bool:
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(
            _same(first[key], second[key]) for key in first)
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(_same, first, second))
    return first == second

