"""A checkpoint is the student."""
import pytest
import torch
from mmengine.runner import load_checkpoint, save_checkpoint

LAST = {'det': 'epoch_1.pth', 'seg': 'iter_4.pth'}
TASK = {'det': 'fpn', 'seg': 'logits'}


@pytest.mark.parametrize('task', ['det', 'seg'])
def test_top_level_keys_are_the_students(task, toy, train, model):
    cfg = toy(task, 'akd-cwd')
    runner = train(cfg)
    saved = torch.load(f'{cfg.work_dir}/{LAST[task]}', weights_only=False)['state_dict']
    student = model(task, 'student')
    ours = {key for key in saved if key.startswith('distiller.')}
    assert set(saved) - ours == set(student.state_dict())
    assert any('running_variance' in key for key in ours)
    assert not any('teacher' in key for key in saved)

    # The plain student takes it as it is.
    load_checkpoint(student, f'{cfg.work_dir}/{LAST[task]}')
    for key, value in student.state_dict().items():
        assert torch.equal(value, runner.model.state_dict()[key])


@pytest.mark.parametrize('task', ['det', 'seg'])
def test_loads_a_plain_students_checkpoint(task, model, tmp_path):
    student, distiller = model(task, 'student'), model(task)
    for parameter in student.parameters():
        torch.nn.init.normal_(parameter)
    kept = {key: value.clone() for key, value in distiller.state_dict().items()
            if key.startswith('distiller.')}
    save_checkpoint(dict(state_dict=student.state_dict()), str(tmp_path / 'plain.pth'))
    load_checkpoint(distiller, str(tmp_path / 'plain.pth'), strict=True)
    for key, value in student.state_dict().items():
        assert torch.equal(distiller.state_dict()[key], value)
    for key, value in kept.items():
        assert torch.equal(distiller.state_dict()[key], value)
    distiller.load_state_dict(student.state_dict(), strict=True)


def test_half_of_a_distiller_is_not_taken_for_a_plain_student(model):
    distiller = model('det')
    state = distiller.state_dict()
    del state['distiller.fpn.adapters.0.conv.weight']
    with pytest.raises(RuntimeError, match=r'distiller\.fpn\.adapters\.0\.conv\.weight'):
        distiller.load_state_dict(state, strict=True)
    state = {**model('det', 'student').state_dict(), 'unknown.weight': torch.zeros(1)}
    with pytest.raises(RuntimeError, match=r'unknown\.weight'):
        distiller.load_state_dict(state, strict=True)


@pytest.mark.parametrize('task', ['det', 'seg'])
def test_resume_restores_adapters_sigma_and_progress(task, toy, train):
    cfg = toy(task, 'akd-cwd')
    first = train(cfg)
    same = train(toy(task, 'akd-cwd', resume=True))
    assert same.iter == 4
    for key, value in first.model.state_dict().items():
        assert torch.equal(same.model.state_dict()[key], value), key

    longer = train(toy(task, 'akd-cwd', iters=8, resume=True))
    assert longer.iter == 8
    sigma = next(key for key in first.model.state_dict() if key.endswith('running_weight'))
    # Bias correction went on from the first four batches: 1 - 0.9^8.
    assert longer.model.state_dict()[sigma].item() == pytest.approx(1 - 0.9**8)


@pytest.mark.parametrize('task', ['det', 'seg'])
def test_a_teacher_of_our_own_training(task, toy, train):
    teacher = toy(task, 'teacher')
    trained = train(teacher).model.eval()
    loaded = train(toy(task, 'akd-cwd', **{
        'model.teacher_ckpt': f'{teacher.work_dir}/{LAST[task]}'})).model.teacher
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        for expected, feature in zip(trained.extract_feat(images), loaded.extract_feat(images)):
            assert expected.any()
            torch.testing.assert_close(feature, expected, rtol=1e-4, atol=1e-5)
    weights = {key: value for key, value in loaded.state_dict().items() if 'bbox_head' in key}
    assert bool(weights) == (task == 'det')
    for key, value in weights.items():
        assert torch.equal(value, trained.state_dict()[key]), key


@pytest.mark.parametrize('task', ['det', 'seg'])
def test_ema(task, toy, train, model):
    ema = dict(type='EMAHook', momentum=0.1)
    cfg = toy(task, 'akd-cwd', custom_hooks=[ema])
    runner = train(cfg)
    (hook, ) = (hook for hook in runner.hooks if type(hook).__name__ == 'EMAHook')
    averaged = hook.ema_model.module
    assert averaged.teacher is runner.model.teacher
    assert averaged.backbone is not runner.model.backbone
    assert averaged.student.backbone is averaged.backbone

    checkpoint = torch.load(f'{cfg.work_dir}/{LAST[task]}', weights_only=False)
    student = set(model(task, 'student').state_dict())
    for name, prefix in (('state_dict', ''), ('ema_state_dict', 'module.')):
        keys = {key.removeprefix(prefix) for key in checkpoint[name]} - {'steps'}
        assert {key for key in keys if not key.startswith('distiller.')} == student
    weight = next(key for key, _ in runner.model.named_parameters())
    assert torch.equal(checkpoint['state_dict'][weight], averaged.state_dict()[weight])
    assert not torch.equal(checkpoint['state_dict'][weight], runner.model.state_dict()[weight])
