"""The smallest training that draws at random wherever one can."""
import itertools
import random

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import Dataset

_run_numbers = itertools.count()


def draw():
    """One number of each global stream."""
    return [random.random(), np.random.rand(), torch.rand(()).item()]


class Numbers(Dataset):
    """Item i is i, followed by what its augmentation draws."""

    def __len__(self):
        return 10

    def __getitem__(self, index):
        return dict(inputs=torch.tensor([index, *draw()]))


class Line(BaseModel):
    """A model with dropout."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 1)
        nn.init.constant_(self.linear.weight, 0.5)
        nn.init.zeros_(self.linear.bias)

    def forward(self, inputs, mode='tensor'):
        outputs = self.linear(nn.functional.dropout(torch.stack(inputs) / 10))
        return dict(loss=outputs.square().mean()) if mode == 'loss' else [outputs]


class Score(BaseMetric):
    """Better with every validation, and draws."""

    calls = 0

    def process(self, data_batch, data_samples):
        draw()
        self.results.append(0)

    def compute_metrics(self, results):
        Score.calls += 1
        return dict(score=Score.calls)


class Record(Hook):
    """Keeps the data of each iteration, and what is drawn before and behind it."""

    priority = 'VERY_LOW'

    def __init__(self):
        self.seen = {}

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.seen[runner.iter] = [torch.stack(data_batch['inputs']).tolist(), draw()]

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.seen[runner.iter].append(draw())


def make_runner(work_dir, by_epoch, length, hooks=(), resume=None, interval=1, sampler=None,
                batch_sampler=None, dataset=None, val=True, workers=0, checkpoint=None,
                accumulative_counts=1, seed=0, **more):
    """Make a Runner of ``length`` epochs of 5 iterations, or of iterations."""
    sampler = sampler or dict(type='DefaultSampler' if by_epoch else 'InfiniteSampler',
                              shuffle=True)
    loader = dict(dataset=Numbers() if dataset is None else dataset, sampler=sampler,
                  batch_size=2, num_workers=workers, persistent_workers=workers > 0)
    if batch_sampler:
        loader['batch_sampler'] = batch_sampler
    loop = dict(type='EpochBasedTrainLoop' if by_epoch else 'IterBasedTrainLoop',
                val_interval=interval, **{'max_epochs' if by_epoch else 'max_iters': length})
    loop.update(more.pop('train_cfg', {}))
    validation = dict(
        val_cfg=dict(), val_evaluator=[Score()], val_dataloader=dict(
            dataset=Numbers(), sampler=dict(type='DefaultSampler', shuffle=False), batch_size=5))
    hook = dict(type='AtomicCheckpointHook', by_epoch=by_epoch, interval=interval)
    return Runner(
        Line(), str(work_dir), train_dataloader=loader, train_cfg=loop,
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9),
                           accumulative_counts=accumulative_counts),
        default_hooks=dict(checkpoint={**hook, **(checkpoint or {})}), custom_hooks=list(hooks),
        load_from=resume and str(resume), resume=resume is not None,
        randomness=dict(seed=seed), experiment_name=f'small_{next(_run_numbers)}',
        log_level='WARNING', **(validation if val else {}), **more)
