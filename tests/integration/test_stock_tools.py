"""The scripts that ship inside mmdet and mmseg run our configs."""
import importlib.util
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Where the package hides its scripts, a short training, and the metric it ends with.
CASES = {
    'det': ('mmdet', ['train_cfg.max_epochs=2', 'train_cfg.val_interval=2'], 'epoch_2.pth',
            'bbox_mAP'),
    'seg': ('mmseg', ['train_cfg.max_iters=8', 'train_cfg.val_interval=8'], 'iter_8.pth', 'mIoU'),
}
NAME = {'det': 'retinanet', 'seg': 'pspnet'}


def metric(output, name):
    return re.findall(rf'{name}: +([0-9.]+)', output)[-1]


@pytest.mark.parametrize('task', ['det', 'seg'])
def test_train_and_test(task, workspace, script):
    package, short, checkpoint, name = CASES[task]
    stock = Path(importlib.util.find_spec(package).origin).parent / '.mim' / 'tools'
    toy = ROOT / 'configs' / task / 'toy'
    distilled = toy / f'akd-cwd_{NAME[task]}_shapes.py'
    # A score threshold of zero, so that eight steps of training already give an AP to compare.
    options = ['model.student.test_cfg.score_thr=0.'] if task == 'det' else []
    trained = script(sys.executable, stock / 'train.py', distilled, '--work-dir', 'run',
                     '--cfg-options', 'model.teacher_ckpt=None',
                     'default_hooks.logger.interval=1', *short, *options)
    assert 'distill.loss_' in trained.stdout
    assert 'perturbation_strength: 1.0000' in trained.stdout
    assert 'sigma/' in trained.stdout

    ours = script(sys.executable, stock / 'test.py', distilled, f'run/{checkpoint}', '--work-dir',
                  'ours', *(['--cfg-options', *options] if options else []))
    options = [option.replace('.student', '') for option in options]
    plain = script(sys.executable, stock / 'test.py', toy / f'student_{NAME[task]}_shapes.py',
                   f'run/{checkpoint}', '--work-dir', 'plain',
                   *(['--cfg-options', *options] if options else []))
    assert metric(ours.stdout, name) == metric(plain.stdout, name) == metric(trained.stdout, name)
    assert 'missing keys' not in ours.stdout
