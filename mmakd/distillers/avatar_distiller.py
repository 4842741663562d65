"""The model that is trained: a student that learns from a frozen teacher as well."""
from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from mmengine.dist import is_distributed
from mmengine.logging import MessageHub, print_log
from mmengine.model import BaseModel, BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..utils.build import wrong_types
from ..utils.dist import same_on_all_ranks
from ..utils.errors import ConfigError, ConfigProblems
from ..utils.rng import preserve_rng
from .assembly import build_network, build_tasks, published_checkpoint, read_taps
from .finite import find_nonfinite
from .gradient import check_gradient
from .inherit import inherit, inherited_keys
from .roi import RoIRecorder
from .tap_pair import TapPair
from .taps import FeatureTaps
from .teacher import Teacher

_PRECISIONS = dict(float32=torch.float32, float16=torch.float16, bfloat16=torch.bfloat16)


@MODELS.register_module()
class AvatarDistiller(BaseModel):
    """Trains a student with its own losses and with distillation tasks.

    To the rest of MMEngine the model *is* the student: its module tables are the student's, so
    parameter names, state dict, and attributes such as ``model.backbone`` are those of plain
    training. Adapters and losses sit under one more child, ``distiller``. The teacher is no
    submodule. Source: Avatar Knowledge Distillation (arXiv 2305.02722).

    Args:
        student (str | dict): A model dict, a config path, ``'mmdet::name.py'`` or
            ``'mmseg::name.py'``, or ``dict(cfg=<one of these>, **overrides)``.
        teacher (str | dict): Likewise.
        distill (dict[str, dict]): Named tasks. A task has ``tap`` (a dotted module path, the same
            on both sides) or ``student_tap`` and ``teacher_tap``, and ``loss``; optional are
            ``levels``, ``adapter`` and ``resize``; see
            :class:`mmakd.distillers.distill_task.DistillTask`.
        teacher_ckpt (str, optional): Path or URL of the teacher's weights; ``'auto'`` for those
            that the installed package's metafile names for a ``'mmdet::...'`` or ``'mmseg::...'``
            teacher; None for random weights. Loaded in :meth:`init_weights`. Defaults to
            ``'auto'``.
        teacher_strict (bool): Whether missing or unexpected keys in the checkpoint are an error,
            not a warning. Defaults to True.
        teacher_precision (str, optional): ``'float32'``, ``'float16'`` or ``'bfloat16'`` for the
            teacher's forward pass. Defaults to None, that of the student's step.
        inherit (Sequence[str]): Parts of the student, such as ``['neck', 'bbox_head']``, that
            start from the teacher's weights where names and shapes agree. Defaults to ().
        skip_nonfinite (bool): Whether a step with a feature or a loss that is not finite goes
            without distillation, and is counted in the log as ``distill.skipped_steps``, instead
            of ending the training. Defaults to False.
        data_preprocessor (dict, optional): What the Runner hands to every model where the config
            has this key at its top level, as mmseg's have: used for a student that names none.
            Defaults to None.

    Attributes:
        student (BaseModel): The plain student.
        teacher (nn.Module): The frozen teacher.
        distiller (nn.ModuleDict): The tasks by name.

    Raises:
        ConfigError: With all problems at once, if anything does not fit.
    """

    student: BaseModel
    is_init: bool

    def __init__(self, student: str | dict, teacher: str | dict, distill: dict[str, dict],
                 teacher_ckpt: str | None = 'auto', teacher_strict: bool = True,
                 teacher_precision: str | None = None, inherit: Sequence[str] = (),
                 skip_nonfinite: bool = False, data_preprocessor: dict | None = None) -> None:
        # Not BaseModel's: the data preprocessor is the student's.
        BaseModule.__init__(self)
        problems = ConfigProblems()
        given = dict(teacher_ckpt=teacher_ckpt, teacher_strict=teacher_strict,
                     teacher_precision=teacher_precision, skip_nonfinite=skip_nonfinite)
        problems.problems += [f'model.{problem}' for problem in wrong_types(given, type(self))]
        networks: list[BaseModel] = []
        with problems.under('model.student'):
            networks.append(build_network(student, data_preprocessor))
        with problems.under('model.teacher'), preserve_rng():
            networks.append(build_network(teacher))
        if teacher_precision is not None and teacher_precision not in _PRECISIONS:
            problems.add(f'model.teacher_precision={teacher_precision!r}: must be None or one of '
                         f'{", ".join(_PRECISIONS)}')
        if teacher_ckpt == 'auto':
            with problems.under('model'):
                teacher_ckpt = published_checkpoint(teacher)
        if not isinstance(distill, dict) or not distill:
            problems.add(f'model.distill={distill!r}: expected a dict of named tasks, e.g. '
                         "dict(fpn=dict(tap='neck', loss=dict(type=...)))")
        elif len(networks) == 2:
            self._taps = read_taps(distill, networks[0], networks[1], problems)
            with preserve_rng():
                tasks = build_tasks(distill, self._taps, networks[0], networks[1],
                                    problems)
            with problems.under('model'):
                inherited_keys(networks[0], networks[1], inherit)
        problems.raise_if_any()
        self._inherit = inherit
        self._share_tables(networks[0])
        self.distiller = tasks
        self._skip_nonfinite = skip_nonfinite
        if skip_nonfinite:
            tasks.register_buffer('skipped_steps', torch.zeros(()))
        self._teacher = Teacher(
            networks[1], networks[0].data_preprocessor, teacher_ckpt, teacher_strict,
            _PRECISIONS[teacher_precision] if teacher_precision else None,
            tuple(self._taps.values()))
        self.register_load_state_dict_post_hook(_accept_plain_student)

    def _share_tables(self, student: BaseModel) -> None:
        # Parameters and buffers of the top level are one table with the student's. The table of
        # children is our own, since it holds ``distiller`` too; see add_module and __setattr__.
        object.__setattr__(self, 'student', student)
        self._parameters = student._parameters
        self._buffers = student._buffers
        self._non_persistent_buffers_set = student._non_persistent_buffers_set
        self._modules = dict(student._modules)
        self.training = student.training

    def add_module(self, name: str, module: nn.Module | None) -> None:
        """Add a child, to the student as well (SyncBN conversion replaces children this way)."""
        super().add_module(name, module)
        if name != 'distiller':
            self.student.add_module(name, module)

    def __setattr__(self, name: str, value: Any) -> None:
        if self._is_the_students(name):
            # Such as ``epoch``, which a hook sets and the student reads.
            setattr(self.student, name, value)
            return
        super().__setattr__(name, value)
        if name != 'distiller' and name in self.__dict__.get('_modules', ()):
            setattr(self.student, name, value)

    def _is_the_students(self, name: str) -> bool:
        own = name in self.__dict__ or hasattr(type(self), name) or name in self._modules
        return 'student' in self.__dict__ and not own and hasattr(self.student, name)

    def __getattr__(self, name: str) -> Any:
        # What only the student's class has, such as ``with_neck``.
        try:
            return super().__getattr__(name)
        except AttributeError:
            if 'student' not in self.__dict__:
                raise
            return getattr(self.student, name)

    @property
    def teacher(self) -> nn.Module:
        """nn.Module: The frozen teacher network."""
        return self._teacher.network

    @same_on_all_ranks()
    def init_weights(self) -> None:
        """Initialise the student as in plain training, then ours, and load the teacher.

        A second call does nothing, as everywhere in MMEngine.

        Raises:
            ConfigError: If the teacher's checkpoint is missing, damaged or of another model, or
                the student's pretrained weights cannot be read.
        """
        if self.is_init:
            return
        if not self._teacher.is_loaded:
            # A deepcopy of this model shares it.
            with preserve_rng():
                self._teacher.load()
        try:
            self.student.init_weights()
        except ConfigError as error:
            raise ConfigError([f'model.student: {problem}' for problem in error.problems],
                              error.on_all_ranks) from error
        if self._inherit:
            inherit(self.student, self.teacher, self._inherit)
        with preserve_rng():
            for module in self.distiller.modules():
                if isinstance(module, BaseModule) and not module.is_init:
                    module.init_weights()
        self.is_init = True

    def train(self, mode: bool = True) -> AvatarDistiller:
        """Set the mode of the student and of our parts; the teacher stays in eval mode."""
        super().train(mode)
        self.student.train(mode)
        return self

    def _apply(self, *args: Any, **kwargs: Any) -> AvatarDistiller:
        super()._apply(*args, **kwargs)
        self._teacher.network._apply(*args, **kwargs)
        return self

    @torch.compiler.disable(recursive=False)
    def forward(self, inputs: Tensor, data_samples: list | None = None,
                mode: str = 'tensor') -> Any:
        """Run the student; in mode ``'loss'`` compare it with the teacher too.

        Where MMEngine's config key ``compile`` is set, the student is compiled up to and behind
        its taps; teacher and tasks run as they are.

        Args:
            inputs (Tensor): Images (N, 3, H, W) as the student's preprocessor gave them.
            data_samples (list, optional): Their data samples. Defaults to None.
            mode (str): ``'loss'``, ``'predict'`` or ``'tensor'``. Defaults to ``'tensor'``.

        Returns:
            Any: What the student returns; in mode ``'loss'`` its losses and
            ``distill.loss_<task>`` for each task.

        Raises:
            FloatingPointError: If a tapped feature or a distillation loss is not finite on any
                rank, on all of them.
        """
        if mode != 'loss':
            return self.student(inputs, data_samples, mode=mode)
        active = [name for name, task in self.distiller.items() if task.loss_weight != 0]
        losses, maps = self.run_with_teacher(active, inputs, data_samples, mode='loss')
        losses.update(self._compare(maps, inputs, data_samples))
        return losses

    @torch.compiler.disable
    def _compare(self, maps: dict[str, tuple[list[Tensor], list[Tensor]]], inputs: Tensor,
                 data_samples: list | None) -> dict[str, Tensor]:
        if self._is_wrong(_name_maps(self._taps, maps)):
            maps = {}
        distilled = {name: task(*maps[name], data_samples) if name in maps else
                     _no_loss(task, inputs) for name, task in self.distiller.items()}
        if self._is_wrong({f'the loss of task {name!r}': distilled[name] for name in maps}):
            distilled = {name: _no_loss(task, inputs) for name, task in self.distiller.items()}
        losses = {f'distill.loss_{name}': loss for name, loss in distilled.items()}
        if self._skip_nonfinite:
            losses['distill.skipped_steps'] = self.distiller.skipped_steps
        return losses

    def _is_wrong(self, values: dict[str, Tensor]) -> bool:
        """Stop at values that are not finite, or have this step's distillation skipped."""
        wrong = ', '.join(find_nonfinite(values)) if values else ''
        if not wrong:
            return False
        iteration = MessageHub.get_current_instance().get_info('iter')
        message = f'not finite at iteration {iteration}: {wrong}'
        if not self._skip_nonfinite:
            raise FloatingPointError(
                f'{message}. For the student, lower the learning rate or clip gradients; for the '
                'teacher, check teacher_ckpt and teacher_precision; skip_nonfinite=True goes on '
                'without distillation in such steps')
        self.distiller.get_buffer('skipped_steps').add_(1)
        print_log(f'{message}; this step goes without distillation', 'current',
                  level=logging.WARNING)
        return True

    @torch.compiler.disable(recursive=False)
    def run_with_teacher(self, tasks: Iterable[str], inputs: Tensor, data_samples: list | None,
                         mode: str) -> tuple[Any, dict[str, tuple[list[Tensor], list[Tensor]]]]:
        """Run the student, and the teacher as far as the tasks need it.

        Args:
            tasks (Iterable[str]): Names of tasks; for none the teacher does not run.
            inputs (Tensor): Images (N, 3, H, W) as the student's preprocessor gave them.
            data_samples (list, optional): Their data samples.
            mode (str): ``'loss'`` or ``'tensor'``.

        Returns:
            tuple: What the student returns, and by task the maps of the student's and of the
            teacher's tap.
        """
        pairs = {name: self._taps[name] for name in tasks}
        if pairs:
            # First, while the student holds no activations for its backward pass.
            dense = self._teacher.features(pairs.values(), inputs, data_samples,
                                           self.data_preprocessor)
        # All taps, also those of tasks that rest: a compiled module does not notice later ones.
        every = self._taps.values()
        with FeatureTaps(self.student, {pair.student for pair in every}) as taps, \
                RoIRecorder(self.student, {pair.branches[0] for pair in every
                                           if pair.branches}) as recorder:
            outputs = self.student(inputs, data_samples, mode=mode)
        if not pairs:
            return outputs, {}
        check_gradient(pairs, taps)
        rois = self._teacher.roi_features(pairs.values(), dense, recorder)
        maps = {name: (taps.features[pair.student], rois.get(pair, dense).features[pair.teacher])
                for name, pair in pairs.items()}
        return outputs, maps

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # The student's class may migrate old keys at its top level; ours are not its business.
        own = f'{prefix}distiller.'
        theirs = {key: value for key, value in state_dict.items() if not key.startswith(own)}
        self.student._load_from_state_dict(theirs, prefix, *args)
        for key in [key for key in state_dict if not key.startswith(own)]:
            del state_dict[key]
        state_dict.update(theirs)


def _no_loss(task: nn.Module, inputs: Tensor) -> Tensor:
    """Give zero, without any part in the student's gradient."""
    zero = inputs.new_zeros((), dtype=torch.float32)
    if is_distributed():
        # DDP waits for a gradient of every parameter; elsewhere none at all is exactly plain
        # training, gradient clipping included.
        return zero + sum(parameter.sum() * 0 for parameter in task.parameters())
    return zero


def _name_maps(pairs: dict[str, TapPair], maps: dict[str, tuple[list[Tensor], list[Tensor]]]
               ) -> dict[str, Tensor]:
    return {f"the {side}'s tap {tap!r} (map {level})": feature
            for name, of_task in maps.items()
            for side, tap, features in zip(('student', 'teacher'), pairs[name].taps, of_task)
            for level, feature in enumerate(features)}


def _accept_plain_student(model: nn.Module, incompatible_keys: Any) -> None:
    """Let a plain student's checkpoint load: our parts then keep their values."""
    missing = incompatible_keys.missing_keys
    own = {key for key in model.state_dict() if key.startswith('distiller.')}
    if own and own <= set(missing):
        missing[:] = [key for key in missing if key not in own]
        print_log('A plain student is loaded: adapters and sigma keep their values', 'current')
