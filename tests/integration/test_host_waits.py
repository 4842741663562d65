"""Where the host waits for the device in a training step: once more with distillation."""
from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from .collectives import build_model, make_batch

# Beside what the student waits for: whether everything is finite.
ADDED = 1
aten = torch.ops.aten
# Reads a number of the device, or has as many results as the device says.
READS = {
    aten._local_scalar_dense.default, aten.equal.default, aten.is_nonzero.default,
    aten.item.default, aten.masked_select.default, aten.nonzero.default,
    aten.repeat_interleave.Tensor, aten.unique_consecutive.default, aten._unique2.default}
INDEXED = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default}


class HostWaits(TorchDispatchMode):
    """Counts, on a CPU, the operations for which the host would wait for a GPU.

    ``lift_fresh`` shows a tensor made of Python's numbers, which a GPU gets by a copy.
    """

    def __init__(self):
        super().__init__()
        self.found = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in READS or func is aten.lift_fresh.default or (func in INDEXED and any(
                index is not None and index.dtype == torch.bool for index in args[1])):
            self.found[str(func)] += 1
        return func(*args, **(kwargs or {}))


def waits(model, task):
    """Those of the forward pass of a second step, the first one being like no other."""
    data = model.data_preprocessor(make_batch(task, 0), True)
    for _ in range(2):
        with HostWaits() as counted:
            losses = model(**data, mode='loss')
    assert all(torch.as_tensor(value).isfinite().all() for parts in losses.values()
               for value in (parts if isinstance(parts, list) else [parts]))
    return counted.found


@pytest.mark.parametrize('make', [
    lambda x: x.sum().item(), lambda x: bool(x[0] > 0), lambda x: x.new_tensor([1.0, 2.0]),
    lambda x: x[x > 0], lambda x: x.nonzero(), lambda x: torch.equal(x, x)])
def test_what_counts(make):
    feature = torch.randn(3)
    with HostWaits() as counted:
        make(feature)
    assert counted.found.total() == 1
    with HostWaits() as counted:
        torch.where(feature > 0, feature.new_full((), 2.0), 0.0).mul_(0.1).add_(feature[:1])
    assert not counted.found


VARIANTS = {'K=1': {}, 'K=3': dict(num_avatars=3),
            'sampled': {'num_avatars': 2, 'uncertainty.estimator': 'sampled'},
            'noise': dict(perturbation=dict(_delete_=True, type='GaussianNoisePerturbation')),
            'mean': dict(num_avatars=2, target='mean'), 'PKD': dict(
                num_avatars=2, criterion=dict(_delete_=True, type='PKDLoss'))}


@pytest.mark.parametrize('variant', VARIANTS)
@pytest.mark.parametrize('task', ['det', 'seg'])
def test_a_distilled_step_waits_once_more(task, variant):
    name = next(iter(build_model(task, 'akd-cwd').distiller))
    changes = {f'model.distill.{name}.loss.{key}': value
               for key, value in VARIANTS[variant].items()}
    plain = waits(build_model(task, 'student'), task)
    distilled = waits(build_model(task, 'akd-cwd', **changes), task)
    assert (distilled - plain).total() == ADDED and not plain - distilled


@pytest.mark.parametrize('task, perturb_at, changes', [
    ('det', 'neck', {'uncertainty.estimator': 'sampled', 'num_avatars': 2}),
    ('seg', 'decode_head.conv_seg', dict(num_avatars=2))])
def test_avatars_from_upstream_cost_no_wait(task, perturb_at, changes):
    name = next(iter(build_model(task, 'akd-cwd').distiller))
    changes = {f'model.distill.{name}.loss.{key}': value for key, value in changes.items()}
    changes[f'model.distill.{name}.perturb_at'] = perturb_at
    plain = waits(build_model(task, 'student'), task)
    distilled = waits(build_model(task, 'akd-cwd', **changes), task)
    assert (distilled - plain).total() == ADDED


def test_boxes_cost_fgd_no_wait():
    plain = waits(build_model('det', 'student'), 'det')
    changes = {'model.distill.fpn.loss': dict(_delete_=True, type='FGDLoss')}
    distilled = waits(build_model('det', 'akd-cwd', **changes), 'det')
    assert (distilled - plain).total() == ADDED
