"""Two ranks with batch b are one rank with batch 2b."""
import pytest
import torch
import torch.distributed as torch_dist
from torch import multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

from mmakd.distillers.distill_task import DistillTask
from mmakd.utils.dist import _stop_gloo

# Each rank draws Avatars of its own, so the targets here are the teacher's maps.
CRITERIA = {
    'cwd': dict(type='ChannelWiseDivergence', tau=2.0),
    'mse': dict(type='FeatureMSELoss'),
}


def loss_config(criterion):
    return dict(type='UncertaintyFeatureLoss', criterion=CRITERIA[criterion], perturb=False,
                perturbation=dict(type='DropoutPerturbation', drop_rate=0.2))


class Distilled(nn.Module):
    """A student without batch statistics, and its task."""

    def __init__(self, criterion):
        super().__init__()
        torch.manual_seed(0)
        self.student = nn.Conv2d(3, 4, 3, padding=1)
        maps = torch.randn(1, 4, 6, 5), torch.randn(1, 6, 6, 5)
        self.task = DistillTask('fpn', maps[:1], maps[1:], loss_config(criterion))

    def forward(self, images, teacher_maps):
        return self.task([self.student(images)], [teacher_maps])


def batch():
    """Four images; the teacher's channels differ in scale, the ranks' halves too."""
    generator = torch.Generator().manual_seed(1)
    images, maps = torch.randn(4, 3, 6, 5, generator=generator), torch.randn(
        4, 6, 6, 5, generator=generator)
    maps *= torch.tensor([1., 2., .1, 5., 1., 3.]).view(1, -1, 1, 1)
    maps[2:] *= 2
    return images, maps


def steps(model, inputs):
    """Two batches, so that the running average counts; the gradient of the second."""
    for scale in 1.0, 0.5:
        model.zero_grad()
        loss = model(*(scale * part for part in inputs))
        loss.backward()
    return loss.detach()


def result(model, loss):
    return dict(loss=loss, sigma=model.task.losses[0].sigma[0],
                **{name: parameter.grad for name, parameter in model.named_parameters()})


def run_rank(rank, folder, criterion):
    torch_dist.init_process_group('gloo', init_method=f'file://{folder}/rendezvous', rank=rank,
                                  world_size=2)
    model = DistributedDataParallel(Distilled(criterion))
    loss = steps(model, [part[2 * rank:2 * rank + 2] for part in batch()])
    torch.save(result(model.module, loss), f'{folder}/{rank}.pth')
    del model
    _stop_gloo()


@pytest.mark.parametrize('criterion', CRITERIA)
def test_sigma_and_gradient(criterion, tmp_path):
    multiprocessing.spawn(run_rank, (str(tmp_path), criterion), nprocs=2)
    first, second = (torch.load(tmp_path / f'{rank}.pth') for rank in range(2))
    whole = Distilled(criterion)
    expected = result(whole, steps(whole, batch()))
    assert (first.pop('loss') + second.pop('loss')) / 2 == pytest.approx(
        expected.pop('loss').item(), rel=1e-5)
    for name, value in expected.items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], value, rtol=1e-4, atol=1e-6, msg=name)
        assert value.any()


class SeveralAvatars(Distilled):
    """A criterion with weights of its own, whose gradient from K Avatars is accumulated."""

    def __init__(self):
        super().__init__('cwd')
        self.task = DistillTask('fpn', [torch.randn(1, 4, 6, 5)], [torch.randn(1, 6, 6, 5)], dict(
            type='UncertaintyFeatureLoss', num_avatars=3,
            criterion=dict(type='MGDLoss', alpha_mgd=1e-2, lambda_mgd=0.0)))


def run_several(rank, folder):
    torch_dist.init_process_group('gloo', init_method=f'file://{folder}/rendezvous', rank=rank,
                                  world_size=2)
    own = [part[2 * rank:2 * rank + 2] for part in batch()]
    gradients = []
    for wrap in DistributedDataParallel, lambda model: model:
        model = SeveralAvatars()
        wrapped = wrap(model)  # needed as long as its gradients are
        wrapped(*own).backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    torch.save(gradients, f'{folder}/{rank}.pth')
    del wrapped
    _stop_gloo()


def test_gradient_of_several_avatars_is_averaged(tmp_path):
    multiprocessing.spawn(run_several, (str(tmp_path), ), nprocs=2)
    ranks = [torch.load(tmp_path / f'{rank}.pth') for rank in range(2)]
    assert any('criterion' in name for name in ranks[0][0])
    for name, shared in ranks[0][0].items():
        assert torch.equal(shared, ranks[1][0][name]), name
        mean = (ranks[0][1][name] + ranks[1][1][name]) / 2
        torch.testing.assert_close(shared, mean, rtol=1e-4, atol=1e-6, msg=name)
        assert shared.any(), name
