"""sigma over the ranks of a gloo group."""
import time

import pytest
import torch
import torch.distributed as torch_dist
from torch import multiprocessing

from mmakd.avatars import AvatarVariance, DropoutPerturbation
from tests.avatars.sigma import update


def features():
    """Maps of two ranks, which differ in scale, number of images and size."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 3, 4, 5, generator=generator),
            4 * torch.randn(1, 3, 6, 6, generator=generator)]


def run_rank(rank, folder):
    torch_dist.init_process_group('gloo', init_method=f'file://{folder}/rendezvous', rank=rank,
                                  world_size=2)
    uncertainty = AvatarVariance(rescale='unit')
    divide = update(uncertainty, features()[rank], DropoutPerturbation(0.2, 'zero'))
    torch.save((uncertainty.sigma, divide(torch.ones(1, 3, 1, 1))), f'{folder}/{rank}.pth')
    time.sleep(0.1)  # else torch 2.1 hangs now and then; see mmakd/dist.py
    torch_dist.destroy_process_group()


def test_every_position_of_every_rank_counts_once(tmp_path):
    multiprocessing.spawn(run_rank, (str(tmp_path), ), nprocs=2)
    (sigma, weight), (other_sigma, other_weight) = (
        torch.load(tmp_path / f'{rank}.pth') for rank in range(2))
    assert torch.equal(sigma, other_sigma)
    assert torch.equal(weight, other_weight)

    values = torch.cat([feature.transpose(0, 1).flatten(1) for feature in features()], dim=1)
    expected = (0.2 / 0.8 * values.square().mean(1)).sqrt()
    torch.testing.assert_close(sigma.flatten(), expected)
    # The normalised map of both ranks together has unit root mean square.
    normalised = values * weight.view(-1, 1)
    assert normalised.square().mean(1).mean().sqrt().item() == pytest.approx(1, rel=1e-5)
