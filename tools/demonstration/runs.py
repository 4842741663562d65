"""The trainings of the demo: where they are and what came of them."""
import json
import math
import zipfile
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
from mmengine.config import Config

from mmakd.utils.cli import last_checkpoint

ROOT = Path(__file__).resolve().parents[2]
OUT = Path('work_dirs/demo')
DATA = Path('data/shapes')
ROLES = {'teacher': 'teacher', 'student': 'student', 'cwd': 'CWD student',
         'akd-cwd': 'AKD student'}


class Task(NamedTuple):
    """One of the two halves of the demo.

    Args:
        name (str): What is learnt.
        config (str): Path of the configs, with a place for the role.
        layout (str): The layout of the data.
        metric (str): What the evaluator calls the result.
        unit (str): What everybody calls it.
        scale (float): Factor to per cent.
    """

    name: str
    config: str
    layout: str
    metric: str
    unit: str
    scale: float


TASKS = (
    Task('detection', 'configs/det/toy/{}_retinanet_shapes.py', 'coco',
         metric='coco/bbox_mAP', unit='AP', scale=100),
    Task('segmentation', 'configs/seg/toy/{}_pspnet_shapes.py', 'cityscapes',
         metric='mIoU', unit='mIoU', scale=1),
)


class Result(NamedTuple):
    """What is known of a finished training.

    Args:
        metric (float): AP or mIoU in per cent.
        step_time (float): Seconds an iteration, without waiting for data: the median.
        checkpoint_size (int): Bytes of the checkpoint file.
        num_parameters (int): Parameters and buffers of the network that is deployed.
    """

    metric: float
    step_time: float
    checkpoint_size: int
    num_parameters: int


@dataclass
class Run:
    """One training, in the work directory that the stock scripts use too.

    Args:
        task (Task): What it learns.
        role (str): A key of :data:`ROLES`.
        teacher (Run, optional): The training that must be finished before. Defaults to None.

    Attributes:
        result (Result): Set by :meth:`collect`.
    """

    task: Task
    role: str
    teacher: 'Run | None' = None
    result: Result = field(init=False)

    def __post_init__(self) -> None:
        self.config = self.task.config.format(self.role)
        self.name = Path(self.config).stem
        self.title = f'{self.task.name} {ROLES[self.role]}'
        self.work_dir = Path('work_dirs', self.name)
        self.log = OUT / 'logs' / f'{self.name}.log'
        self.cfg = Config.fromfile(ROOT / self.config)

    @cached_property
    def checkpoint(self) -> Path:
        """Path: The last checkpoint of the finished training."""
        loop = self.cfg.train_cfg
        name = f'epoch_{loop.max_epochs}' if 'max_epochs' in loop else f'iter_{loop.max_iters}'
        return self.work_dir / f'{name}.pth'

    @property
    def finished(self) -> bool:
        """bool: Whether the last checkpoint is there, and complete: a zip, whose index is last."""
        return zipfile.is_zipfile(self.checkpoint)

    @cached_property
    def steps(self) -> int:
        """int: Number of iterations."""
        loop = self.cfg.train_cfg
        if 'max_iters' in loop:
            return loop.max_iters
        num_images = json.loads(self._data.read_text())['count'][0]
        return loop.max_epochs * math.ceil(num_images / self.cfg.train_dataloader.batch_size)

    @property
    def _data(self) -> Path:
        return DATA / self.task.layout / 'shapes.json'

    def stale_because(self) -> str | None:
        """Tell why what lies in the work directory must be neither continued nor reported.

        Returns:
            str | None: The reason; None where there is nothing, or nothing wrong with it.
        """
        # Without the first condition it logs that there is none.
        saved = any(self.work_dir.glob('*.pth')) and last_checkpoint(str(self.work_dir))
        if not saved:
            return None
        # The checkpoint's own record, since tools/test.py writes its config to this place too.
        text = load_checkpoint(saved)['meta']['cfg']
        if _training_keys(Config.fromstring(text, '.py')) != _training_keys(self.cfg):
            return 'was trained with another config'
        for path in [self._data, *([self.teacher.checkpoint] if self.teacher else [])]:
            if not path.is_file() or path.stat().st_mtime > Path(saved).stat().st_mtime:
                return f'is older than {path}'
        return None

    def move_aside(self) -> Path:
        """Rename the work directory, so that nothing in it is lost or mixed with a new training.

        Returns:
            Path: The new name.
        """
        return self.work_dir.rename(f'{self.work_dir}.{datetime.now():%Y%m%d_%H%M%S}')

    def find_metric(self) -> float | None:
        """Find the final result in the logs of the training, or of a later test.

        Returns:
            float | None: AP or mIoU in per cent; None where it was not evaluated.
        """
        if not self.finished:
            return None
        logs = [*self.work_dir.glob('*/vis_data/scalars.json'),
                *(OUT / 'tests' / self.name).glob('*/*.json')]
        saved_at = self.checkpoint.stat().st_mtime
        last = self.cfg.train_cfg.get('max_epochs', self.cfg.train_cfg.get('max_iters'))
        for log in logs:
            if log.stat().st_mtime < saved_at:
                continue
            for line in log.read_text().splitlines():
                scalars = json.loads(line)
                if self.task.metric in scalars and scalars.get('step', last) == last:
                    return self.task.scale * scalars[self.task.metric]
        return None

    def collect(self, metric: float) -> None:
        """Note the result of the finished training.

        Args:
            metric (float): AP or mIoU in per cent.
        """
        checkpoint = load_checkpoint(self.checkpoint)
        scalars = checkpoint['message_hub']['log_scalars']
        times, waits = (scalars[f'train/{key}'].data[0] for key in ('time', 'data_time'))
        self.result = Result(
            metric, median(times - waits), self.checkpoint.stat().st_size,
            sum(value.numel() for key, value in checkpoint['state_dict'].items()
                if not key.startswith('distiller.')))


def plan_runs() -> list[Run]:
    """List all trainings, the teachers first.

    Returns:
        list[Run]: The trainings; a student comes after its teacher.
    """
    teachers = {task: Run(task, 'teacher') for task in TASKS}
    students = [
        Run(task, role, None if role == 'student' else teachers[task])
        for role in ROLES if role != 'teacher' for task in TASKS
    ]
    return [*teachers.values(), *students]


def load_checkpoint(path: str | Path) -> dict:
    """Load a checkpoint that the demo itself trained.

    Args:
        path (str | Path): The file.

    Returns:
        dict: All that MMEngine saves, logs included, which is more than weights.
    """
    return torch.load(path, map_location='cpu', weights_only=False)


def _training_keys(cfg: Config) -> dict:
    """Take what decides the result, without where and how it was launched."""
    launch = ('launcher', 'load_from', 'resume', 'work_dir')
    return {key: value for key, value in cfg.to_dict().items() if key not in launch}
