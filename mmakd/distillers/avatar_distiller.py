"""The model that is trained: a student that also learns from a frozen teacher."""
from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from mmengine.dist import (
    all_gather_object,
    all_reduce,
    get_rank,
    get_world_size,
    is_distributed,
)
from mmengine.logging import MessageHub, print_log
from mmengine.model import BaseModel, BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..utils.amp import autocast_dtype
from ..utils.build import wrong_types
from ..utils.dist import same_on_all_ranks
from ..utils.errors import ConfigError, ConfigProblems
from ..utils.rng import preserve_rng
from .assembly import TaskConfig, build_network, build_tasks, build_teachers, check_use
from .distill_task import TaskMaps
from .inherit import inherit, inherited_parts
from .mmcv_ops import explain_bfloat16
from .student_model import StudentModel
from .tap_pair import TapPair, check_gradient, tap_student
from .taps import FeatureTaps
from .upstream_avatars import UpstreamAvatars


@MODELS.register_module()
class AvatarDistiller(StudentModel):
    """Trains a student with its own losses and with distillation tasks.

    To the rest of MMEngine the model *is* the student, see
    :class:`mmakd.distillers.student_model.StudentModel`. Adapters and losses are in one additional
    child, ``distiller``. The teacher is not a submodule. Distillation makes the host wait for the
    device once per step. Source: Avatar Knowledge Distillation (arXiv 2305.02722).

    Args:
        student (str | dict): A model dict, a config path, ``'mmdet::name.py'`` or
            ``'mmseg::name.py'``, or ``dict(cfg=<one of these>, **overrides)``.
        teacher (str | dict): Likewise, or ``'ema'``, the running average of the student, which
            :class:`mmakd.hooks.EMATeacherHook` updates and which has no checkpoint. Several have
            names: ``dict(big=dict(cfg=..., ckpt=...), other=dict(...))``, where ``cfg`` is as for
            one; ``ckpt``, ``strict`` and ``precision`` are as the keys below with ``teacher_``,
            which one without a name has.
        distill (dict[str, dict]): Named tasks. A task has ``tap`` (a dotted module path, the same
            on both sides) or ``student_tap`` and ``teacher_tap``, and ``loss``; optional are
            ``levels``, ``adapter`` and ``resize``, see
            :class:`mmakd.distillers.distill_task.DistillTask`, and ``perturb_at``, a module of the
            teacher whose input is perturbed instead of the tapped map, see
            :class:`mmakd.distillers.upstream_avatars.UpstreamAvatars`. With several teachers
            ``teacher`` names one.
        teacher_ckpt (str, optional): Path or URL of the teacher's weights; ``'auto'`` for those
            that the installed package's metafile names for a ``'mmdet::...'`` or ``'mmseg::...'``
            teacher; None for random weights. Loaded in :meth:`init_weights`. Defaults to
            ``'auto'``.
        teacher_strict (bool): Whether missing or unexpected keys in the checkpoint are an error,
            not a warning. Defaults to True.
        teacher_precision (str, optional): ``'float32'``, ``'float16'`` or ``'bfloat16'`` for the
            teacher's forward pass. Defaults to None, that of the student's step.
        inherit (Sequence[str] | dict[str, Sequence[str]]): Parts of the student, such as
            ``['neck', 'bbox_head']``, that start from the teacher's weights where names and shapes
            agree; of several teachers ``dict(big=['neck'])``. Defaults to ().
        skip_nonfinite (bool): Whether a step with a non-finite feature or loss runs without
            distillation, and is counted in the log as ``distill.skipped_steps``, instead of ending
            the training. Defaults to False.
        data_preprocessor (dict, optional): The config's top-level ``data_preprocessor``, which the
            Runner passes to every model; for a student that has none. Defaults to None.

    Attributes:
        student (BaseModel): The plain student; of several the first.
        teachers (dict[str, Teacher]): The teachers, each with its checkpoint and precision, by
            name; ``'teacher'`` if there is one without a name.
        taps (dict[str, TapPair]): The taps of each task.
        distiller (nn.ModuleDict): The tasks by name.
    """

    def __init__(self, student: str | dict, teacher: str | dict, distill: dict[str, dict],
                 teacher_ckpt: str | None = 'auto', teacher_strict: bool = True,
                 teacher_precision: str | None = None,
                 inherit: Sequence[str] | dict[str, Sequence[str]] = (),
                 skip_nonfinite: bool = False, data_preprocessor: dict | None = None) -> None:
        super().__init__()
        problems = ConfigProblems()
        students: dict[str, BaseModel] = {}
        configs: dict[str, TaskConfig] = {}
        with problems.under('model.student'):
            students['student'] = build_network(student, data_preprocessor)
        if not isinstance(distill, dict) or not distill:
            problems.add(f'model.distill={distill!r}: expected a dict of named tasks, e.g. '
                         "dict(fpn=dict(tap='neck', loss=dict(type=...)))")
        else:
            configs = {name: TaskConfig(f'model.distill.{name}', cfg)
                       for name, cfg in distill.items()}
        self._assemble(students, configs, problems, teacher, inherit, skip_nonfinite,
                       ckpt=teacher_ckpt, strict=teacher_strict, precision=teacher_precision)

    def _assemble(self, students: dict[str, BaseModel], configs: dict[str, TaskConfig],
                  problems: ConfigProblems, teacher: Any, inherit: Any, skip_nonfinite: Any,
                  **options: Any) -> None:
        """Build teachers and tasks, share the first student's tables, or raise all problems.

        Args:
            students (dict[str, BaseModel]): By label; empty if one cannot be built.
            configs (dict[str, TaskConfig]): The tasks by name; empty if they are wrong.
            problems (ConfigProblems): Those found so far.
            teacher (str | dict): See the class.
            inherit (Sequence[str] | dict[str, Sequence[str]]): See the class.
            skip_nonfinite (bool): See the class.
            **options: ``ckpt``, ``strict`` and ``precision`` of a teacher without a name.
        """
        problems.problems += [f'model.{problem}' for problem in wrong_types(
            dict(skip_nonfinite=skip_nonfinite), type(self))]
        first: Any = next(iter(students.values()), None)
        with preserve_rng():
            self.teachers = build_teachers(teacher, first, problems, **options)
        if students and configs and self.teachers:
            with preserve_rng():
                self.taps, tasks = build_tasks(configs, students, self.teachers, problems)
            with problems.under('model'):
                self._inherit = inherited_parts(first, self.teachers, inherit)
            with problems.under('model'):
                check_use(self.teachers, configs.values(),
                          inherit if isinstance(inherit, dict) else ())
        problems.raise_if_any()
        self._has_overflowed = False
        self.share_tables(first)
        self.distiller = tasks
        self._skip_nonfinite = skip_nonfinite
        if skip_nonfinite:
            tasks.register_buffer('skipped_steps', torch.zeros(()))

    @property
    def students(self) -> dict[str, BaseModel]:
        """dict[str, BaseModel]: The students by label, the part of the config key."""
        return {'student': self.student}

    def label_of(self, teacher: str) -> str:
        """Return the label of what teaches a task, ``TapPair.of``."""
        return self.teachers[teacher].label if teacher in self.teachers else teacher

    @property
    def teacher(self) -> nn.Module:
        """nn.Module: The frozen teacher network, if there is one teacher."""
        if len(self.teachers) > 1:
            # No AttributeError: after one, torch would look for a teacher of the student.
            raise RuntimeError('there are several teachers: use model.teachers[name].network, of '
                               f'{", ".join(map(repr, self.teachers))}')
        return next(iter(self.teachers.values())).network

    @same_on_all_ranks()
    def init_weights(self) -> None:
        """Initialise the student as in plain training, then our modules, and load the teacher.

        A second call does nothing, as everywhere in MMEngine.

        Raises:
            ConfigError: If the teacher's checkpoint, or the student's pretrained weights, cannot
                be read or do not fit.
        """
        if self.is_init:
            return
        problems = ConfigProblems()
        for teacher in self.teachers.values():
            if not teacher.network.is_init:
                # Otherwise a deepcopy of this model, which shares the teacher, has loaded it.
                with problems.under(''), preserve_rng():
                    teacher.load()
        problems.raise_if_any()
        first, *peers = self.students.items()
        _init_student(*first)
        for name, parts in self._inherit.items():
            inherit(self.student, self.teachers[name].network, parts)
        for teacher in self.teachers.values():
            if teacher.is_average:
                teacher.copy_student(self.student)
        with preserve_rng():
            for peer in peers:
                _init_student(*peer)
            for module in self.distiller.modules():
                if isinstance(module, BaseModule) and not module.is_init:
                    module.init_weights()
        self.is_init = True

    def _apply(self, *args: Any, **kwargs: Any) -> AvatarDistiller:
        super()._apply(*args, **kwargs)
        for teacher in self.teachers.values():
            teacher.follow(*args, **kwargs)
        return self

    @torch.compiler.disable(recursive=False)
    def forward(self, inputs: Tensor, data_samples: list | None = None,
                mode: str = 'tensor') -> Any:
        """Run the student; in mode ``'loss'`` also compare it with the teacher.

        With MMEngine's config key ``compile``, the student is compiled before and after its taps;
        teacher and tasks are not compiled.

        Args:
            inputs (Tensor): Images (N, 3, H, W) as the student's preprocessor gave them.
            data_samples (list, optional): Their data samples. Defaults to None.
            mode (str): ``'loss'``, ``'predict'`` or ``'tensor'``. Defaults to ``'tensor'``.

        Returns:
            Any: What the student returns; in mode ``'loss'`` its losses and
            ``distill.loss_<task>`` for each task.

        Raises:
            FloatingPointError: On all ranks, if a tapped feature or a distillation loss is not
                finite on any of them. In float16 training only the teacher's features count; if
                the student's overflow, the gradient scaler skips the step.
            ConfigError: If the student cannot be trained in bfloat16.
        """
        if mode != 'loss':
            return self.student(inputs, data_samples, mode=mode)
        active = [name for name, task in self.distiller.items() if task.loss_weight != 0]
        losses, maps = self.run_with_teacher(active, inputs, data_samples, mode='loss')
        losses.update(self._distill(maps, inputs, data_samples))
        return losses

    @torch.compiler.disable
    def _distill(self, maps: dict[str, TaskMaps], inputs: Tensor,
                 data_samples: list | None) -> dict[str, Tensor]:
        """Compute the loss of each task; zero if the task is off or the step is skipped.

        The host waits for the device once, to see whether everything is finite.
        """
        losses = {
            name: task(maps[name].student, maps[name].teacher, data_samples, maps[name].upstream)
            if name in maps else _no_loss(task, inputs) for name, task in self.distiller.items()}
        named = {}
        for name, of_task in maps.items():
            pair = self.taps[name]
            for side, tap, features in (
                    (pair.by, pair.student, of_task.student),
                    (self.label_of(pair.of), pair.teacher, of_task.teacher)):
                named.update({f"the {side}'s tap {tap!r} (map {level})": feature
                              for level, feature in enumerate(features)})
        named.update({f'the loss of task {name!r}': losses[name] for name in maps})
        found = _find_nonfinite(named) if named else []
        if found and not self._is_forgiven(found, inputs):
            self._skip_step(found)
            losses = {name: _no_loss(task, inputs) for name, task in self.distiller.items()}
        logged = {f'distill.loss_{name}': loss for name, loss in losses.items()}
        if self._skip_nonfinite:
            logged['distill.skipped_steps'] = self.distiller.skipped_steps
        return logged

    def _is_forgiven(self, found: list[str], inputs: Tensor) -> bool:
        """Tell whether the gradient scaler handles the overflow, as in plain training."""
        if (self._skip_nonfinite or autocast_dtype(inputs.device) != torch.float16
                or any(name.startswith('the teacher') for name in found)):
            return False
        if not self._has_overflowed:
            self._has_overflowed = True
            print_log(f'{_at_iteration(found)}; the gradient scaler of float16 leaves such a step '
                      'out. Further ones are not reported', 'current', level=logging.WARNING)
        return True

    def _skip_step(self, found: list[str]) -> None:
        if not self._skip_nonfinite:
            raise FloatingPointError(
                f'{_at_iteration(found)}. For the student, lower the learning rate or clip '
                'gradients; for the teacher, check teacher_ckpt and teacher_precision; '
                'skip_nonfinite=True goes on without distillation in such steps')
        self.distiller.get_buffer('skipped_steps').add_(1)
        print_log(f'{_at_iteration(found)}; this step goes without distillation', 'current',
                  level=logging.WARNING)

    @torch.compiler.disable(recursive=False)
    def run_with_teacher(self, tasks: Iterable[str], inputs: Tensor, data_samples: list | None,
                         mode: str) -> tuple[Any, dict[str, TaskMaps]]:
        """Run the student, and each teacher up to the taps of its tasks.

        Args:
            tasks (Iterable[str]): Names of tasks; a teacher of none does not run.
            inputs (Tensor): Images, as in :meth:`forward`.
            data_samples (list, optional): Their data samples.
            mode (str): ``'loss'`` or ``'tensor'``.

        Returns:
            tuple[Any, dict[str, TaskMaps]]: What the student returns, and the maps of each task.
        """
        pairs = {name: self.taps[name] for name in tasks}
        of_teachers = {name: [pair for pair in pairs.values() if pair.of == name]
                       for name in self.teachers}
        # First, while the student holds no activations for its backward pass.
        dense = {name: self.teachers[name].run(own, inputs, data_samples)
                 for name, own in of_teachers.items() if own}
        outputs, taps = self._run_students(inputs, data_samples, mode)
        check_gradient(pairs.values(), taps)
        taught: dict[TapPair, tuple[list[Tensor], UpstreamAvatars | None]] = {
            pair: ([feature.detach() for feature in taps[pair.of].features[pair.teacher]], None)
            for pair in pairs.values() if pair.of not in self.teachers}
        for name, label in itertools.product(dense, taps):
            own = [pair for pair in of_teachers[name] if pair.by == label]
            taught.update(self.teachers[name].maps(own, dense[name], taps[label]))
        return outputs, {name: TaskMaps(taps[pair.by].features[pair.student], *taught[pair])
                         for name, pair in pairs.items()}

    @torch.compiler.disable(recursive=False)
    def _run_students(self, inputs: Tensor, data_samples: list | None, mode: str
                      ) -> tuple[Any, dict[str, FeatureTaps]]:
        """Run the student; return what it returns, and its taps by its label."""
        outputs, taps = self._run_tapped('student', inputs, data_samples, mode)
        return outputs, dict(student=taps)

    @torch.compiler.disable(recursive=False)
    def _run_tapped(self, label: str, inputs: Tensor, data_samples: list | None, mode: str
                    ) -> tuple[Any, FeatureTaps]:
        """Run one student; return what it returns, and its taps."""
        student = self.students[label]
        # All taps, also those of tasks that rest: a compiled module does not notice later ones.
        pairs = [pair for pair in self.taps.values() if pair.by == label]
        with tap_student(student, pairs) as taps, explain_bfloat16(student):
            return student(inputs, data_samples, mode=mode), taps


