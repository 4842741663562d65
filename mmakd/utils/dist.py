"""Processes of a training: their ranks, their process group and their common errors."""

import atexit
import gc
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

import torch.distributed as torch_dist
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import all_gather_object

from .errors import ConfigError

# Where a launcher tells a process its place: rank, number of processes, rank on this machine.
_PLACE = {
    'pytorch': ('RANK', 'WORLD_SIZE', 'LOCAL_RANK'),
    'mpi': ('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_SIZE', 'OMPI_COMM_WORLD_LOCAL_RANK'),
    'slurm': ('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_LOCALID'),
}


def take_place(launcher: str) -> None:
    """Set the environment variables of ``torch.distributed`` from those of a launcher.

    MMEngine does the same, but later, and without ``LOCAL_RANK`` for ``'mpi'``.
    """
    for name, source in zip(_PLACE['pytorch'], _PLACE.get(launcher, ()), strict=False):
        os.environ[name] = os.environ[source]


def local_rank() -> int:
    """Return the rank of this process on its machine; 0 if it is alone."""
    return int(os.environ.get('LOCAL_RANK', 0))


@contextmanager
def same_on_all_ranks() -> Iterator[None]:
    """Raise a :class:`ConfigError` of one rank on all ranks, with one message.

    All ranks must enter the block. It may contain other such blocks, but no other collective,
    which a failing rank would miss.

    Raises:
        ConfigError: On all ranks, with the problems of all of them.
    """
    problems: list[str] = []
    cause = None
    try:
        yield
    except ConfigError as error:
        if error.on_all_ranks:
            raise
        problems, cause = error.problems, error
    everywhere = list(dict.fromkeys(chain.from_iterable(all_gather_object(problems))))
    if everywhere:
        raise ConfigError(everywhere, on_all_ranks=True) from cause


def start_gloo_without_accelerator(cfg: Config) -> None:
    """Start the process group with gloo on a CPU, where MMEngine would require CUDA and fail.

    MMEngine selects a CUDA device, and its Runner wraps the model for one. On a CPU this function
    starts the group before the Runner, which then keeps it, and sets the model to be wrapped
    without devices (``cfg.model_wrapper_cfg``, in place). It does nothing for
    ``cfg.launcher='none'`` or with an accelerator.
    """
    launcher = cfg.get('launcher', 'none')
    if launcher == 'none' or get_device() != 'cpu':
        return
    take_place(launcher)
    os.environ.setdefault('MASTER_PORT', '29500')
    if launcher == 'slurm' and 'MASTER_ADDR' not in os.environ:
        hosts = subprocess.check_output(
            ['scontrol', 'show', 'hostnames', os.environ['SLURM_JOB_NODELIST']], text=True)
        os.environ['MASTER_ADDR'] = hosts.split()[0]
    torch_dist.init_process_group('gloo')
    atexit.register(_stop_gloo)

    wrapper = dict(type='MMDistributedDataParallel', broadcast_buffers=False,
                   find_unused_parameters=cfg.get('find_unused_parameters', False))
    cfg.model_wrapper_cfg = {**(cfg.get('model_wrapper_cfg') or wrapper), 'device_ids': None}


def _stop_gloo() -> None:
    """End gloo's threads before the interpreter exits, which they might otherwise abort."""
    gc.collect()  # the wrapped model, which the Runner's reference cycles keep, holds the group
    # In torch 2.1 the end waits for gloo's threads without letting them free their last tensors.
    time.sleep(0.1)
    torch_dist.destroy_process_group()
