"""A detector and a segmentor teach one detector in real trainings."""
import textwrap
from pathlib import Path

import pytest
import torch
from mmengine.runner import Runner

from mmakd.distillers.assembly import build_network
from mmakd.utils.errors import ConfigError

from .states import same

ROOT = Path(__file__).parents[2]
TEACHERS = dict(big=str(ROOT / 'configs/det/toy/teacher_retinanet_shapes.py'),
                other=str(ROOT / 'configs/seg/toy/teacher_pspnet_shapes.py'))
MODEL = f"""
    model = dict(
        teacher_ckpt='auto',
        teacher=dict(
            _delete_=True,
            big=dict(cfg={TEACHERS['big']!r}, ckpt='big.pth'),
            other=dict(cfg={TEACHERS['other']!r}, ckpt='other.pth')),
        distill=dict(
            fpn=dict(teacher='big'),
            backbone=dict(
                tap='backbone.layer2', teacher='other', adapter=dict(type='ConvAdapter'),
                resize=True, loss=dict(type='UncertaintyFeatureLoss',
                                       criterion=dict(type='ChannelWiseDivergence')))))
"""


@pytest.fixture
def config(toy):
    """A training of two epochs, whose second is without the segmentor."""
    def load(**changes):
        cfg = toy('det', 'akd-cwd', iters=8, **changes)
        cfg.merge_from_dict(cfg.fromstring(textwrap.dedent(MODEL), '.py').to_dict())
        cfg.default_hooks.update(
            exact_resume=dict(type='ExactResumeHook'),
            schedule=dict(type='DistillationScheduleHook', tasks=['backbone'], stop=4),
            teacher_eval=dict(type='TeacherEvalHook', teachers=['big'], cache_dir='cache'))
        cfg.train_cfg.val_interval = 1
        cfg.default_hooks.checkpoint.max_keep_ckpts = -1
        return cfg

    torch.manual_seed(0)
    for name, path in TEACHERS.items():
        torch.save(build_network(path).state_dict(), f'{name}.pth')
    return load


def test_training_and_resume(config):
    cfg = config()
    runner = Runner.from_cfg(cfg)
    ran = dict(big=[], other=[])
    for name, teacher in runner.model.teachers.items():
        teacher.network.backbone.register_forward_hook(
            lambda module, args, output, name=name: ran[name].append(len(args[0])))
    before = {name: {key: value.clone() for key, value in teacher.network.state_dict().items()}
              for name, teacher in runner.model.teachers.items()}
    runner.train()
    # TeacherEvalHook shows all 8 images of the validation to the detector.
    assert ran == dict(big=[8] + [4] * 8, other=[4] * 4)
    for name, teacher in runner.model.teachers.items():
        saved = torch.load(f'{name}.pth')
        assert not same(dict(teacher.network.state_dict()), saved)
        assert same(before[name], saved)
    logged = runner.message_hub.log_scalars
    for task, losses in (('fpn', 8), ('backbone', 4)):
        values = logged[f'train/distill.loss_{task}'].data[0]
        assert (values[:losses] > 0).all() and not values[losses:].any()
    assert 'val/teacher.big/coco/bbox_mAP' in logged
    assert not any('teacher.other' in name for name in logged)

    resumed = config(work_dir=f'{cfg.work_dir}_resumed', resume=True,
                     load_from=f'{cfg.work_dir}/epoch_1.pth')
    Runner.from_cfg(resumed).train()
    first, whole, end = (torch.load(path, weights_only=False) for path in (
        f'{cfg.work_dir}/epoch_1.pth', f'{cfg.work_dir}/epoch_2.pth',
        f'{resumed.work_dir}/epoch_2.pth'))
    for part in 'state_dict', 'optimizer':
        assert not same(whole[part], end[part])
    assert same(first['state_dict'], end['state_dict'])
    assert not any('teacher' in key for key in end['state_dict'])


def test_a_segmentor_has_no_score_on_boxes(config):
    cfg = config()
    cfg.default_hooks.teacher_eval.teachers = None
    runner = Runner.from_cfg(cfg)
    with pytest.raises(ConfigError, match=(
            r'^TeacherEvalHook: the teacher\.other cannot be evaluated .* teachers=\[\.\.\.\] ')):
        runner.train()
    assert runner.iter == 0


def test_two_processes(config, workspace, script, monkeypatch, free_port):
    (workspace / 'config.py').write_text(textwrap.dedent(f"""
        _base_ = '{ROOT}/configs/det/toy/akd-cwd_retinanet_shapes.py'
        train_dataloader = dict(batch_size=8)
        train_cfg = dict(max_epochs=1, val_interval=1)
    """) + textwrap.dedent(MODEL))
    monkeypatch.setenv('PORT', free_port)
    script('bash', ROOT / 'tools/dist_train.sh', 'config.py', 2, '--work-dir', 'work')
    state = torch.load('work/epoch_1.pth', weights_only=False)['state_dict']
    sigma = [key for key in state if key.endswith('running_variance')]
    assert len(sigma) == 4 and all(state[key].any() for key in sigma)
    assert not any('teacher' in key for key in state)
