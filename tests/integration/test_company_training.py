"""Distillation beside EMA, accumulated gradients, clipping, checkpointing, SyncBN and bfloat16."""
import re
from itertools import pairwise

import pytest
import torch
from mmengine.hooks import EMAHook, Hook
from mmengine.runner import Runner, save_checkpoint
from torch import distributed as dist

from mmakd.utils.amp import CPUAmpOptimWrapper
from mmakd.utils.errors import ConfigError

from .comparison import assert_same_student, averages, logged, same
from .small_models import small_config, with_distillation

EMA = dict(type='EMAHook', momentum=0.1)
BFLOAT16 = {'optim_wrapper.type': CPUAmpOptimWrapper.__name__}


def config(name, toy, options, **settings):
    """A small model's training with options, distilled if there are settings."""
    cfg = small_config(name, toy)
    cfg.optim_wrapper.clip_grad = dict(max_norm=0.1)
    cfg.merge_from_dict(options)
    return with_distillation(cfg, name, **settings) if settings else cfg


@pytest.mark.parametrize('name, company', [
    ('retinanet', {'optim_wrapper.accumulative_counts': 2}), ('segformer', BFLOAT16)])
def test_company_of_ema_and_clipping(name, company, toy, train):
    """Equal to plain training where the weight is zero, and at work where it is not."""
    options = dict(company, custom_hooks=[EMA])
    plain = train(config(name, toy, options))
    assert averages(plain)
    assert_same_student(plain, train(config(name, toy, options, loss_weight=0)))

    distilled = train(config(name, toy, options, loss_weight=1.0))
    losses = logged(distilled)['train/distill.loss_task']
    assert min(losses) > 0 and max(losses) < 1e6
    adapter = 'distiller.task.adapters.0.conv.weight'
    weight, average = distilled.model.state_dict()[adapter], averages(distilled)[adapter]
    assert weight.isfinite().all() and not torch.equal(weight, average)
    assert any(not same(value, averages(distilled)[key])
               for key, value in averages(plain).items())


def test_accumulated_gradients_wait_for_the_step(toy):
    """Student and adapter change every other iteration, sigma in each."""
    cfg = config('retinanet', toy, {'optim_wrapper.accumulative_counts': 2}, loss_weight=1.0)
    runner = Runner.from_cfg(cfg)
    watched = ('neck.fpn_convs.0.conv.weight', 'distiller.task.adapters.0.conv.weight',
               'distiller.task.losses.0.uncertainty.0.running_variance')
    seen = []

    class Watch(Hook):

        def after_train_iter(self, runner, *args, **kwargs):
            state = runner.model.state_dict()
            seen.append([state[key].clone() for key in watched])

    runner.register_hook(Watch())
    runner.train()
    changes = [[not torch.equal(*pair) for pair in zip(before, after)]
               for before, after in pairwise(seen)]
    assert changes == [[True, True, True], [False, False, True], [True, True, True]]


def checkpointed(name, tap, toy, with_cp=True):
    cfg = config(name, toy, {'model.backbone.with_cp': with_cp}, loss_weight=1.0)
    cfg.model.distill.task.tap = tap
    return cfg


@pytest.mark.parametrize('name, tap', [
    ('retinanet', 'neck'), ('retinanet', 'backbone.layer3.0'), ('segformer', 'backbone')])
def test_gradient_checkpointing_gives_the_same_student(name, tap, toy, train):
    plain = train(checkpointed(name, tap, toy, with_cp=False))
    ours = train(checkpointed(name, tap, toy))
    torch.testing.assert_close(logged(ours), logged(plain), rtol=1e-4, atol=0)
    for key, value in plain.model.named_parameters():
        torch.testing.assert_close(ours.model.get_parameter(key), value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('name, tap', [
    ('retinanet', 'backbone.layer3.1.conv2'), ('segformer', 'backbone.layers.2.1.0.ffn.layers.1')])
def test_tap_inside_a_checkpointed_block(name, tap, toy, train):
    """What is run twice carries no gradient the first time, when it is recorded."""
    with pytest.raises(ConfigError, match=re.escape(f'model.distill.task.tap={tap!r}')) as caught:
        train(checkpointed(name, tap, toy))
    assert 'with_cp=False' in str(caught.value)


def test_tap_in_a_frozen_stage(toy, train):
    cfg = config('faster_rcnn', toy, {}, loss_weight=1.0)
    assert cfg.model.student.backbone.frozen_stages == 1
    # The other stages that the backbone gives are trained.
    cfg.model.distill.task.tap = 'backbone'
    assert logged(train(cfg))['train/distill.loss_task'][0] > 0
    cfg = config('faster_rcnn', toy, {}, loss_weight=1.0)
    cfg.model.distill.task.tap = 'backbone.layer1'
    with pytest.raises(ConfigError, match=r"task\.tap='backbone\.layer1'.* frozen"):
        train(cfg)


def test_shipped_sync_bn_runs_in_one_process(toy, train):
    cfg = config('pspnet', toy, {}, loss_weight=1.0)
    assert cfg.model.student.backbone.norm_cfg.type == 'SyncBN'
    model = train(cfg).model
    for network in (model, model.student):
        assert not any(isinstance(module, torch.nn.SyncBatchNorm) for module in network.modules())


def test_sync_bn_of_torch_needs_an_accelerator(model):
    """Several processes without one: torch says so, before anything of ours is at work."""
    distiller = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model('det'))
    dist.init_process_group('gloo', store=dist.HashStore(), rank=0, world_size=1)
    try:
        with pytest.raises(ValueError, match='SyncBatchNorm expected input tensor to be on'):
            distiller.train()(torch.zeros(2, 3, 64, 64), mode='tensor')
        assert distiller.eval()(torch.zeros(2, 3, 64, 64), mode='tensor')
    finally:
        dist.destroy_process_group()


def test_starts_from_a_plain_student(toy, train, workspace):
    plain = train(config('retinanet', toy, {}))
    save_checkpoint(dict(state_dict=plain.model.state_dict(), meta={}),
                    str(workspace / 'plain.pth'))
    options = {'load_from': str(workspace / 'plain.pth'), 'optim_wrapper.optimizer.lr': 0.0,
               'custom_hooks': [EMA]}
    started = train(config('retinanet', toy, options, loss_weight=1.0))
    hook = next(hook for hook in started.hooks if isinstance(hook, EMAHook))
    assert hook.ema_model.module.teacher is started.model.teacher
    for key, value in plain.model.named_parameters():
        assert torch.equal(started.model.get_parameter(key), value), key
        assert torch.equal(averages(started)[key], value), key
