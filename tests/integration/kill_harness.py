"""Kills a training again and again, and looks at what is left each time."""
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import torch

from mmakd.utils.checkpoint import read_checkpoint

ROOT = Path(__file__).parents[2]
# Each write to the disk takes long enough to be caught.
SLOW_DISK = """
import os
import time

fsync = os.fsync


def slow_fsync(number):
    fsync(number)
    time.sleep(0.15)


os.fsync = slow_fsync
"""
CONFIG = """
_base_ = '{base}'
custom_imports = dict(imports=['mmakd', 'slow_disk'], allow_failed_imports=False)
model = dict(teacher_ckpt='{teacher}')
train_cfg = dict(max_iters={iters}, val_interval={iters})
train_dataloader = dict(batch_size=4)
default_hooks = dict(
    exact_resume=dict(type='ExactResumeHook'), logger=dict(interval=1),
    checkpoint=dict(type='AtomicCheckpointHook', interval=2, max_keep_ckpts=1))
"""
TIMEOUT = 180


class KillHarness:
    """A training of the small segmentor that is killed at seeded moments.

    Args:
        folder (Path): Where it runs; holds ``data``.
        python (Path): The interpreter that trains.
        teacher (Path): The teacher's checkpoint.
        iters (int): Length of the training.
    """

    def __init__(self, folder, python, teacher, iters):
        self.folder = folder
        self.python = python
        self.work_dir = folder / 'run'
        (folder / 'slow_disk.py').write_text(SLOW_DISK)
        base = ROOT / 'configs/seg/toy/akd-cwd_pspnet_shapes.py'
        self.config = folder / 'killed.py'
        self.config.write_text(CONFIG.format(base=base, teacher=teacher, iters=iters))
        self.iters = iters
        self.killed = dict(writing=0, anywhere=0)
        self.written = False

    def start(self, work_dir='run'):
        env = dict(os.environ, OMP_NUM_THREADS='1', PYTHONPATH=f'{self.folder}:{ROOT}')
        command = [self.python, ROOT / 'tools/train.py', self.config, '--work-dir', work_dir,
                   '--resume']
        with open(self.folder / 'log.txt', 'a') as log:
            return subprocess.Popen([str(part) for part in command], cwd=self.folder, env=env,
                                    stdout=log, stderr=log, start_new_session=True)

    def kill(self, moment, rng):
        """Start or go on, and kill within a write, or anywhere behind the first one."""
        before = self.pointer()
        process = self.start()
        deadline = time.monotonic() + TIMEOUT
        while process.poll() is None and time.monotonic() < deadline:
            if self.pointer() != before and (moment == 'anywhere' or self.parts()):
                break
            time.sleep(0.002)
        if moment == 'anywhere':
            time.sleep(rng.uniform(0, 0.6))
        if process.poll() is None:
            within = bool(self.parts())
            os.killpg(process.pid, signal.SIGKILL)
            self.killed['writing' if within else 'anywhere'] += 1
        process.wait()

    def pointer(self):
        path = self.work_dir / 'last_checkpoint'
        return path.read_text() if path.exists() else None

    def parts(self):
        return list(self.work_dir.glob('.*.part'))

    def check(self):
        """The pointer names a whole checkpoint, once there was one."""
        if self.pointer() is None and not self.written:
            return
        self.written = True
        path = Path(self.folder, self.pointer())
        content = read_checkpoint(path, 'pointer')
        assert content['meta']['iter'] == int(path.stem.removeprefix('iter_'))

    def finish(self, work_dir='run'):
        process = self.start(work_dir)
        assert process.wait(TIMEOUT) == 0, (self.folder / 'log.txt').read_text()[-3000:]
        assert not list(Path(self.folder, work_dir).glob('.*.part'))
        return torch.load(self.folder / work_dir / f'iter_{self.iters}.pth', weights_only=False)

    def run(self, number, seed=0):
        rng = random.Random(seed)
        for turn in range(number):
            self.kill('writing' if turn % 2 == 0 else 'anywhere', rng)
            self.check()
        return self.finish()
