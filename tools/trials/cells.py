"""One cell of the study: an arm with a seed on a data set."""
import copy
import hashlib
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config

from mmakd.utils.errors import ConfigError
from trials.arms import ARMS, BASES, Arm
from trials.tasks import DATA, DRAWN, ROOT, TASKS

TEACHER = 'teacher'
# In iterations: what a kill can cost.
_CHECKPOINT_INTERVAL = 100


class Setting(NamedTuple):
    """What the search chooses for a base.

    Args:
        tau (float, optional): The temperature; None where there is none.
        loss_weight (float): The weight.
    """

    tau: float | None
    loss_weight: float


class Place(NamedTuple):
    """Where the study reads and writes.

    Args:
        data (Path, optional): The folder of the data sets; None to know results by their hash
            alone, those of the data as drawn by default. Defaults to ``data``.
        work (Path): The folder of claims, of unfinished trainings and of what teachers predict.
        iters (int, optional): Iterations of every training in a rehearsal. Defaults to None, those
            of the study.
        teachers (Path): The folder of the teachers' weights, which belong to the results.
    """

    data: Path | None = Path('data')
    work: Path = Path('work_dirs/study')
    iters: int | None = None
    teachers: Path = Path('docs/study/teachers')


@dataclass(frozen=True)
class Cell:
    """One training.

    Args:
        data (str): A key of :data:`trials.tasks.DATA`.
        task (str): A key of :data:`trials.tasks.TASKS`.
        arm (str): A key of :data:`trials.arms.ARMS`; ``'teacher'``; in the search for a setting a
            key of :data:`trials.arms.BASES`.
        seed (int): Of initialisation, data order and augmentation, which arms share.
        setting (Setting, optional): Of the arm's base. Defaults to None, no base.
        place (Place): Where it trains. Defaults to the folders of the project.
    """

    data: str
    task: str
    arm: str
    seed: int
    setting: Setting | None = None
    place: Place = Place()  # noqa: RUF009

    def __str__(self) -> str:
        setting = ', '.join(f'{name}={value:g}' for name, value in self._settings().items())
        return (f'{self.data} {self.task} {self.arm} seed {self.seed}'
                f'{f" ({setting})" if setting else ""}')

    @property
    def teachers(self) -> list['Cell']:
        """list[Cell]: The trainings whose weights it needs."""
        arm = _arm(self.arm)
        return [Cell(self.data, self.task, TEACHER, seed, place=self.place)
                for seed in (arm.teachers if arm.base else ())]

    @property
    def config_hash(self) -> str:
        """str: Of what decides the result, but for seed, folders and installed versions."""
        return self._compared()[1]

    @property
    def work_dir(self) -> Path:
        """Path: Where it trains; a training with another config has another folder."""
        setting = ''.join(f'_{name}{value:g}' for name, value in self._settings().items())
        return self.place.work / f'{self.data}_{self.task}' / (
            f'{self.arm}{setting}_{self.seed}_{self.config_hash}')

    @property
    def weights(self) -> Path:
        """Path: Where the weights of a teacher are kept."""
        return self.place.teachers / (
            f'{self.data}_{self.task}_{self.seed}_{self.config_hash}.pth')

    def config(self) -> Config:
        """Build the config of the training.

        Raises:
            ConfigError: If the data set is not there.
        """
        cfg = copy.deepcopy(self._compared()[0])
        weights = [str(teacher.weights) for teacher in self.teachers]
        if weights:
            cfg.default_hooks.teacher_maps = dict(
                type='TeacherMapsHook', folder=str(self.place.work))
        if len(weights) == 1:
            cfg.model.teacher_ckpt = weights[0]
        for index, path in enumerate(weights[1:] and weights):
            cfg.model.teacher[_name(index)].ckpt = path
        _set_data_root(cfg, f'{self.place.data}/{self.data}/')
        cfg.randomness = dict(seed=self.seed)
        cfg.work_dir = str(self.work_dir)
        cfg.experiment_name = self.work_dir.name
        return cfg

    def measure(self, runner: Any) -> dict[str, Any]:
        """Measure what its result tells besides, when the Runner has trained and tested."""
        return {}

    def _compared(self) -> tuple[Config, str]:
        return _compared_config(self.data, self.task, self.arm, self.setting, self.place)

    def _settings(self) -> dict[str, float]:
        return {name: value for name, value in (
            self.setting._asdict().items() if self.setting else ()) if value is not None}


