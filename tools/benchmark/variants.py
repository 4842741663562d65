"""The training steps that the benchmark compares: plain, ours and MMRazor's."""
import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from mmengine.model import BaseModel, revert_sync_batchnorm
from mmengine.registry import MODELS
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from benchmark.live_mmrazor import import_mmrazor
from mmakd.distillers import AvatarDistiller, ConvAdapter
from mmakd.distillers.assembly import build_network
from mmakd.distillers.distill_task import task_taps
from mmakd.distillers.taps import forward_to_taps
from mmakd.losses import UncertaintyFeatureLoss
from mmakd.utils.errors import ConfigError
from mmakd.utils.references import resolve_model

MMRAZOR = ('FpnTeacherDistill', 'SingleTeacherDistill')
# Criteria with the same names, arguments and values as ours.
_COMMON_CRITERIA = ('ChannelWiseDivergence', 'PKDLoss')


def read_config(path: str | Path) -> Config:
    """Read a config whose distilled step is to be timed.

    Args:
        path (str | Path): The config.

    Returns:
        Config: The config; its teacher keeps random weights.

    Raises:
        ConfigError: If it is no config of ``AvatarDistiller`` with ``UncertaintyFeatureLoss``.
    """
    if not Path(path).is_file():
        raise ConfigError(f'config={str(path)!r}: no such file')
    cfg = Config.fromfile(path)
    if cfg.model.get('type') != AvatarDistiller.__name__:
        raise ConfigError(f"model.type={cfg.model.get('type')!r}: name a config whose model is an "
                          'AvatarDistiller')
    for name, task in cfg.model.distill.items():
        if task.loss.type != UncertaintyFeatureLoss.__name__:
            raise ConfigError(f'model.distill.{name}.loss.type={task.loss.type!r}: must be an '
                              'UncertaintyFeatureLoss, which is compared with its criterion')
    cfg.model.teacher_ckpt = None
    # Random weights must not grow to infinity in the course of the measurement.
    cfg.optim_wrapper.optimizer.lr = 1e-6
    return cfg


def make_batch(scope: str, size: tuple[int, int], batch: int) -> dict:
    """Make random images with random ground truth, as a dataloader gives them.

    Args:
        scope (str): 'mmdet' or 'mmseg'.
        size (tuple[int, int]): Height and width.
        batch (int): How many.

    Returns:
        dict: ``inputs`` and ``data_samples``.
    """
    # Labels that every network has.
    data = demo_mm_inputs(batch, (3, *size), num_items=[8] * batch, num_classes=2)
    if scope == 'mmseg':
        rng = np.random.default_rng(0)
        labels = [torch.from_numpy(rng.integers(0, 2, (1, *size))) for _ in range(batch)]
        data['data_samples'] = [
            SegDataSample(gt_sem_seg=PixelData(data=label), metainfo=dict(
                img_shape=size, ori_shape=size)) for label in labels
        ]
    return data


def prepare(model: BaseModel, size: tuple[int, int], device: str) -> BaseModel:
    """Bring a model where the Runner brings it, and have it take images of any size."""
    if getattr(model.data_preprocessor, 'size', None):
        model.data_preprocessor.size = size
    model = revert_sync_batchnorm(model).to(device)
    model.train()  # MMRazor's gives nothing back
    return model


