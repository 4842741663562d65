"""`tools/study.py why`: it changes no student, and measures what it says."""
import pytest
import torch

import trials.explanation
from trials.tasks import TASKS

MEASURED = {'default_hooks.explanation': dict(type='ExplanationHook', interval=2)}


@pytest.fixture(autouse=True)
def _few_batches(monkeypatch):
    monkeypatch.setattr(trials.explanation, '_NUM_BATCHES', 2)


@pytest.mark.parametrize('task', TASKS)
def test_student_is_the_same_bit_for_bit(task, toy, train):
    plain = train(toy(task, 'akd-cwd'))
    measured = train(toy(task, 'akd-cwd', **MEASURED))
    hub = measured.message_hub
    assert [note['iter'] for note in hub.get_info('why_gradients')] == [0, 1, 2, 3]
    assert [note['iter'] for note in hub.get_info('why_sigma')] == [0, 2]
    loss = next(iter(measured.model.distiller.values())).losses
    assert len(hub.get_info('why_sigma')[0]['levels']) == len(loss)
    expected = plain.model.state_dict()
    for name, value in measured.model.state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_a_resumed_training_measures_the_same(toy, train):
    changes = {**MEASURED, 'default_hooks.checkpoint.interval': 2,
               'default_hooks.exact_resume': dict(type='ExactResumeHook')}
    whole = train(toy('seg', 'akd-cwd', **changes))
    cfg = toy('seg', 'akd-cwd', **changes)
    cfg.resume, cfg.load_from = True, f'{whole.work_dir}/iter_2.pth'
    resumed = train(cfg)
    for name in 'why_sigma', 'why_gradients':
        assert resumed.message_hub.get_info(name) == whole.message_hub.get_info(name)
