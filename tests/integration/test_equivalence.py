"""Distillation of weight zero is plain training, bit for bit."""
import pytest
import torch

from .comparison import assert_same_student, logged
from .small_models import SMALL_MODELS, small_config, with_distillation

TWO_EPOCHS = ('rtmdet', 'yolox')


@pytest.mark.parametrize('name', [
    pytest.param(name, marks=pytest.mark.slow) if name == 'yolox' else name
    for name in SMALL_MODELS])
def test_weight_zero_is_plain_training(name, toy, train):
    def config():
        return small_config(name, toy, iters=8 if name in TWO_EPOCHS else 4)

    plain = train(config())
    distilled = train(with_distillation(config(), name, loss_weight=0))
    assert_same_student(plain, distilled)
    assert logged(distilled)['train/distill.loss_task'] == [0.0] * plain.iter


@pytest.mark.parametrize('task, weight, name', [
    ('det', 'fpn', 'akd-cwd'), ('seg', 'logits', 'cwd')])
def test_weight_zero_is_plain_training_of_toy_configs(task, weight, name, toy, train):
    options = {'optim_wrapper.clip_grad': dict(max_norm=0.1), 'train_cfg.val_interval': 100}
    zero = {f'model.distill.{weight}.loss.loss_weight': 0}
    plain = train(toy(task, 'student', **options))
    assert_same_student(plain, train(toy(task, name, **options, **zero)))
    assert 'train/grad_norm' in logged(plain)


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