@cache
def _compared_config(data: str, task_name: str, arm_name: str, setting: Setting | None,
                     place: Place) -> tuple[Config, str]:
    """Build the config of an arm without seed and folders of its own; and its hash."""
    task = TASKS[task_name]
    manifest = _manifest(data, task_name, place)
    arm = _arm(arm_name)
    length = task.time_ratio if arm.same_time else arm.length
    iters = place.iters or (
        task.teacher_iters if arm_name == TEACHER else round(length * task.iters))
    cfg = copy.deepcopy(
        _toy_config(data, task_name, 'teacher' if arm_name == TEACHER else 'student'))
    _shorten(cfg, iters)
    _adapt_to_data(cfg, data, task_name)
    if arm.images != 1:
        cfg.train_dataloader.dataset.indices = round(arm.images * manifest['count'][0])
    if arm.base and setting:
        cfg.model = _distiller(cfg.model, data, task_name, arm, setting)
        cfg.default_hooks.perturbation = dict(type='PerturbationHook')
    cfg.merge_from_dict(arm.changes)
    text = json.dumps([cfg.to_dict(), manifest], sort_keys=True, default=str)
    return cfg, hashlib.sha256(text.encode()).hexdigest()[:12]


def _arm(name: str) -> Arm:
    """Find an arm; a base in the search is an arm without additions."""
    return Arm(name) if name == TEACHER else ARMS.get(name) or Arm(name, name)


def _name(teacher: int) -> str:
    return 'ab'[teacher]


def _manifest(data: str, task: str, place: Place) -> dict[str, Any]:
    """Read how a data set was made."""
    if place.data is None:
        return DRAWN[data]
    path = place.data / data / TASKS[task].layout / f'{data}.json'
    if not path.is_file():
        options = '' if data == 'shapes' else f' --data {data}'
        raise ConfigError(f'data={data}: {path.parent} is not there or incomplete; run '
                          f'python tools/make_shapes.py{options}')
    manifest = json.loads(path.read_text())
    # What manifests may come to name as well leaves the hashes of results as they are.
    return {key: manifest[key] for key in DRAWN[data]}


@cache
def _toy_config(data: str, task_name: str, role: str) -> Config:
    task = TASKS[task_name]
    # A Runner shows its config three times, and each takes more than a second to format. The
    # argument of fromfile has no effect.
    cfg = Config(Config.fromfile(ROOT / task.config.format(role)).to_dict(),
                 format_python_code=False)
    if role == 'teacher':
        cfg.merge_from_dict(task.teacher)
    if DATA[data]:
        cfg.merge_from_dict({task.num_classes: len(DATA[data]) + task.background})
    return cfg


def _shorten(cfg: Config, iters: int) -> None:
    """Train by iterations, and test once at the end."""
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=iters)
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    cfg.train_dataloader.sampler = dict(type='InfiniteSampler', shuffle=True)
    _, decay = cfg.param_scheduler
    decay.pop('convert_to_iter_based', None)
    decay.update({'T_max' if 'T_max' in decay else 'end': iters}, by_epoch=False)
    cfg.log_processor = dict(by_epoch=False)
    cfg.default_hooks.update(
        logger=dict(type='LoggerHook', interval=50, log_metric_by_epoch=False),
        exact_resume=dict(type='ExactResumeHook'),
        checkpoint=dict(type='AtomicCheckpointHook', by_epoch=False, max_keep_ckpts=1,
                        interval=_CHECKPOINT_INTERVAL))
    cfg.log_level = 'WARNING'


def _adapt_to_data(cfg: Config, data: str, task: str) -> None:
    """Name the classes; handwriting is not mirrored."""
    names = DATA[data]
    if not names:
        return
    next(step for step in cfg.train_dataloader.dataset.pipeline
         if step.type == 'RandomFlip').prob = 0.0
    for loader in cfg.train_dataloader, cfg.test_dataloader:
        background = loader.dataset.metainfo.classes[:TASKS[task].background]
        loader.dataset.metainfo = dict(classes=(*background, *names))


def _set_data_root(cfg: Config, folder: str) -> None:
    places = [cfg.train_dataloader.dataset, cfg.test_dataloader.dataset, cfg.test_evaluator]
    for part in places:
        for name in 'data_root', 'ann_file':
            if name in part:
                part[name] = part[name].replace('data/shapes/', folder)


def _distiller(student: dict, data: str, task_name: str, arm: Arm, setting: Setting) -> dict:
    task, base = TASKS[task_name], BASES[arm.base or '']
    criterion = dict(base.criterion, **({'tau': setting.tau} if setting.tau else {}))
    weight = setting.loss_weight / len(arm.teachers)
    extra = {**base.loss, **arm.loss}
    loss = dict(type='UncertaintyFeatureLoss', criterion=criterion, loss_weight=weight, **extra
                ) if extra else dict(criterion, loss_weight=weight)
    tap = base.tap.get(task_name, task.tap)
    distill = dict(tap=tap, loss=loss, **(dict(perturb_at=tap) if arm.upstream else {}))
    teacher = copy.deepcopy(_toy_config(data, task_name, 'teacher').model)
    model = dict(type='AvatarDistiller', student=student)
    if len(arm.teachers) == 1:
        return dict(model, teacher=teacher, teacher_ckpt=None, distill={task.layout: distill})
    names = [_name(index) for index in range(len(arm.teachers))]
    return dict(model, teacher={name: dict(cfg=teacher, ckpt=None) for name in names},
                distill={name: dict(distill, teacher=name) for name in names})
