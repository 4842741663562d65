"""Each loss in two DDP processes without ``find_unused_parameters``, also where one has no RoI."""
import pytest
import torch
import torch.distributed as torch_dist
from torch import multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

from mmakd import losses
from mmakd.distillers.distill_task import DistillTask
from mmakd.losses import UncertaintyFeatureLoss
from mmakd.utils.dist import _stop_gloo
from tests.properties.criteria import KINDS, samples

from .collectives import Collectives

# The properties do not hold for it: it also compares with labels.
ALL = {**KINDS, 'BetaSmoothingLoss': {}}
NUMBERS = (2, 2), (0, 2), (2, 0), (0, 0)  # of images, or of RoIs, of both ranks in each step


class Distilled(nn.Module):

    def __init__(self, loss):
        super().__init__()
        torch.manual_seed(0)
        self.student = nn.Conv2d(3, 4, 3, padding=1)
        self.task = DistillTask('fpn', [torch.randn(1, 4, 8, 8)], [torch.randn(1, 6, 8, 8)], loss,
                                data_samples=samples(2))

    def forward(self, images, teacher_maps, boxes):
        return self.task([self.student(images)], [teacher_maps], boxes)


def configs():
    """By name the loss alone and behind Avatars."""
    alone = {kind: dict(type=kind, **options) for kind, options in ALL.items()}
    return alone | {f'{kind} of Avatars': dict(
        type='UncertaintyFeatureLoss', criterion=loss, num_avatars=2)
        for kind, loss in alone.items()}


def run_rank(rank, folder):
    torch.set_num_threads(1)
    torch_dist.init_process_group('gloo', init_method=f'file://{folder}/rendezvous', rank=rank,
                                  world_size=2)
    found = {}
    for name, loss in configs().items():
        # broadcast_buffers as MMEngine has it.
        model = DistributedDataParallel(Distilled(loss), broadcast_buffers=False)
        collectives = Collectives(model)
        steps = []
        for numbers in NUMBERS:
            model.zero_grad()
            generator = torch.Generator().manual_seed(rank)
            maps = [torch.randn(numbers[rank], channels, 8, 8, generator=generator)
                    for channels in (3, 6)]
            with collectives.watch(with_profiler=False):
                model(*maps, samples(numbers[rank])).backward()
            steps.append((dict(collectives.calls), list(collectives.buckets), {
                key: parameter.grad for key, parameter in model.module.named_parameters()
                if parameter.requires_grad}))
        found[name] = steps
    torch.save(found, f'{folder}/{rank}.pth')
    del model, collectives
    _stop_gloo()


@pytest.fixture(scope='module')
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp('losses')
    multiprocessing.spawn(run_rank, (str(folder), ), nprocs=2)
    return [torch.load(folder / f'{rank}.pth', weights_only=False) for rank in range(2)]


def test_no_loss_is_left_out():
    ours = {name for name in losses.__all__ if isinstance(getattr(losses, name), type)}
    assert ours == {*ALL, UncertaintyFeatureLoss.__name__}


@pytest.mark.parametrize('name', configs())
def test_both_ranks_run_the_same(name, ranks):
    for number, (first, second) in enumerate(zip(*(rank[name] for rank in ranks))):
        assert first[:2] == second[:2] and first[1], 'collectives and buckets'
        for key, gradient in first[2].items():
            assert gradient is not None and torch.equal(gradient, second[2][key]), key
            assert gradient.isfinite().all()
        if 0 in NUMBERS[number] and NUMBERS[number] != (0, 0):
            assert first[2]['student.weight'].any()
    assert not ranks[0][name][-1][2]['student.weight'].any()