class Variants:
    """Builds the models that are compared, all with the same weights.

    Args:
        cfg (Config): What :func:`read_config` gave.
        size (tuple[int, int]): Height and width of the images.
        device (str): Where they run.
    """

    def __init__(self, cfg: Config, size: tuple[int, int], device: str) -> None:
        self.cfg = cfg
        self.size = size
        self.device = device
        self._weights: dict[str, dict] = {}
        ours = self.base()
        self._weights = dict(student=copy.deepcopy(ours.student.state_dict()),
                             teacher=copy.deepcopy(ours.teacher.state_dict()),
                             distiller=copy.deepcopy(ours.distiller.state_dict()))

    def plain(self) -> BaseModel:
        """Build the student alone."""
        model = build_network(self.cfg.model.student)
        model.load_state_dict(self._weights['student'])
        return prepare(model, self.size, self.device)

    def teacher(self) -> BaseModel:
        """Build the teacher alone, in eval mode."""
        model = build_network(self.cfg.model.teacher)
        model.load_state_dict(self._weights['teacher'])
        return prepare(model, self.size, self.device).eval().requires_grad_(False)

    def teacher_forward(self, batch: dict) -> Callable[[], None]:
        """Give the teacher's forward pass to its deepest tap, in float32.

        Args:
            batch (dict): As :func:`make_batch` gives it.

        Returns:
            Callable: Runs it.
        """
        teacher = self.teacher()
        data = self.plain().data_preprocessor(copy.deepcopy(batch), True)
        taps = {task_taps(task)[1] for task in self.cfg.model.distill.values()}

        @torch.no_grad()
        def step() -> None:
            forward_to_taps(teacher, taps, data['inputs'], data['data_samples'])

        return step

    def base(self, precision: str | None = None) -> AvatarDistiller:
        """Build our distillation by the criteria alone.

        Args:
            precision (str, optional): The teacher's. Defaults to None, the config's.

        Returns:
            AvatarDistiller: The model.
        """
        cfg = copy.deepcopy(self.cfg.model)
        if precision:
            cfg.teacher_precision = precision
        for task in cfg.distill.values():
            task.loss = _criterion(task.loss)
        return self._ours(cfg)

    def akd(self, num_avatars: int = 1, levels: int | None = None, upstream: bool = False
            ) -> AvatarDistiller:
        """Build our distillation by Avatars.

        Args:
            num_avatars (int): K. Defaults to 1.
            levels (int, optional): How many of each task's levels, from the first. Defaults to
                None, the config's.
            upstream (bool): Whether the input of the tapped module is perturbed, not its output.
                sigma is sampled where it has no closed form. Defaults to False.

        Returns:
            AvatarDistiller: The model.
        """
        cfg = copy.deepcopy(self.cfg.model)
        for task in cfg.distill.values():
            task.loss.num_avatars = num_avatars
            if levels is not None:
                task.levels = list(range(levels))
            if upstream:
                task.perturb_at = task_taps(task)[1]
        try:
            return self._ours(cfg)
        except ConfigError:
            if not upstream:
                raise
            for task in cfg.distill.values():
                task.loss.uncertainty = dict(type='AvatarVariance', estimator='sampled')
            return self._ours(cfg)

    def _ours(self, cfg: dict) -> AvatarDistiller:
        model = MODELS.build(cfg)
        for module in model.modules():
            if 'Pretrained' in str(getattr(module, 'init_cfg', None)):
                module.init_cfg = None  # nothing is downloaded
        model.init_weights()
        if self._weights:
            model.student.load_state_dict(self._weights['student'])
            model.teacher.load_state_dict(self._weights['teacher'])
            model.distiller.load_state_dict(self._weights['distiller'], strict=False)
        return prepare(model, self.size, self.device)

    def tapped_elements(self, batch: int) -> list[int]:
        """Count what the teacher gives at its taps.

        Args:
            batch (int): Images a step.

        Returns:
            list[int]: Elements of the maps of each level that all tasks have, summed over tasks.
        """
        model = self.base()
        data = model.data_preprocessor(make_batch(self.cfg.default_scope, self.size, batch), True)
        with torch.no_grad():
            _, maps = model.run_with_teacher(list(model.distiller), **data, mode='tensor')
        return [sum(feature.numel() for feature in level)
                for level in zip(*(of_task.teacher for of_task in maps.values()))]

    def why_not_mmrazor(self, algorithm: str) -> str | None:
        """Tell why an algorithm of MMRazor cannot do the same.

        Args:
            algorithm (str): ``'SingleTeacherDistill'`` or ``'FpnTeacherDistill'``.

        Returns:
            str | None: The reason; None if it can.
        """
        for name, task in self.cfg.model.distill.items():
            criterion = task.loss.criterion.type
            if criterion not in _COMMON_CRITERIA:
                return f"{criterion} of task '{name}' is not in MMRazor, or has other values"
            adapter = task.get('adapter')
            is_own = isinstance(adapter, dict) and adapter['type'] != ConvAdapter.__name__
            if task.get('resize') or is_own:
                return f"it has no resize and no such adapter as task '{name}'"
            if algorithm == 'FpnTeacherDistill' and any(
                    tap.split('.')[0] not in ('backbone', 'neck') for tap in task_taps(task)):
                return f"it runs no head, where task '{name}' taps"
        return None

    def mmrazor(self, algorithm: str) -> BaseModel:
        """Build the same distillation of MMRazor.

        Args:
            algorithm (str): ``'SingleTeacherDistill'`` or ``'FpnTeacherDistill'``.

        Returns:
            BaseModel: The model.
        """
        import_mmrazor()
        recorders: dict[str, dict] = dict(student={}, teacher={})
        losses, mappings, connectors = {}, {}, {}
        for name, task in self.cfg.model.distill.items():
            for side, tap in zip(recorders, task_taps(task)):
                recorders[side][name] = dict(type='ModuleOutputs', source=tap)
            adapters = self.base().distiller.get_submodule(f'{name}.adapters').children()
            for i, adapter in enumerate(adapters):
                level = f'{name}_{i}'
                number = task.levels[i] if task.get('levels') else i
                records = [dict(from_student=side == 'student', recorder=name,
                                **_index(tap, number))
                           for side, tap in zip(recorders, task_taps(task))]
                if isinstance(adapter, ConvAdapter):
                    records[0]['connector'] = level
                    connectors[level] = dict(
                        type='ConvModuleConnector', in_channel=adapter.conv.in_channels,
                        out_channel=adapter.conv.out_channels,
                        kernel_size=adapter.conv.kernel_size, padding=adapter.conv.padding,
                        act_cfg=None)
                losses[f'loss_{level}'] = _criterion(task.loss)
                mappings[f'loss_{level}'] = dict(zip(('preds_S', 'preds_T'), records))
        model = MODELS.build(dict(
            type=algorithm, _scope_='mmrazor', architecture=self._scoped('student'),
            teacher=self._scoped('teacher'), distiller=dict(
                type='ConfigurableDistiller', student_recorders=recorders['student'],
                teacher_recorders=recorders['teacher'], distill_losses=losses,
                connectors=connectors, loss_forward_mappings=mappings)))
        model.student.load_state_dict(self._weights['student'])
        model.teacher.load_state_dict(self._weights['teacher'])
        for level, connector in model.distiller.connectors.items():
            name, i = level.rsplit('_', 1)
            for key, value in connector.state_dict().items():
                key = key.removeprefix('conv_module.')
                value.copy_(self._weights['distiller'][f'{name}.adapters.{i}.{key}'])
        return prepare(model, self.size, self.device)

    def _scoped(self, side: str) -> dict:
        return dict(resolve_model(self.cfg.model[side]), _scope_=self.cfg.default_scope)


def _criterion(loss: dict) -> dict:
    """The criterion of an UncertaintyFeatureLoss, with the weight of both."""
    criterion = copy.deepcopy(loss['criterion'])
    criterion['loss_weight'] = loss.get('loss_weight', 1.0) * criterion.get('loss_weight', 1.0)
    return criterion


def _index(tap: str, level: int) -> dict:
    """Say which map of a tap MMRazor is to take: of one call's, or of which call."""
    return dict(data_idx=level) if '.' not in tap else dict(record_idx=level)
