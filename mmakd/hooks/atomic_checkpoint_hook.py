"""Checkpoint files that are always complete."""
import copy
import os
import uuid
from collections import deque
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS
from mmengine.runner import Runner


@register_backend('atomic')
class AtomicLocalBackend(LocalBackend):
    """Local files that are replaced atomically: a reader sees the old or the new file."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write a file under a temporary name, then rename it. An error keeps the old file."""
        path = Path(filepath)
        path.parent.mkdir(parents=True, exist_ok=True)
        # Two trainings may write the same file.
        part = path.with_name(f'.{path.name}.{uuid.uuid4().hex}.part')
        try:
            with part.open('wb') as file:
                file.write(obj)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
        except BaseException:
            part.unlink(missing_ok=True)  # a full disk needs the room
            raise
        if hasattr(os, 'O_DIRECTORY'):  # so that the rename survives a power cut
            folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)


@HOOKS.register_module()
class AtomicCheckpointHook(CheckpointHook):
    """MMEngine's ``CheckpointHook``, made safe against a kill at any moment.

    On a local disk a checkpoint appears under its name when it is complete. Then the pointer
    ``last_checkpoint`` is replaced, and only then are outdated checkpoints removed. (MMEngine
    removes them first, and a kill can leave its pointer empty.) So there is always a complete
    checkpoint to resume from, also with ``max_keep_ckpts=1``. The same holds for ``save_best``. If
    ``out_dir`` is not a local folder, or ``backend_args`` is given, that backend writes.

    The arguments are those of ``CheckpointHook``. To use the hook, set
    ``default_hooks = dict(checkpoint=dict(type='AtomicCheckpointHook'))``.
    """

    backend_args: dict[str, Any] | None
    file_backend: Any
    keep_ckpt_ids: deque
    last_ckpt: Any

    def before_train(self, runner: Runner) -> None:
        """Choose the backend, and remove partial files of a killed run."""
        is_local = '://' not in str(self.out_dir or runner.work_dir)
        if is_local and self.backend_args is None and self.file_client_args is None:
            self.backend_args = dict(backend='atomic')
        super().before_train(runner)
        if is_main_process():
            for folder in {Path(runner.work_dir), *([Path(self.out_dir)] if is_local else [])}:
                for part in folder.glob('.*.part'):
                    part.unlink()

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        kept, outdated = [], []
        if self.max_keep_ckpts > 0:
            # ``save_best`` has the last one saved again.
            steps = [*(old for old in self.keep_ckpt_ids if old != step), step]
            outdated, kept = steps[:-self.max_keep_ckpts], steps[-self.max_keep_ckpts:]
            # A run that is killed before it removes them does so when it resumes.
            runner.message_hub.update_info('keep_ckpt_ids', steps)
        name = self.filename_tmpl.format(step)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        runner.save_checkpoint(
            self.out_dir, name, self.file_client_args, save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler, meta=meta, by_epoch=self.by_epoch,
            backend_args=self.backend_args, **self.args)
        if self.max_keep_ckpts > 0:
            self.keep_ckpt_ids = deque(kept)
            runner.message_hub.update_info('keep_ckpt_ids', kept)
        if is_main_process():
            AtomicLocalBackend().put(str(self.last_ckpt).encode(),
                                     Path(runner.work_dir, 'last_checkpoint'))
            for old in outdated:
                path = self.file_backend.join_path(self.out_dir, self.filename_tmpl.format(old))
                if self.file_backend.isfile(path):
                    self.file_backend.remove(path)

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        backend = self.file_backend
        removed: list[Any] = []
        # MMEngine removes the previous best one first; here it is only noted.
        self.file_backend = copy.copy(backend)
        self.file_backend.remove = removed.append
        try:
            super()._save_best_checkpoint(runner, metrics)
        finally:
            self.file_backend = backend
        for path in removed:
            backend.remove(path)
