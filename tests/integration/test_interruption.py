"""A killed training goes on from its last checkpoint."""
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
TRAIN = [sys.executable, str(ROOT / 'tools/train.py'),
         str(ROOT / 'configs/seg/toy/akd-cwd_pspnet_shapes.py'), '--work-dir', 'run', '--resume',
         '--cfg-options', 'model.teacher_ckpt=None', 'default_hooks.checkpoint.interval=2',
         'default_hooks.logger.interval=1', 'train_dataloader.batch_size=4']


def test_kill_and_resume(workspace, quick_python, script):
    command = [*TRAIN, 'train_cfg.max_iters=1000', 'train_cfg.val_interval=1000']
    env = dict(os.environ, OMP_NUM_THREADS='1')
    process = subprocess.Popen([quick_python, *command[1:]], env=env, cwd=workspace,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        pointer = workspace / 'run' / 'last_checkpoint'
        deadline = time.monotonic() + 120
        while not pointer.exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    reached = max(int(path.stem.removeprefix('iter_'))
                  for path in (workspace / 'run').glob('iter_*.pth'))

    done = script(*TRAIN, f'train_cfg.max_iters={reached + 2}',
                  f'train_cfg.val_interval={reached + 2}')
    resumed = int(re.search(r'Iter\(train\) \[ *(\d+)/', done.stdout)[1])
    assert reached - 1 <= resumed <= reached + 1
    assert f'Iter(train) [{reached + 2}/{reached + 2}]' in done.stdout
    assert (workspace / 'run' / f'iter_{reached + 2}.pth').exists()
