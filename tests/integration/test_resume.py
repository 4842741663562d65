"""A resumed training ends as the uninterrupted one, bit for bit."""
import socket
import textwrap
from pathlib import Path

import pytest
import torch

import mmakd.amp  # noqa: F401

from .states import same

ROOT = Path(__file__).parents[2]

EMA = dict(type='EMAHook', momentum=0.1)
VARIANTS = {
    'plain': {},
    'best': {'default_hooks.checkpoint.save_best': 'auto'},
    'workers': {'train_dataloader.num_workers': 2, 'train_dataloader.persistent_workers': True},
    'ema': {'ema': True},
    'accumulation': {'optim_wrapper.accumulative_counts': 2},
    'bfloat16': {'optim_wrapper.type': 'CPUAmpOptimWrapper'},
    'no_seed': {'randomness': dict(seed=None)},
}


@pytest.fixture
def config(toy, model, tmp_path):

    def load(task, **changes):
        ema = changes.pop('ema', False)
        cfg = toy(task, 'akd-cwd', iters=8, **changes)
        cfg.custom_hooks += [dict(type='ExactResumeHook')] + [EMA] * ema
        if task == 'det':
            cfg.train_cfg.val_interval = 1
        else:
            cfg.train_cfg.val_interval = 4
            cfg.default_hooks.checkpoint.interval = 4
        cfg.default_hooks.checkpoint.max_keep_ckpts = -1
        # Without a seed a random teacher would be another one.
        cfg.model.teacher_ckpt = str(tmp_path / 'teacher.pth')
        if not (tmp_path / 'teacher.pth').exists():
            torch.save(model(task, 'teacher').state_dict(), cfg.model.teacher_ckpt)
        return cfg

    return load


@pytest.mark.parametrize('task, variant', [
    ('det', 'best'), ('det', 'workers'), ('det', 'no_seed'), ('seg', 'plain'), ('seg', 'workers'),
    ('seg', 'ema'), ('seg', 'accumulation'), ('seg', 'bfloat16')])
def test_same_end(task, variant, config, train):
    whole = config(task, **VARIANTS[variant])
    train(whole)
    half, end = (('epoch_1.pth', 'epoch_2.pth') if task == 'det' else
                 ('iter_4.pth', 'iter_8.pth'))
    resumed = config(task, **VARIANTS[variant])
    resumed.load_from, resumed.resume = f'{whole.work_dir}/{half}', True
    resumed.work_dir += '_resumed'
    train(resumed)
    expected, state = (torch.load(f'{cfg.work_dir}/{end}', weights_only=False)
                       for cfg in (whole, resumed))
    for part in ('state_dict', 'optimizer', 'param_schedulers', 'ema_state_dict'):
        assert (part in expected) == (part in state) == (part != 'ema_state_dict' or
                                                         variant == 'ema')
        if part in expected:
            assert not same(expected[part], state[part]), part
    # The training went on at all.
    start = torch.load(f'{whole.work_dir}/{half}', weights_only=False)
    assert same(start['state_dict'], state['state_dict'])


@pytest.mark.parametrize('task, toy_config, half, end', [
    pytest.param('det', 'akd-cwd_retinanet_shapes', 'epoch_1.pth', 'epoch_2.pth',
                 marks=pytest.mark.slow),
    ('seg', 'akd-cwd_pspnet_shapes', 'iter_2.pth', 'iter_4.pth')])
def test_two_processes(task, toy_config, half, end, workspace, script, model, monkeypatch):
    torch.save(model(task, 'teacher').state_dict(), workspace / 'teacher.pth')
    loops = ('max_epochs=2, val_interval=1' if task == 'det' else 'max_iters=4, val_interval=2')
    (workspace / 'config.py').write_text(textwrap.dedent(f"""
        _base_ = '{ROOT}/configs/{task}/toy/{toy_config}.py'
        model = dict(teacher_ckpt='teacher.pth')
        train_cfg = dict({loops})
        train_dataloader = dict(batch_size=4)
        default_hooks = dict(checkpoint=dict(
            type='AtomicCheckpointHook', interval={1 if task == 'det' else 2}))
        custom_hooks = [dict(type='PerturbationHook'), dict(type='ExactResumeHook')]
    """))

    def start(work_dir, *resume):
        with socket.socket() as free:
            free.bind(('127.0.0.1', 0))
            monkeypatch.setenv('PORT', str(free.getsockname()[1]))
        script('bash', ROOT / 'tools/dist_train.sh', 'config.py', 2, '--work-dir', work_dir,
               *resume)
        return torch.load(workspace / work_dir / end, weights_only=False)

    expected = start('whole')
    state = start('resumed', '--resume', f'whole/{half}')
    for part in ('state_dict', 'optimizer', 'param_schedulers'):
        assert not same(expected[part], state[part]), part
