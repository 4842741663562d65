"""Errors before and in the first iteration of a real training."""
from pathlib import Path

import pytest
from mmengine.hooks import Hook
from mmengine.registry import HOOKS, MODELS, TRANSFORMS
from torch import nn

from mmakd.checks import train
from mmakd.utils.errors import ConfigError


@MODELS.register_module()
class FailsAtCall(nn.Module):
    """A loss of a user's own, sound in the dry run."""

    def __init__(self, call):
        super().__init__()
        self.call = call
        self.calls = 0

    def forward(self, preds_S, preds_T):
        self.calls += 1
        if self.training and self.calls > self.call:
            raise OSError('the disk is full')
        return (preds_S - preds_T.mean()).square().mean()


@TRANSFORMS.register_module()
class FailsOnImages:

    def __call__(self, results):
        raise OSError('the disk is full')


@HOOKS.register_module()
class Counter(Hook):
    iterations = 0

    def after_train_iter(self, runner, *args, **kwargs):
        Counter.iterations += 1


@pytest.fixture
def cfg(toy):
    Counter.iterations = 0
    cfg = toy('seg', 'cwd', custom_hooks=[dict(type='Counter')])
    cfg.launcher = 'none'
    return cfg


def test_a_sound_config_trains(cfg):
    train(cfg)
    assert Counter.iterations == 4


def test_the_first_iteration_names_the_part_at_work(cfg, capsys):
    # The dry run at construction calls the loss once.
    cfg.model.distill.logits.loss = dict(type='FailsAtCall', call=1)
    with pytest.raises(ConfigError, match=r'^model: fails in the first iteration: OSError: the '
                                          r'disk is full'):
        train(cfg)
    assert Counter.iterations == 0
    assert 'in forward' in capsys.readouterr().err  # the traceback


def test_a_batch_that_cannot_be_loaded_names_its_dataloader(cfg):
    cfg.train_dataloader.dataset.pipeline.insert(0, dict(type='FailsOnImages'))
    with pytest.raises(ConfigError, match=r'^train_dataloader: fails in the first iteration: '
                                          r'OSError: the disk is full'):
        train(cfg)


def test_an_error_of_a_worker_is_the_original_one(cfg):
    cfg.train_dataloader.dataset.pipeline.insert(0, dict(type='FailsOnImages'))
    cfg.train_dataloader.num_workers = 1
    cfg.train_dataloader.persistent_workers = False
    with pytest.raises(ConfigError, match=r'^train_dataloader: fails in the first iteration: '
                                          r'OSError: the disk is full'):
        train(cfg)


def test_a_data_set_that_cannot_be_read_names_its_dataloader(cfg, workspace):
    cfg.val_dataloader.batch_size = 'four'
    with pytest.raises(ConfigError, match=r'^val_dataloader or val_evaluator: '):
        train(cfg)


def test_a_hook_that_fails_behind_the_first_iteration_is_one_of_the_hooks(cfg):
    cfg.default_hooks.checkpoint.interval = None
    with pytest.raises(ConfigError, match=r'^default_hooks or custom_hooks: fails in the first '
                       'iteration: TypeError: '):
        train(cfg)


def test_metrics_that_cannot_be_built_are_named(cfg):
    cfg.val_evaluator = dict(type='mmdet.CocoMetric', ann_file=0.5)
    with pytest.raises(ConfigError, match=r'^val_dataloader or val_evaluator: '):
        train(cfg)


def test_later_errors_stay_as_they_are(cfg):
    cfg.model.distill.logits.loss = dict(type='FailsAtCall', call=3)
    with pytest.raises(OSError, match='the disk is full'):
        train(cfg)
    assert Counter.iterations == 2


def test_problems_of_model_hooks_and_data_come_together(cfg):
    cfg.model.distill.logits.tap = 'decode_head.conv_sg'
    cfg.default_hooks.perturbation = dict(type='PerturbationHook', mode='linaer')
    cfg.train_dataloader.dataset.data_root = 'nowhere'
    with pytest.raises(ConfigError) as caught:
        train(cfg)
    starts = [problem.split('=')[0].split(' (')[0] for problem in caught.value.problems]
    assert starts == ['model.distill.logits.tap', 'model.distill.logits.tap',
                      'default_hooks.perturbation.mode',
                      'the config names data that does not exist']
    # In the numbered list the lines of one problem are aligned.
    start = str(caught.value).split('\n  4. ')[1].splitlines()
    assert start[1].startswith('       train_dataloader.dataset.')
    assert start[-1].startswith('     Put the data there')
    assert not Path(cfg.work_dir).exists()
