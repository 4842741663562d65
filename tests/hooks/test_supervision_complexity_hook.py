"""The number against numpy's, and the hook inside real Runners."""
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS, MODELS
from mmengine.runner import Runner

from mmakd.hooks import SupervisionComplexityHook
from mmakd.hooks.supervision_complexity_hook import supervision_complexity
from mmakd.utils.errors import ConfigError
from mmakd.utils.references import resolve_model

from ..integration.states import same

HOOK = 'default_hooks.supervision_complexity'


def by_numpy(features, residual):
    features, residual = (part.double().numpy() for part in (features, residual))
    n = len(features)
    kernel = features @ features.T
    kernel = kernel + 1e-3 * np.trace(kernel) / n * np.eye(n)
    return sum(column @ np.linalg.solve(kernel, column) for column in residual.T) / n


def test_formula():
    generator = torch.Generator().manual_seed(0)
    features, residual = (torch.randn(12, c, generator=generator) for c in (5, 3))
    value = supervision_complexity(features, residual)
    assert value == pytest.approx(by_numpy(features, residual)) and value > 0
    # Targets that the features express are simpler; those of twice the size four times as hard.
    simple = supervision_complexity(features, features @ torch.randn(5, 3, generator=generator))
    assert simple < 0.1 * value
    assert supervision_complexity(features, 2 * residual) == pytest.approx(4 * value)
    assert supervision_complexity(features, 0 * residual) == 0
    assert supervision_complexity(0 * features, 0 * residual) == 0
    assert np.isnan(supervision_complexity(features / 0, residual))


@pytest.fixture
def probed(toy):
    """The toy config with the hook, its teacher of random weights."""

    def load(task='seg', iters=4, **changes):
        cfg = toy(task, 'cwd', iters=iters, **{HOOK: dict(
            type='SupervisionComplexityHook', interval=2, num_positions=64), **changes})
        return cfg

    return load


def values(runner, task='logits'):
    name = f'train/supervision_complexity/{task}'
    return runner.message_hub.log_scalars[name].data[0].tolist()


@HOOKS.register_module(force=True)
class Watch(Hook):
    """Keeps the first images, the student before each iteration, and what draws give there."""

    priority = 'VERY_LOW'

    def __init__(self):
        self.images, self.states, self.draws, self.modes = [], [], [], []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.images = self.images or [image.clone() for image in data_batch['inputs']]
        self.states.append({key: value.clone()
                            for key, value in runner.model.student.state_dict().items()})
        self.modes.append([module.training for module in runner.model.modules()])
        self.draws.append([random.random(), np.random.rand(), torch.rand(()).item()])


def run(cfg):
    cfg.custom_hooks = [dict(type='Watch')]
    runner = Runner.from_cfg(cfg)
    runner.train()
    return runner, next(hook for hook in runner.hooks if isinstance(hook, Watch))


def test_logged_number(probed):
    """Computed again from the first images of the first batch, at all positions."""
    runner, seen = run(probed(**{f'{HOOK}.num_positions': 4 * 64 * 64}))
    model = runner.model

    def rows(state):
        model.student.load_state_dict(state)
        model.eval()
        features, maps, targets = [], [], []
        handle = model.decode_head.conv_seg.register_forward_pre_hook(
            lambda module, args: features.append(args[0]))
        with torch.no_grad():
            for image in seen.images:
                inputs = model.data_preprocessor(dict(inputs=[image]))['inputs']
                maps.append(model.student(inputs))
                targets.append(model.teacher(inputs))
        handle.remove()
        return [torch.cat(part).permute(0, 2, 3, 1).flatten(0, 2)
                for part in (features, maps, targets)]

    _, first, targets = rows(seen.states[0])
    logged = values(runner)
    assert len(logged) == 2 and len(seen.images) == 4
    for iteration, value in zip((0, 2), logged):
        features, _, _ = rows(seen.states[iteration])
        assert value == pytest.approx(by_numpy(features, targets - first), rel=1e-3)


def test_targets_that_the_student_predicts(probed):
    cfg = probed(**{f'{HOOK}.interval': 1})
    cfg.model.update(teacher='ema', teacher_ckpt='auto')
    cfg.default_hooks.ema_teacher = dict(type='EMATeacherHook', momentum=0.5)
    first, *later = values(run(cfg)[0])
    assert first == 0 and all(value > 0 for value in later)


