"""Pictures of Avatars in real trainings, through the Runner's visualizer."""
from pathlib import Path

import mmcv
import pytest
import torch
from mmengine.runner import Runner

from mmakd.utils.errors import ConfigError


def with_hook(cfg, **options):
    cfg.default_hooks.avatars = dict(type='AvatarVisualizationHook', **options)
    return cfg


@pytest.mark.parametrize(('task', 'options', 'expected'), [
    ('det', dict(interval=2, levels=[0, 2, 7]), [f'fpn.{level}_0' for level in (0, 2)]),
    ('seg', dict(interval=3, images=[1, 3]), ['logits.0_1', 'logits.0_3'])])
def test_pictures(task, options, expected, toy, train):
    runner = train(with_hook(toy(task, 'akd-cwd'), **options))
    steps = [0, 2, 4] if task == 'det' else [0, 3, 4]
    folder = next(Path(runner.work_dir).glob('*/vis_data/vis_image'))
    pictures = {path.stem: mmcv.imread(str(path)) for path in folder.glob('avatars_*.png')}
    assert set(pictures) == {f'avatars_{name}_{step}' for name in expected for step in steps}
    assert {picture.shape for picture in pictures.values()} == {(1100, 1600, 3)}
    # The student's map at the start stays; the one beside it changes.
    for name in expected:
        first, last = (pictures[f'avatars_{name}_{step}'] for step in (0, 4))
        assert (first[40:420, 960:1270] != last[40:420, 960:1270]).any()


@pytest.mark.parametrize('perturb_at', [
    None, pytest.param('decode_head.conv_seg', marks=pytest.mark.slow)])
def test_a_teacher_in_bfloat16(perturb_at, toy, train):
    cfg = with_hook(toy('seg', 'akd-cwd', **{'model.teacher_precision': 'bfloat16'}), interval=4)
    if perturb_at:
        cfg.model.distill.logits.perturb_at = perturb_at
    folder = next(Path(train(cfg).work_dir).glob('*/vis_data/vis_image'))
    assert len(list(folder.glob('avatars_logits.0_0_*.png'))) == 2


def test_the_student_is_the_same(toy, train):
    plain = train(toy('seg', 'akd-cwd'))
    drawn = train(with_hook(toy('seg', 'akd-cwd'), interval=1))
    weights = drawn.model.state_dict()
    assert all(torch.equal(value, weights[key])
               for key, value in plain.model.state_dict().items())


@pytest.mark.parametrize(('name', 'changes', 'options', 'message'), [
    ('cwd', {}, {}, 'AvatarVisualizationHook: no task has Avatars'),
    ('akd-cwd', {}, dict(images=[8]), r'AvatarVisualizationHook.images=\[8\]: the validation set '
                                      'has 8 images'),
    ('akd-cwd', {}, dict(tasks=['logit']), r"tasks=\['logit'\]: .*did you mean 'logits'"),
    ('student', {}, {}, 'AvatarVisualizationHook: the model has no distillation tasks'),
    ('akd-cwd', dict(val_cfg=None, val_dataloader=None, val_evaluator=None), {},
     'AvatarVisualizationHook: the config has no validation data'),
])
def test_wrong_config(name, changes, options, message, toy):
    cfg = with_hook(toy('seg', name), **options)
    for key, value in changes.items():
        cfg[key] = value
    with pytest.raises(ConfigError, match=message):
        Runner.from_cfg(cfg).train()


def test_wrong_arguments(toy):
    with pytest.raises(ConfigError, match=r'(?s)interval=0.*images=\[-1\].*levels=1'):
        Runner.from_cfg(with_hook(toy('seg', 'akd-cwd'), interval=0, images=[-1], levels=1))
