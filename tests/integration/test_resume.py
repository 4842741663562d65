"""A resumed training ends as the uninterrupted one, bit for bit."""
import itertools
import socket
from pathlib import Path

import pytest
import torch

import mmakd.utils.amp  # noqa: F401

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
    'mean_teacher': {'name': 'meanteacher', 'default_hooks.ema_teacher.ramp_iters': 6},
}
VARIANTS['mean_beta'] = {'name': 'beta-smoothing'}
VARIANTS['mean_teacher_accumulation'] = {**VARIANTS['mean_teacher'], **VARIANTS['accumulation']}
VARIANTS['company'] = {**VARIANTS['ema'], **VARIANTS['accumulation'], **VARIANTS['bfloat16']}
# Where training is taken up, and where it ends.
CHECKPOINTS = dict(det=('epoch_1.pth', 'epoch_2.pth'), seg=('iter_4.pth', 'iter_8.pth'))


@pytest.fixture
def config(toy, model, tmp_path):

    def load(task, **changes):
        ema = changes.pop('ema', False)
        cfg = toy(task, changes.pop('name', 'akd-cwd'), iters=8, **changes)
        cfg.custom_hooks = [EMA] * ema
        cfg.default_hooks.exact_resume = dict(type='ExactResumeHook')
        if task == 'det':
            cfg.train_cfg.val_interval = 1
        else:
            cfg.train_cfg.val_interval = 4
            cfg.default_hooks.checkpoint.interval = 4
        cfg.default_hooks.checkpoint.max_keep_ckpts = -1
        if cfg.model.teacher == 'ema':
            return cfg
        # Without a seed a random teacher would be another one.
        cfg.model.teacher_ckpt = str(tmp_path / 'teacher.pth')
        if not (tmp_path / 'teacher.pth').exists():
            torch.save(model(task, 'teacher').state_dict(), cfg.model.teacher_ckpt)
        return cfg

    return load


def check_same_end(task, variant, whole, resumed):
    half, end = CHECKPOINTS[task]
    start, expected, state = (torch.load(path, weights_only=False) for path in (
        f'{whole}/{half}', f'{whole}/{end}', f'{resumed}/{end}'))
    optional = dict(ema_state_dict='ema' in VARIANTS[variant], ema_teacher='mean' in variant)
    for part in ('state_dict', 'optimizer', 'param_schedulers', *optional):
        assert (part in expected) == (part in state) == optional.get(part, True)
        if part in expected:
            assert not same(expected[part], state[part]), part
    # The training went on at all.
    assert same(start['state_dict'], state['state_dict'])


@pytest.mark.parametrize('task, variant', [
    ('det', 'best'), ('det', 'no_seed'), ('seg', 'plain'), ('seg', 'workers'), ('seg', 'ema'),
    ('seg', 'accumulation'), ('det', 'mean_teacher'), ('seg', 'mean_beta'),
    ('seg', 'mean_teacher_accumulation'),
    *(pytest.param(*row, marks=pytest.mark.slow) for row in [
        ('det', 'workers'), ('seg', 'bfloat16')])])
def test_same_end(task, variant, config, train):
    whole = config(task, **VARIANTS[variant])
    train(whole)
    resumed = config(task, **VARIANTS[variant])
    resumed.load_from, resumed.resume = f'{whole.work_dir}/{CHECKPOINTS[task][0]}', True
    resumed.work_dir += '_resumed'
    train(resumed)
    check_same_end(task, variant, whole.work_dir, resumed.work_dir)


@pytest.mark.parametrize('task, variant', [
    ('seg', 'plain'), ('seg', 'mean_teacher'),
    *(pytest.param(task, variant, marks=pytest.mark.slow) for task, variant in [
        ('det', 'plain'), *itertools.product(
            ('det', 'seg'), ('company', 'ema', 'accumulation', 'bfloat16'))])])
def test_two_processes(task, variant, config, workspace, script, monkeypatch):
    config(task, **VARIANTS[variant]).dump(workspace / 'config.py')

    def start(work_dir, *resume):
        with socket.socket() as free:
            free.bind(('127.0.0.1', 0))
            monkeypatch.setenv('PORT', str(free.getsockname()[1]))
        script('bash', ROOT / 'tools/dist_train.sh', 'config.py', 2, '--work-dir', work_dir,
               *resume)

    start('whole')
    start('resumed', '--resume', f'whole/{CHECKPOINTS[task][0]}')
    check_same_end(task, variant, workspace / 'whole', workspace / 'resumed')