@pytest.mark.parametrize('task', ['seg', 'det'])
def test_training_is_the_same(task, probed):
    """Modes that someone set stay, and so do the random streams and the student."""
    logits = {'model.distill.fpn': None, 'model.distill.cls': dict(
        tap='bbox_head.retina_cls', loss=dict(type='PKDLoss'))} if task == 'det' else {}
    runs = []
    for interval in (1, None):
        cfg = probed(task, **{f'{HOOK}.interval': interval or 1}, **logits)
        if task == 'det':
            del cfg.model.distill['fpn']
        if interval is None:
            del cfg.default_hooks['supervision_complexity']
        runs.append(run(cfg))
    (_, first), (_, second) = runs
    assert len(first.states) == 4
    assert not same(first.states, second.states)
    assert first.draws == second.draws and first.modes == second.modes
    name = 'logits' if task == 'seg' else 'cls'
    assert len(values(runs[0][0], name)) == 4 and min(values(runs[0][0], name)) > 0


def test_first_prediction_survives(probed):
    resume = {'default_hooks.exact_resume': dict(type='ExactResumeHook'),
              'default_hooks.checkpoint.interval': 3, f'{HOOK}.num_positions': 50}
    teacher = MODELS.build(resolve_model(probed().model.teacher))
    torch.save(teacher.state_dict(), 'teacher.pth')
    resume['model.teacher_ckpt'] = 'teacher.pth'
    whole, _ = run(probed(iters=6, **resume))
    state = torch.load(f'{whole.work_dir}/iter_3.pth', weights_only=False)
    saved = state['supervision_complexity']['logits']
    # 12 positions in each of four images.
    assert saved['first'].shape == (48, 7) and saved['first'].dtype == torch.float32
    assert [image.dtype for image in saved['images']] == [torch.uint8] * 4
    assert sum(image.untyped_storage().nbytes() for image in saved['images']) == 4 * 3 * 64 * 64
    resumed, _ = run(probed(iters=6, resume=True, work_dir='resumed', **resume,
                            load_from=f'{whole.work_dir}/iter_3.pth'))
    assert values(resumed) == values(whole) and len(values(whole)) == 3
    # Other positions have no first prediction; that of the iteration is taken.
    resume[f'{HOOK}.num_positions'] = 40
    again, _ = run(probed(iters=6, resume=True, work_dir='again', **resume,
                          load_from=f'{whole.work_dir}/iter_3.pth'))
    log = Path(again.log_dir, f'{again.timestamp}.log').read_text()
    assert 'the checkpoint has no first prediction at 40 positions' in log


@pytest.mark.parametrize('options, start', [
    (dict(interval=0), 'interval=0: must be an integer >= 1'),
    (dict(interval=1.5), 'interval=1.5: must be an integer >= 1'),
    (dict(interval=1, num_positions=3), 'num_positions=3: must be an integer >= 4'),
])
def test_bad_argument_is_named(options, start):
    with pytest.raises(ConfigError) as caught:
        SupervisionComplexityHook(**options)
    problem, = caught.value.problems
    assert problem.startswith(start)


@pytest.mark.parametrize('changes, start', [
    ({f'{HOOK}.task': 'logit'}, ".task='logit': the model has no such task; did you mean 'logi"),
    ({'model.distill.more': dict(tap='decode_head.conv_seg', loss=dict(type='PKDLoss'))},
     ".task=None: the model has no such task; valid: 'logits', 'more'"),
    ({'model.distill.logits.tap': 'decode_head.bottleneck'}, None),
    ({'model.distill.logits.tap': 'backbone'}, ".task='logits': the input of the tap 'backbone'"),
    ({'model.distill.logits.tap': 'backbone.stem.0', 'model.student.backbone.stem_channels': 8},
     ".task='logits': the input of the tap 'backbone.stem.0' has not the size of its output"),
])
def test_misfit_of_hook_and_model(probed, changes, start):
    runner = Runner.from_cfg(probed(**changes))
    if start is None:  # a 3x3 convolution: its features are the middle of what it sees
        runner.train()
        return
    with pytest.raises(ConfigError) as caught:
        runner.train()
    problem, = caught.value.problems
    assert problem.startswith(f'SupervisionComplexityHook{start}')


def test_model_without_tasks(toy):
    cfg = toy('seg', 'student')
    cfg.default_hooks.more = dict(type='SupervisionComplexityHook', interval=1)
    with pytest.raises(ConfigError, match=r'^SupervisionComplexityHook: the model has no distill'):
        Runner.from_cfg(cfg).train()
