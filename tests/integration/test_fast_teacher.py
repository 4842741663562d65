"""Real trainings whose teacher is made faster, and the same with the teacher as it is."""
import pytest
import torch

from mmakd.distillers.teacher import Teacher
from tests.distillers.norms import randomize_norms

from .comparison import logged
from .states import same

TASKS = dict(shallow=dict(tap='backbone.layer2', loss=dict(type='FeatureMSELoss'),
                          adapter=dict(type='ConvAdapter')),
             logits=dict(tap='decode_head.conv_seg', loss=dict(type='ChannelWiseDivergence')))


@pytest.fixture
def config(toy, model, tmp_path):
    """Load a toy config with a teacher whose BatchNorms have something to fold."""

    def load(task, **options):
        cfg = toy(task, 'akd-cwd', **options)
        cfg.train_cfg.val_interval = 100
        cfg.model.teacher_ckpt = str(tmp_path / 'teacher.pth')
        torch.save(randomize_norms(model(task, 'teacher')).state_dict(), cfg.model.teacher_ckpt)
        return cfg

    return load


def norms(runner):
    return sum(type(module) is torch.nn.BatchNorm2d for module in runner.model.teacher.modules())


@pytest.mark.parametrize('task', ['det', 'seg'])
def test_losses_are_those_of_the_slow_teacher(task, config, train, monkeypatch):
    """Features differ by 1e-6 or so; four iterations may make a hundred times as much of it."""
    fast = train(config(task))
    monkeypatch.setattr(Teacher, '_speed_up', lambda *args: None)
    slow = train(config(task))
    assert norms(slow) - norms(fast) > 15
    losses = logged(fast)
    assert any(key.startswith('train/distill.loss') for key in losses)
    for key, values in logged(slow).items():
        assert len(values) == len(losses[key]) == 4, key
        if 'loss' not in key:
            continue
        if 'distill' not in key and key != 'train/loss':
            # The student's own, before its first step.
            assert losses[key][0] == values[0], key
        assert losses[key] == pytest.approx(values, rel=1e-4), key
        assert losses[key][0] == pytest.approx(values[0], rel=1e-5), key


def test_training_resumed_where_other_tasks_are_active(config, train):
    """A task begins where training was interrupted: the resumed one has the same teacher."""
    def load():
        cfg = config('seg', iters=4)
        cfg.model.distill = TASKS
        cfg.default_hooks.update(
            distillation_schedule=dict(
                type='DistillationScheduleHook', tasks=['logits'], begin=2),
            exact_resume=dict(type='ExactResumeHook'))
        cfg.default_hooks.checkpoint.update(interval=2, max_keep_ckpts=-1)
        return cfg

    whole = load()
    runner = train(whole)
    assert [loss > 0 for loss in logged(runner)['train/distill.loss_logits']] == (
        [False] * 2 + [True] * 2)
    resumed = load()
    resumed.load_from, resumed.resume = f'{whole.work_dir}/iter_2.pth', True
    resumed.work_dir += '_resumed'
    train(resumed)
    expected, found = (torch.load(f'{cfg.work_dir}/iter_4.pth', weights_only=False)
                       for cfg in (whole, resumed))
    for part in ('state_dict', 'optimizer'):
        assert not same(expected[part], found[part]), part
