"""Hooks of mmdet and mmseg that reach into ``runner.model`` and find the student there."""
from pathlib import Path

import pytest
from mmdet.models import RetinaNet
from mmengine.hooks import Hook
from mmengine.registry import MODELS
from mmengine.runner import Runner

from .comparison import logged
from .small_models import small_config, with_distillation

LAST = {'det': 'epoch_1.pth', 'seg': 'iter_4.pth'}


@MODELS.register_module()
class EpochReader(RetinaNet):
    """A student that is told the epoch, in either of two ways."""

    stage = 'first'

    def set_epoch(self, epoch):
        self.epoch = epoch

    def loss(self, *args, **kwargs):
        self.seen = [*getattr(self, 'seen', []), (self.epoch, self.stage)]
        return super().loss(*args, **kwargs)


class SetStage(Hook):

    def before_train_epoch(self, runner):
        runner.model.bbox_head.stage = runner.epoch
        if runner.epoch == 1:
            runner.model.stage = 'second'


def test_what_a_hook_sets_reaches_the_student(toy):
    cfg = toy('det', 'akd-cwd', iters=8, **{
        'train_cfg.val_interval': 100, 'model.student.type': 'EpochReader',
        'custom_hooks': [dict(type='SetEpochInfoHook'), dict(type='NumClassCheckHook')]})
    runner = Runner.from_cfg(cfg)
    runner.register_hook(SetStage())
    runner.train()
    student = runner.model.student
    assert student.seen == [(0, 'first')] * 4 + [(1, 'second')] * 4
    assert runner.model.seen == student.seen and runner.model.stage == 'second'
    assert student.bbox_head.stage == 1


def test_number_of_classes_is_checked(toy, train):
    cfg = toy('det', 'akd-cwd', **{
        'custom_hooks': [dict(type='NumClassCheckHook')],
        'model.student.bbox_head.num_classes': 7})
    with pytest.raises(AssertionError, match='`num_classes`'):
        train(cfg)


@pytest.fixture
def two_epochs(toy, train):
    """Train a small model under its teacher, with the hooks that it is shipped with."""

    def run(name):
        cfg = small_config(name, toy, iters=8)
        cfg.optim_wrapper.clip_grad = dict(max_norm=1)
        runner = train(with_distillation(cfg, name, loss_weight=1.0))
        losses = logged(runner)['train/distill.loss_task']
        assert len(losses) == 8 and min(losses) > 0
        return runner

    return run


def test_yolox_mode_switch_hook(two_epochs):
    runner = two_epochs('yolox')
    assert runner.model.student.bbox_head.use_l1
    assert len(logged(runner)['train/loss_l1']) == 4
    assert 'Mosaic' in runner.train_dataloader.dataset._skip_type_keys


@pytest.mark.slow  # test_equivalence.py runs this hook too
def test_pipeline_switch_hook(two_epochs):
    pipeline = two_epochs('rtmdet').train_dataloader.dataset.pipeline.transforms
    assert 'CachedMosaic' not in {type(step).__name__ for step in pipeline}


@pytest.mark.parametrize('task', ['det', 'seg'])
def test_pictures_are_those_of_the_plain_student(task, toy, train):
    def pictures(runner):
        folder = Path(runner.work_dir, runner.timestamp, 'vis_data', 'vis_image')
        return sorted(path.read_bytes() for path in folder.iterdir())

    draw = {'default_hooks.visualization.draw': True, 'default_hooks.visualization.interval': 1}
    options = {}
    if task == 'det':
        # So that there are boxes after four steps.
        options = {'test_cfg.score_thr': 0., 'test_cfg.max_per_img': 5}
        draw['default_hooks.visualization.score_thr'] = 0.
    cfg = toy(task, 'akd-cwd', **draw, **{
        f'model.student.{key}': value for key, value in options.items()})
    distilled = train(cfg)
    plain = Runner.from_cfg(toy(
        task, 'student', **draw, load_from=f'{cfg.work_dir}/{LAST[task]}',
        **{f'model.{key}': value for key, value in options.items()}))
    plain.val()
    assert pictures(plain) == pictures(distilled) != []