def _init_student(label: str, student: BaseModel) -> None:
    try:
        student.init_weights()
    except ConfigError as error:
        raise ConfigError([f'model.{label}: {problem}' for problem in error.problems],
                          error.on_all_ranks) from error


def _no_loss(task: nn.Module, inputs: Tensor) -> Tensor:
    """Return zero, without effect on the student's gradient."""
    zero = inputs.new_zeros((), dtype=torch.float32)
    if is_distributed():
        # DDP waits for a gradient of every parameter; elsewhere none at all is exactly plain
        # training, gradient clipping included.
        return zero + sum(parameter.sum() * 0 for parameter in task.parameters())
    return zero


def _find_nonfinite(tensors: dict[str, Tensor]) -> list[str]:
    """Name the values that are not finite on any rank; without losses, where maps are among them.

    Every rank gets the same answer, so that all take the same decision and none waits for the
    others.
    """
    extremes = torch.zeros(len(tensors), 2, device=next(iter(tensors.values())).device)
    for row, tensor in zip(extremes, tensors.values()):
        if tensor.numel():
            torch.stack(torch.aminmax(tensor.detach().float()), out=row)
    finite = extremes.isfinite().all(1)
    wrong = (~finite).any().float()
    all_reduce(wrong, 'max')
    if not wrong:
        return []
    names = [name for name, good in zip(tensors, finite.tolist()) if not good]
    if get_world_size() > 1:
        gathered = all_gather_object([f'{name} on rank {get_rank()}' for name in names])
        names = [name for of_rank in gathered for name in of_rank]
    return [name for name in names if not name.startswith('the loss')] or names


def _at_iteration(found: list[str]) -> str:
    iteration = MessageHub.get_current_instance().get_info('iter')
    return f'not finite at iteration {iteration}: {", ".join(found)}'
