"""tools/train.py and tools/test.py as a user calls them."""
import sys
from pathlib import Path

import pytest
import torch

import train
from mmakd.utils.cli import config_errors_as_messages

ROOT = Path(__file__).parents[2]
TRAIN, TEST = ROOT / 'tools/train.py', ROOT / 'tools/test.py'
TOY = ROOT / 'configs/det/toy/akd-cwd_retinanet_shapes.py'
SEG = ROOT / 'configs/seg/toy/akd-cwd_pspnet_shapes.py'
SHORT = ['train_cfg.max_epochs=1', 'train_cfg.val_interval=1']
SEG_SHORT = ['train_cfg.max_iters=2', 'train_cfg.val_interval=2']
NO_TEACHER = 'model.teacher_ckpt=None'


@pytest.fixture
def refuse(workspace, monkeypatch):
    """Call tools/train.py without a process of its own, and give the message that ends it."""

    def run(*arguments):
        monkeypatch.setattr(sys, 'argv', ['train.py', *map(str, arguments)])
        with pytest.raises(SystemExit) as ended, config_errors_as_messages():
            train.main()
        return str(ended.value)

    return run


@pytest.fixture
def write_predictions(workspace, script):
    """Test a checkpoint in run/ with all outputs of tools/test.py."""

    def run(config, checkpoint):
        script(sys.executable, TEST, config, f'run/{checkpoint}', '--work-dir', 'tested',
               '--show-dir', 'shown', '--out', 'predictions.pkl')
        pictures = [path for path in (workspace / 'shown').rglob('*')
                    if path.suffix in ('.jpg', '.png')]
        assert len(pictures) == 8
        assert (workspace / 'predictions.pkl').stat().st_size > 0

    return run


def test_a_wrong_config_gives_one_message_and_keeps_what_is_there(workspace, script):
    (workspace / 'run').mkdir()
    for name in ('epoch_1.pth', 'last_checkpoint'):
        (workspace / 'run' / name).write_text('mine')
    done = script(sys.executable, TRAIN, TOY, '--work-dir', 'run', '--cfg-options',
                  'model.distill.fpn.tap=nek', 'model.distill.fpn.loss.num_avatars=0', check=False)
    assert done.returncode == 1
    assert 'Traceback' not in done.stdout
    for problem in ('3 problems in the config', "tap='nek'", "did you mean 'neck'",
                    'num_avatars=0'):
        assert problem in done.stdout
    for name in ('epoch_1.pth', 'last_checkpoint'):
        assert (workspace / 'run' / name).read_text() == 'mine'


@pytest.mark.parametrize(('options', 'problems'), [
    (['model.teacher_ckpt=nowhere.pth'], ["model.teacher_ckpt='nowhere.pth'", 'no such file']),
    (['train_dataloader.dataset.data_root=nowhere'],
     ["train_dataloader.dataset.ann_file='nowhere/annotations/instances_train.json'"]),
    ([NO_TEACHER, 'default_hooks.perturbation.mode=linaer'],
     ["default_hooks.perturbation.mode='linaer'", "did you mean 'linear'"]),
])
def test_what_is_wrong_is_named(workspace, refuse, options, problems):
    message = refuse(TOY, '--work-dir', 'run', '--cfg-options', *options)
    for problem in problems:
        assert problem in message
    assert not list(workspace.rglob('*.pth'))


def test_missing_shapes_say_how_to_draw_them(workspace, refuse):
    (workspace / 'data').unlink()
    message = refuse(SEG)
    assert 'train_dataloader.dataset.data_prefix.img_path' in message
    assert 'python tools/make_shapes.py' in message and '--data' not in message
    message = refuse(SEG.with_name('transfer-mixed_pspnet_shapes.py'))
    assert ('Draw the data: python tools/make_shapes.py and python tools/make_shapes.py --data '
            'patchwork') in message


def test_amp_and_auto_scale_lr(workspace, script, write_predictions):
    done = script(sys.executable, TRAIN, TOY, '--work-dir', 'run', '--amp', '--auto-scale-lr',
                  '--cfg-options', NO_TEACHER, *SHORT, 'default_hooks.logger.interval=1',
                  'train_dataloader.batch_size=4')
    assert 'Scaling the original LR by 0.5' in done.stdout
    state = torch.load(workspace / 'run/epoch_1.pth', weights_only=False)['state_dict']
    assert all(value.isfinite().all() for value in state.values())
    assert {value.dtype for value in state.values() if value.is_floating_point()} == {
        torch.float32}
    write_predictions(TOY, 'epoch_1.pth')


def test_pictures_and_predictions_of_a_segmentor(script, write_predictions):
    script(sys.executable, TRAIN, SEG, '--work-dir', 'run', '--cfg-options', NO_TEACHER,
           *SEG_SHORT)
    write_predictions(SEG, 'iter_2.pth')
