"""What reads a checkpoint at an address, in two processes: on one machine, and on two."""
import os
from pathlib import Path

import torch
import torch.distributed as torch_dist
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import CheckpointLoader

from mmakd.losses import MasKDLoss
from mmakd.utils.checkpoint import read_checkpoints_safely, read_state_dict
from mmakd.utils.dist import _stop_gloo
from mmakd.utils.errors import ConfigError

CONFIG = Path(__file__).parents[2] / 'configs/det/toy/akd-cwd_retinanet_shapes.py'


def _build(**changes):
    cfg = Config.fromfile(CONFIG)
    cfg.merge_from_dict(dict(model=changes))
    init_default_scope('mmdet')
    return MODELS.build(cfg.model)


def read_teacher(address):
    _build(teacher_ckpt=address).init_weights()


def read_tokens(address):
    MasKDLoss(address, num_tokens=2, channels=64).init_weights()


def read_load_from(address):
    CheckpointLoader.load_checkpoint(address)


def read_backbone(address):
    init_cfg = dict(type='Pretrained', checkpoint=address)
    _build(teacher_ckpt=None, student=dict(backbone=dict(init_cfg=init_cfg))).init_weights()


def read_file(path):
    read_state_dict(path, 'key')


READERS = dict(teacher=read_teacher, tokens=read_tokens, student=read_load_from,
               backbone=read_backbone, file=read_file)


def run_rank(rank, folder, phases):
    """Read everything, in one phase after the other, and save the errors.

    The folder has a cache for each machine, ``machine0`` and ``machine1``, and perhaps a
    ``file.pth`` in it. Saved are, by phase and by module, the problems and whether all ranks have
    them.

    Args:
        rank (int): 0 or 1.
        folder (str): Where all this lies.
        phases (list[tuple[int, dict[str, str]]]): Number of machines, and by module the address of
            its weights.
    """
    torch.set_num_threads(1)
    torch_dist.init_process_group('gloo', init_method=f'file://{folder}/rendezvous', rank=rank,
                                  world_size=2)
    errors = []
    for machines, addresses in phases:
        machine, local_rank = (0, rank) if machines == 1 else (rank, 0)
        home = f'{folder}/machine{machine}'
        os.environ.update(TORCH_HOME=home, LOCAL_RANK=str(local_rank))
        read_checkpoints_safely(addresses['student'])
        errors.append({})
        for name, read in READERS.items():
            try:
                read(addresses.get(name, f'{home}/file.pth'))
            except ConfigError as error:
                errors[-1][name] = error.problems, error.on_all_ranks
    torch.save(errors, f'{folder}/{rank}.pth')
    _stop_gloo()
