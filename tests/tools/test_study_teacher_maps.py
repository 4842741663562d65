"""The maps that a teacher of the study looks up are those that it would compute."""
import pytest
import torch

import trials.teacher_maps
from trials.tasks import TASKS


@pytest.fixture
def looked_up(toy, model, tmp_path):
    """Have the teacher of a toy config saved, and looked up."""

    def load(task, **changes):
        path = tmp_path / f'{task}.pth'
        torch.save(dict(state_dict=model(task).teacher.state_dict()), path)
        return [toy(task, 'akd-cwd', **hook, **{'model.teacher_ckpt': str(path)}, **changes)
                for hook in ({}, {'default_hooks.teacher_maps': dict(
                    type='TeacherMapsHook', folder=str(tmp_path))})]

    return load


@pytest.mark.parametrize('task', TASKS)
def test_student_is_the_same_bit_for_bit(task, looked_up, train, tmp_path, monkeypatch):
    runs, with_hook = looked_up(task)
    expected = train(runs).model.state_dict()
    runner = train(with_hook)
    for name, value in runner.model.state_dict().items():
        assert torch.equal(value, expected[name]), name
    path, = tmp_path.glob('maps_*.pth')
    rows = torch.load(path)['rows']
    assert sorted(rows.values()) == list(range(2 * 16))
    # Another cell, of fewer images, computes nothing.
    monkeypatch.setattr(trials.teacher_maps, '_compute', None)
    changes = {'train_dataloader.dataset.indices': 8}
    if task == 'det':
        changes['train_cfg.max_epochs'] = changes['train_cfg.val_interval'] = 1
    train(looked_up(task, **changes)[1])


def test_other_weights_have_other_maps(looked_up, model, train, tmp_path):
    train(looked_up('seg')[1])
    network = model('seg').teacher
    network.decode_head.conv_seg.bias.data.add_(1)
    path = tmp_path / 'seg.pth'
    cfg = looked_up('seg')[1]
    torch.save(dict(state_dict=network.state_dict()), path)
    train(cfg)
    assert len(list(tmp_path.glob('maps_*.pth'))) == 2


def test_upstream_avatars_have_their_teacher_run(looked_up, train, tmp_path):
    place = 'model.distill.logits'
    train(looked_up('seg', **{
        f'{place}.perturb_at': 'decode_head.conv_seg',
        f'{place}.loss.perturbation': dict(type='ChannelDropoutPerturbation')})[1])
    assert not list(tmp_path.glob('maps_*.pth'))
