"""Distillation of weight zero is plain training, bit for bit."""
import pytest
import torch

WEIGHT = {'det': 'model.distill.fpn.loss.loss_weight',
          'seg': 'model.distill.logits.loss.loss_weight'}


@pytest.mark.parametrize('task', ['det', 'seg'])
@pytest.mark.parametrize('name', ['cwd', 'akd-cwd'])
def test_weight_zero_is_plain_training(task, name, toy, train):
    clip = {'optim_wrapper.clip_grad': dict(max_norm=0.1)}
    plain = train(toy(task, 'student', **clip))
    distilled = train(toy(task, name, **clip, **{WEIGHT[task]: 0}))

    expected, state = plain.model.state_dict(), distilled.model.state_dict()
    assert {key for key in state if not key.startswith('distiller.')} == set(expected)
    for key, value in expected.items():
        assert torch.equal(state[key], value), key
    for key in ('train/loss', 'train/grad_norm'):
        assert (distilled.message_hub.get_scalar(key)._log_history.tolist() ==
                plain.message_hub.get_scalar(key)._log_history.tolist())


@pytest.mark.parametrize('task', ['det', 'seg'])
def test_weight_changes_the_student(task, toy, train):
    plain = train(toy(task, 'student'))
    distilled = train(toy(task, 'akd-cwd'))
    assert any(not torch.equal(distilled.model.state_dict()[key], value)
               for key, value in plain.model.state_dict().items())


@pytest.mark.parametrize('task', ['det', 'seg'])
def test_same_seed_same_student(task, toy, train):
    first, second = (train(toy(task, 'akd-cwd')).model.state_dict() for _ in range(2))
    for key, value in first.items():
        assert torch.equal(second[key], value), key
