"""Our hooks wait for the device once an iteration at most, together."""
import functools

import pytest
import torch
from mmengine.runner import Runner
from torch.overrides import TorchFunctionMode

# On a GPU each of them waits for the work that is queued there.
WAITS = {getattr(torch.Tensor, name) for name in (
    'item', 'tolist', 'cpu', 'numpy', 'nonzero', '__bool__', '__float__', '__int__', '__index__',
    '__array__')}
HOOKS = dict(perturbation='PerturbationHook', distillation_schedule='DistillationScheduleHook',
             teacher_eval='TeacherEvalHook', exact_resume='ExactResumeHook')


class CountWaits(TorchFunctionMode):
    """Notes the iteration of each wait."""

    def __init__(self, runner):
        super().__init__()
        self.runner = runner
        self.iterations = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in WAITS:
            self.iterations.append(self.runner.iter)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize('task', ['det', 'seg'])
def test_one_wait_an_iteration(task, toy):
    cfg = toy(task, 'akd-cwd')
    cfg.default_hooks.update({key: dict(type=kind) for key, kind in HOOKS.items()})
    cfg.default_hooks.teacher_eval.cache_dir = 'cache'
    runner = Runner.from_cfg(cfg)
    waits = CountWaits(runner)

    def counted(method):
        @functools.wraps(method)
        def call(*args, **kwargs):
            with waits:
                return method(*args, **kwargs)
        return call

    ours = [hook for hook in runner.hooks if type(hook).__module__.startswith('mmakd.')]
    assert {type(hook).__name__ for hook in ours} == set(HOOKS.values())
    for hook in ours:
        for name in ('before_train_iter', 'after_train_iter'):
            setattr(hook, name, counted(getattr(hook, name)))
    runner.train()
    # That of the logged sigma.
    assert waits.iterations == list(range(runner.max_iters))
