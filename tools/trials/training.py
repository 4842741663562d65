"""Training of one cell, in a process of its own."""
import gc
import importlib
import math
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import torch

from mmakd.utils.cli import build_runner, last_checkpoint
from trials.cells import TEACHER, Cell
from trials.results import Results
from trials.tasks import ROOT, TASKS
from trials.teacher_maps import fingerprint, save_whole

# Imported before the first fork, so that a cell does not wait for it.
PACKAGES = ('torch', 'mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmakd')
_LOSS_OVER = 20


class CellError(RuntimeError):
    """A training that failed; the message names its log."""


def prepare() -> None:
    """Import what trainings need; processes that are forked then start at once."""
    for module in *PACKAGES, 'mmdet.apis', 'mmseg.apis', 'trials.placebos':
        importlib.import_module(module)
    # MMEngine collects garbage for each data set; this leaves out what was imported.
    gc.freeze()


def train_in_process(cell: Cell, results: Results, commit: str) -> None:
    """Train a cell in a new process, which appends its result.

    Raises:
        CellError: If it fails.
    """
    cell.work_dir.mkdir(parents=True, exist_ok=True)
    log = cell.work_dir / 'log.txt'
    process = multiprocessing.get_context('fork').Process(
        target=_train, args=(cell, results, commit, log), daemon=True)
    process.start()
    process.join()
    if process.exitcode:
        lines = log.read_text(errors='replace').splitlines() or ['']
        raise CellError(f'{cell}: ended with status {process.exitcode}: {lines[-1]} (see {log})')


def _train(cell: Cell, results: Results, commit: str, log: Path) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    file = log.open('a')
    sys.stdout = sys.stderr = file
    for stream in 1, 2:
        os.dup2(file.fileno(), stream)
    torch.set_num_threads(1)
    cfg = cell.config()
    checkpoint = last_checkpoint(cfg.work_dir)
    if checkpoint:
        print(f'continues from {checkpoint}')
        cfg.resume, cfg.load_from = True, checkpoint
    runner = build_runner(cfg)
    runner.train()
    metrics = runner.test()
    task = TASKS[cell.task]
    # Without a single detection there is no AP.
    metric = task.scale * metrics.get(task.metric, 0.0)
    # Of the whole training, since checkpoints keep them.
    times, losses = (runner.message_hub.get_scalar(f'train/{name}').data[0]
                     for name in ('time', 'loss'))
    record = dict(
        data=cell.data, task=cell.task, arm=cell.arm, seed=cell.seed,
        setting=cell.setting and cell.setting._asdict(), metric=_number(metric),
        unit=task.unit, loss=_number(losses[-_LOSS_OVER:].mean()),
        seconds=round(float(times.sum()), 1), iters=len(times), config=cell.config_hash,
        commit=commit, device=next(runner.model.parameters()).device.type, versions=versions())
    if cell.arm == TEACHER:
        save_whole(dict(state_dict=runner.model.state_dict()), cell.weights)
    elif cell.teachers:
        record['teachers'] = [fingerprint(teacher.weights) for teacher in cell.teachers]
    results.append({**record, **cell.measure(runner)})
    shutil.rmtree(cell.work_dir)


def _number(value: float) -> float | None:
    """Round a number; JSON has none that are not finite."""
    return round(float(value), 4) if math.isfinite(value) else None


def versions() -> dict[str, str]:
    """Read the versions of what trains."""
    return {name: importlib.import_module(name).__version__ for name in PACKAGES}


def current_commit() -> str:
    """Read the commit of this checkout, marked where what trains has changed since."""
    def git(*command: str) -> str:
        return subprocess.run(['git', *command], cwd=ROOT, capture_output=True, text=True
                              ).stdout.strip()
    changed = git('status', '--porcelain', '--', 'mmakd', 'tools', 'configs')
    return (git('rev-parse', '--short=12', 'HEAD') or 'unknown') + ('+' if changed else '')
