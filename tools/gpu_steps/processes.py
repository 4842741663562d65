"""Two processes: on one GPU by gloo, on two by nccl."""
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as torch_dist
from mmengine.fileio import dump, load
from mmengine.model import MMDistributedDataParallel, convert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from torch import multiprocessing

from benchmark.variants import make_batch, prepare
from gpu_steps.step import LEFT_OUT, Row, Setting, is_true
from gpu_steps.trainings import toy_config

_STEPS = 4


def check_processes(setting: Setting, task: str) -> list[Row]:
    """Train a few steps in two processes, with BatchNorm and with SyncBN.

    Args:
        setting (Setting): Where.
        task (str): ``'det'`` or ``'seg'``.

    Returns:
        list[Row]: Whether both processes have the same weights and sigma, and trained.
    """
    rows = []
    for backend in 'gloo', 'nccl':
        for sync_bn in False, True:
            what = backend + ', SyncBN' * sync_bn
            missing = ('torch has no SyncBN for CPUs' if sync_bn and setting.device == 'cpu' else
                       'needs two GPUs' if backend == 'nccl' and (
                           setting.device == 'cpu' or torch.cuda.device_count() < 2) else None)
            if missing:
                rows.append(Row(what, missing, status=LEFT_OUT))
                continue
            first, second = _run(setting, task, backend, sync_bn)
            rows += [
                is_true(f'{what}: losses are finite, and differ between the processes',
                        first['loss'] != second['loss'] and _is_finite(first, second)),
                is_true(f'{what}: same weights and sigma in both',
                        first['digest'] == second['digest'] != first['digest at first'])]
    return rows


def _run(setting: Setting, task: str, backend: str, sync_bn: bool) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.start_processes(
            _train_rank, (setting, task, backend, sync_bn, folder), nprocs=2,
            start_method=setting.start_method)
        return [load(Path(folder, f'{rank}.json')) for rank in range(2)]


def _train_rank(rank: int, setting: Setting, task: str, backend: str, sync_bn: bool,
                folder: str) -> None:
    number = rank if backend == 'nccl' else 0
    device = torch.device(setting.device, number) if setting.device == 'cuda' else 'cpu'
    if setting.device == 'cuda':
        torch.cuda.set_device(device)
    torch_dist.init_process_group(backend, init_method=f'file://{folder}/rendezvous', rank=rank,
                                  world_size=2)
    cfg = toy_config(setting, task, 'akd-cwd')
    cfg.model.teacher_ckpt = None
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    model = prepare(model, (64, 64), str(device))
    if sync_bn:
        model = convert_sync_batchnorm(model, 'torch')
    wrapped = MMDistributedDataParallel(
        model, device_ids=[number] if setting.device == 'cuda' else None, broadcast_buffers=False)
    optim_wrapper = build_optim_wrapper(wrapped, cfg.optim_wrapper)
    batches = make_batch(cfg.default_scope, (64, 64), 4)
    own = {key: values[2 * rank:2 * rank + 2] for key, values in batches.items()}
    found: dict[str, Any] = {'digest at first': _digest(model, sync_bn)}
    for _ in range(_STEPS):
        losses = wrapped.train_step(dict(own), optim_wrapper)
    found.update(digest=_digest(model, sync_bn), loss=float(losses['loss']))
    dump(found, f'{folder}/{rank}.json')
    torch_dist.barrier()
    torch_dist.destroy_process_group()


def _digest(model: torch.nn.Module, sync_bn: bool) -> str:
    """Sum up all that is equal in both processes; running statistics with SyncBN alone."""
    state = {key: value for key, value in model.state_dict().items()
             if sync_bn or not key.endswith(('running_mean', 'running_var'))}
    return repr([value.double().sum().item() for value in state.values()])


def _is_finite(*ranks: dict[str, Any]) -> bool:
    return bool(torch.tensor([rank['loss'] for rank in ranks]).isfinite().all())
