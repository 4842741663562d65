"""What the processes of a training step tell each other: one step of toy models in two of them."""
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as torch_dist
from mmengine.config import Config
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from torch import nn
from torch.profiler import ProfilerActivity, profile

from mmakd.utils.dist import _stop_gloo

ROOT = Path(__file__).parents[2]
TOY = dict(det='configs/det/toy/{}_retinanet_shapes.py', seg='configs/seg/toy/{}_pspnet_shapes.py')
# torch's functions that wait for other processes; those that send objects call others inside.
_COLLECTIVES = [name for name in (
    'all_reduce', 'all_reduce_coalesced', 'broadcast', 'reduce', 'gather', 'scatter', 'all_gather',
    'all_gather_into_tensor', 'all_gather_coalesced', 'reduce_scatter', 'reduce_scatter_tensor',
    'all_to_all', 'all_to_all_single', 'all_gather_object', 'gather_object',
    'broadcast_object_list', 'scatter_object_list', 'barrier', 'send', 'recv', 'isend', 'irecv',
    'batch_isend_irecv', 'monitored_barrier') if hasattr(torch_dist, name)]


class Collectives:
    """Counts them while :meth:`watch` is open.

    Attributes:
        calls (Counter): Number by name and bytes of the first argument; 0 for what is no tensor.
        buckets (list[int]): Bytes of each gradient bucket of DDP.
        seen (int, optional): How many torch's profiler saw, which misses none.
    """

    def __init__(self, model: MMDistributedDataParallel) -> None:
        self.calls: Counter = Counter()
        self.buckets: list[int] = []
        self.seen: int | None = None
        self._all_reduce = torch_dist.all_reduce
        model.register_comm_hook(None, self._reduce_bucket)

    def _reduce_bucket(self, state: None, bucket: torch_dist.GradBucket
                       ) -> torch.futures.Future[torch.Tensor]:
        gradient = bucket.buffer().div_(torch_dist.get_world_size())
        self.buckets.append(gradient.nbytes)
        done = self._all_reduce(gradient, async_op=True).get_future()
        return done.then(lambda future: future.value()[0])

    @contextmanager
    def watch(self, with_profiler: bool) -> Iterator[None]:
        self.calls.clear()
        self.buckets.clear()
        self.seen = None
        profiler = profile(activities=[ProfilerActivity.CPU])
        with profiler if with_profiler else nullcontext(), mock.patch.multiple(
                torch_dist, **{name: self._counted(name) for name in _COLLECTIVES}):
            yield
        if with_profiler:
            self.seen = sum(event.name.startswith('c10d::') for event in profiler.events())

    def _counted(self, name: str) -> Any:
        function = getattr(torch_dist, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            self.calls[name, getattr(args[0], 'nbytes', 0) if args else 0] += 1
            return function(*args, **kwargs)

        return counted


def build_model(task: str, name: str, **changes: Any) -> nn.Module:
    """The model of a toy config, its teacher random."""
    cfg = Config.fromfile(ROOT / TOY[task].format(name))
    if 'teacher_ckpt' in cfg.model:
        cfg.model.teacher_ckpt = None
    cfg.merge_from_dict(changes)
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    return MODELS.build(cfg.model)


def make_batch(task: str, rank: int) -> dict[str, list]:
    """A batch of two images, another one on each rank, as a loader gives it."""
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData, PixelData
    from mmseg.structures import SegDataSample
    generator = torch.Generator().manual_seed(rank)
    images = list(torch.randint(0, 256, (2, 3, 64, 64), generator=generator, dtype=torch.uint8))
    metainfo = dict(img_shape=(64, 64), ori_shape=(64, 64), scale_factor=(1., 1.))
    samples = []
    for _ in images:
        if task == 'det':
            sample = DetDataSample(metainfo=metainfo)
            sample.gt_instances = InstanceData(bboxes=torch.tensor([[8., 8., 40., 40.]]),
                                               labels=torch.tensor([1]))
        else:
            sample = SegDataSample(metainfo=metainfo)
            sample.gt_sem_seg = PixelData(data=torch.ones(1, 64, 64, dtype=torch.long))
        samples.append(sample)
    return dict(inputs=images, data_samples=samples)


def run_rank(rank: int, folder: str, variants: dict[str, tuple[str, str, dict]]) -> None:
    """Count the collectives of the first two steps of each variant, and save them."""
    torch.set_num_threads(1)
    torch_dist.init_process_group('gloo', init_method=f'file://{folder}/rendezvous', rank=rank,
                                  world_size=2)
    found = {}
    for key, (task, name, changes) in variants.items():
        model = build_model(task, name, **changes)
        model.init_weights()
        model = MMDistributedDataParallel(model, broadcast_buffers=False)
        collectives = Collectives(model)
        optim_wrapper = build_optim_wrapper(model, dict(optimizer=dict(type='SGD', lr=1e-3)))
        steps = []
        for step in range(2):
            # Behind the first one DDP sorts its buckets anew, which the profiler would see.
            with collectives.watch(with_profiler=step == 0):
                model.train_step(make_batch(task, rank), optim_wrapper)
            steps.append(dict(calls=dict(collectives.calls), buckets=list(collectives.buckets),
                              seen=collectives.seen))
        found[key] = steps
    torch.save(found, f'{folder}/{rank}.pth')
    del model, optim_wrapper, collectives
    _stop_gloo()
