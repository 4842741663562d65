"""What distillation adds to a DDP step: as many collectives, and bytes, as is documented."""
from collections import Counter

import pytest
import torch
from torch import multiprocessing

from .collectives import build_model, run_rank

FLOAT32 = 4
# A tapped level: sums of the variance and of the squares of each channel, and of positions.
SIGMA = {'all_reduce': lambda channels: (2 * channels + 1) * FLOAT32}
# A step: whether a feature or a loss is not finite anywhere.
DECISION = 'all_reduce', FLOAT32
# Channels of the teacher's maps by tapped level.
LEVELS = dict(det=(64, 64, 64), seg=(7, ))
# The toy config of each variant and what is changed in it.
VARIANTS = {
    'det student': ('det', 'student', {}),
    'det akd': ('det', 'akd-cwd', {}),
    'det akd, K=4': ('det', 'akd-cwd', {'model.distill.fpn.loss.num_avatars': 4}),
    'det resting': ('det', 'akd-cwd', {'model.distill.fpn.loss.loss_weight': 0.0}),
    'seg student': ('seg', 'student', {}),
    'seg akd': ('seg', 'akd-cwd', {}),
    'seg cwd': ('seg', 'cwd', {}),
}


@pytest.fixture(scope='module')
def ranks(tmp_path_factory):
    """The steps of both ranks by variant."""
    folder = tmp_path_factory.mktemp('collectives')
    multiprocessing.spawn(run_rank, (str(folder), VARIANTS), nprocs=2)
    return [torch.load(folder / f'{rank}.pth', weights_only=False) for rank in range(2)]


@pytest.mark.parametrize('variant', VARIANTS)
def test_collectives_of_a_step(variant, ranks):
    task, name, _ = VARIANTS[variant]
    expected = Counter()
    if name != 'student' and 'resting' not in variant:
        expected[DECISION] += 1
        if name == 'akd-cwd':
            expected.update((kind, size(channels)) for channels in LEVELS[task]
                            for kind, size in SIGMA.items())
    for steps, plain_steps in ((rank[variant], rank[f'{task} student']) for rank in ranks):
        assert len(steps) == len(plain_steps) == 2
        for step, plain in zip(steps, plain_steps):
            own = Counter(plain['calls'])
            added = Counter(step['calls']) - own
            assert added == expected and not own - Counter(step['calls'])
        # None is missed.
        assert steps[0]['seen'] == sum(steps[0]['calls'].values()) + len(steps[0]['buckets'])


@pytest.mark.parametrize('variant', VARIANTS)
def test_gradients_are_those_of_student_and_adapters(variant, ranks):
    task, name, changes = VARIANTS[variant]
    own = sum(parameter.nbytes for parameter in build_model(task, 'student').parameters()
              if parameter.requires_grad)
    adapters = 0
    if name != 'student':
        adapters = sum(parameter.nbytes for parameter in
                       build_model(task, name, **changes).distiller.parameters())
        assert bool(adapters) == (task == 'det')
    for rank in ranks:
        for step in rank[variant]:
            assert sum(step['buckets']) == own + adapters
