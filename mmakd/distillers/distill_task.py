"""One distillation task: taps, adapters and losses."""
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..losses import UncertaintyFeatureLoss
from ..losses.features import build_loss, run_loss
from ..losses.seeded_draws import SeededDraws
from ..utils.build import build, find_type, known_arguments
from ..utils.errors import ConfigError, ConfigProblems, describe, suggest
from ..utils.rng import mix_seed
from .upstream_avatars import UpstreamAvatars

_KEYS = ('tap', 'student_tap', 'teacher_tap', 'teacher', 'perturb_at', 'levels', 'adapter',
         'resize', 'loss')


class TaskMaps(NamedTuple):
    """The features of a task.

    Attributes:
        student (list[Tensor]): Maps (N, C_s, H, W) or vectors (N, C_s) of the student's tap.
        teacher (list[Tensor]): Those of the teacher's tap.
        upstream (UpstreamAvatars, optional): Source of the Avatars with ``perturb_at``. Defaults
            to None.
    """

    student: list[Tensor]
    teacher: list[Tensor]
    upstream: UpstreamAvatars | None = None


def task_taps(cfg: dict) -> tuple[str, str]:
    """Check the keys of a task's config, and read the student's and the teacher's tap from it."""
    if not isinstance(cfg, dict):
        raise ConfigError(f'tap: expected dict(tap=..., loss=...), got {cfg!r}')
    problems = ConfigProblems()
    for key in sorted(set(cfg) - set(_KEYS)):
        problems.add(f'{key}={cfg[key]!r}: a task has no such key; {suggest(key, _KEYS)}')
    if 'loss' not in cfg:
        problems.add('loss: missing; give dict(type=...)')
    if ('tap' in cfg) == ('student_tap' in cfg or 'teacher_tap' in cfg) or (
            'student_tap' in cfg) != ('teacher_tap' in cfg):
        problems.add('tap: give either tap (the same path on both sides) or both student_tap and '
                     'teacher_tap')
    problems.raise_if_any()
    return (cfg['tap'], cfg['tap']) if 'tap' in cfg else (cfg['student_tap'], cfg['teacher_tap'])


class DistillTask(nn.Module):
    """Adapters and losses of one named task, one of each per level.

    Args:
        name (str): Name of the task, mixed into the seeds of its Avatars.
        student_maps (Sequence[Tensor]): Maps (N, C, H, W) or vectors (N, C) of the student's tap
            on a small image.
        teacher_maps (Sequence[Tensor]): Those of the teacher's tap.
        loss (dict): Config of the loss, built once per level, with ``channels`` (of the teacher's
            map) and ``level`` (the map's index among the teacher's) if its type has these
            arguments.
        adapter (dict | str, optional): Config of the adapter from student to teacher channels,
            built once per level with ``in_channels`` and ``out_channels``; ``'auto'`` for a
            ``ConvAdapter`` where channels differ; None for no adapter. Defaults to ``'auto'``.
        resize (bool): Whether to resize the student's maps bilinearly where sizes differ. Defaults
            to False.
        levels (Sequence[int], optional): The compared levels. Defaults to None, all.
        data_samples (list, optional): Data samples of two images, for a trial of the loss.
            Defaults to None.
        upstream (UpstreamAvatars, optional): Source of the Avatars with ``perturb_at``, of the
            small image. Defaults to None.

    Attributes:
        weight_factor (float): Factor on the loss, set by ``DistillationScheduleHook``.
        balance_factor (float): A second one, set by ``DistillationBalanceHook``.
    """

    def __init__(self, name: str, student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor],
                 loss: dict, adapter: dict | str | None = 'auto', resize: bool = False,
                 levels: Sequence[int] | None = None, data_samples: list | None = None,
                 upstream: UpstreamAvatars | None = None) -> None:
        super().__init__()
        self.name = name
        self.levels = levels
        self.resize = resize
        self.weight_factor = 1.0
        self.balance_factor = 1.0
        _check_maps(student_maps, teacher_maps, levels)
        compared = range(len(teacher_maps)) if levels is None else levels
        pairs = [(student_maps[level], teacher_maps[level]) for level in compared]
        problems = ConfigProblems()
        with problems.under('adapter'):
            self.adapters = nn.ModuleList(_build_adapter(adapter, s, t) for s, t in pairs)
        with problems.under('loss'):
            self.losses = nn.ModuleList(
                build_loss(loss, teacher_map.size(1), level % len(teacher_maps))
                for level, (_, teacher_map) in zip(compared, pairs))
        problems.raise_if_any()
        for index, level_loss in enumerate(self.losses):
            self._try(index, *pairs[index], data_samples)
            if isinstance(level_loss, SeededDraws):
                level_loss.reseed(mix_seed(name, index))
        if upstream is not None:
            self._try_upstream(upstream, teacher_maps)

    @property
    def loss_weight(self) -> float:
        """float: The current weight of its loss; 0 if the task has no effect."""
        return (self.weight_factor * self.balance_factor
                * getattr(self.losses[0], 'loss_weight', 1.0))

    def forward(self, student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor],
                data_samples: list | None = None, upstream: UpstreamAvatars | None = None
                ) -> Tensor:
        """Compute the loss, summed over levels.

        Args:
            student_maps (Sequence[Tensor]): Maps (N, C_s, H, W) of the student's tap.
            teacher_maps (Sequence[Tensor]): Maps (N, C_t, H, W) of the teacher's tap.
            data_samples (list, optional): Those of the batch, for losses that need the ground
                truth. Defaults to None.
            upstream (UpstreamAvatars, optional): Source of the Avatars with ``perturb_at``.
                Defaults to None.

        Returns:
            Tensor: Scalar, float32.

        Raises:
            ConfigError: If the numbers of maps are not those of the small image, or sizes differ
                without ``resize``.
        """
        pairs = self.pairs(student_maps, teacher_maps)
        if upstream is None:
            total = torch.stack([run_loss(loss, *pair, data_samples)
                                 for loss, pair in zip(self.losses, pairs)]).sum()
        else:
            losses: Any = self.losses
            total = losses[0].run([loss.compare(*pair, data_samples)
                                   for loss, pair in zip(losses, pairs)],
                                  replace(upstream, levels=self.levels))
        return self.weight_factor * self.balance_factor * total

    def pairs(self, student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]
              ) -> list[tuple[Tensor, Tensor]]:
        """Bring the student's maps to the channels and sizes of the teacher's.

        The arguments are as of :meth:`forward`.

        Returns:
            list[tuple[Tensor, Tensor]]: Both maps of each compared level.

        Raises:
            ConfigError: As :meth:`forward`.
        """
        levels = self.levels
        if levels is None:
            levels = range(len(self.losses))
            if not len(student_maps) == len(teacher_maps) == len(levels):
                raise ConfigError(
                    f'tap: the student gives {len(student_maps)} maps in training, the teacher '
                    f'{len(teacher_maps)}, but on a small image both gave {len(levels)}; tap '
                    'elsewhere, or choose levels=[...] of both')
        return [self._adapt(index, student_maps[level], teacher_maps[level])
                for index, level in enumerate(levels)]

    def _adapt(self, index: int, student_map: Tensor, teacher_map: Tensor
               ) -> tuple[Tensor, Tensor]:
        """Bring a student's map to the channels and the size of the teacher's."""
        student_map = self.adapters[index](student_map)
        if student_map.shape[2:] != teacher_map.shape[2:]:
            sizes = f'{tuple(student_map.shape[2:])} and {tuple(teacher_map.shape[2:])}'
            if not self.resize:
                raise ConfigError(f'resize=False: student and teacher map of level {index} have '
                                  f'different sizes {sizes}; set resize=True or tap elsewhere')
            student_map = F.interpolate(student_map, teacher_map.shape[2:], mode='bilinear')
        return student_map, teacher_map

    @torch.no_grad()
    def _try(self, index: int, student_map: Tensor, teacher_map: Tensor,
             data_samples: list | None) -> None:
        """Run one level once, to find mismatches and to size lazily sized parts."""
        loss = self.losses[index].eval()
        self.adapters[index].eval()
        # Two images, since some losses need more than one value a channel.
        of_student, of_teacher = (feature.new_empty(2, *feature.shape[1:]).normal_()
                                  for feature in (student_map, teacher_map))
        pair = self._adapt(index, of_student, of_teacher)
        try:
            value = run_loss(loss, *pair, data_samples)
        except ConfigError as error:
            raise ConfigError([f'loss.{problem}' for problem in error.problems]) from error
        except Exception as error:
            raise ConfigError(f'loss: {type(loss).__name__} fails on student maps '
                              f'{tuple(student_map.shape)} and teacher maps '
                              f'{tuple(teacher_map.shape)}: {error}') from error
        if not isinstance(value, Tensor) or value.numel() != 1:
            raise ConfigError(f'loss: {type(loss).__name__} gives no scalar')
        loss.train()
        self.adapters[index].train()

    def _try_upstream(self, upstream: UpstreamAvatars, teacher_maps: Sequence[Tensor]) -> None:
        """Draw Avatars once, to find mismatches before training."""
        key = f'perturb_at={upstream.perturb_at!r}'
        loss = self.losses[0]
        if not isinstance(loss, UncertaintyFeatureLoss) or loss.perturbation is None:
            raise ConfigError(f'{key}: the loss makes no Avatars; set loss.type='
                              "'UncertaintyFeatureLoss' with a perturbation, or leave it out")
        if not upstream.has_features():
            raise ConfigError(f'{key}: the input of that module is neither maps (N, C, H, W) nor '
                              'vectors (N, C), or the teacher does not call it; give another one')
        try:
            avatars = upstream.draw(loss.perturbation)
        except Exception as error:
            raise ConfigError(f'{key}: that module cannot be run on its perturbed input: '
                              f'{describe(error)}') from error
        if [avatar.shape for avatar in avatars] != [part.shape for part in teacher_maps]:
            raise ConfigError(f'{key}: {len(avatars)} Avatars for {len(teacher_maps)} maps of the '
                              'tap, which is also called outside that module; tap elsewhere')
        needs_variance = loss.uncertainty and getattr(
            loss.uncertainty[0], 'estimator', None) == 'closed_form'
        if needs_variance and upstream.variances(loss.perturbation) is None:
            raise ConfigError("loss.uncertainty.estimator='closed_form': the variance is known in "
                              'closed form only where perturb_at is the tap, and a 1x1 '
                              "convolution or a linear layer; set estimator='sampled'")


def _check_maps(student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor],
                levels: Any) -> None:
    for side, maps in ('student', student_maps), ('teacher', teacher_maps):
        if not maps:
            raise ConfigError(f'tap: the {side} gives no map there; the module returns no '
                              'tensors, or is not called (heads are run by their forward '
                              'method: tap a layer inside, e.g. bbox_head.retina_cls)')
        strange = [tuple(part.shape) for part in maps if part.dim() not in (2, 4)]
        if strange:
            raise ConfigError(f'tap: the {side} gives {strange} there, neither maps '
                              '(N, C, H, W) nor vectors (N, C); tap elsewhere')
    if levels is None and len(student_maps) != len(teacher_maps):
        raise ConfigError(
            f'tap: the student gives {len(student_maps)} maps, the teacher '
            f'{len(teacher_maps)}; choose taps of equally many, or levels=[...] of both')
    number = min(len(student_maps), len(teacher_maps))
    if levels is None:
        levels = range(number)
    elif not isinstance(levels, Sequence) or not levels or any(
            type(level) is not int or not -number <= level < number for level in levels):
        raise ConfigError(f'levels={levels!r}: must be integers below {number}, the '
                          'number of maps that both taps give')
    for level in levels:
        shapes = tuple(student_maps[level].shape), tuple(teacher_maps[level].shape)
        if len(shapes[0]) != len(shapes[1]):
            raise ConfigError(f'tap: student {shapes[0]} and teacher {shapes[1]} are not both '
                              'maps or both vectors')


def _build_adapter(cfg: Any, student_map: Tensor, teacher_map: Tensor) -> nn.Module:
    channels = student_map.size(1), teacher_map.size(1)
    if cfg == 'auto':
        cfg = None if channels[0] == channels[1] else dict(type='ConvAdapter')
    if cfg is None:
        if channels[0] != channels[1]:
            raise ConfigError(f"=None: the student's map has {channels[0]} channels, the "
                              f"teacher's {channels[1]}; set adapter='auto', or for class scores "
                              'the same num_classes')
        return nn.Identity()
    names = known_arguments(find_type(cfg))
    if names is not None and not {'in_channels', 'out_channels'} <= names:
        raise ConfigError(f'type={cfg["type"]!r}: is no adapter; give e.g. ConvAdapter, or '
                          'another type with in_channels and out_channels')
    adapter = build(cfg, in_channels=channels[0], out_channels=channels[1])
    try:
        with torch.no_grad():
            joined = adapter.eval()(student_map)
    except Exception as error:
        raise ConfigError(f'type={cfg["type"]!r}: fails on student maps '
                          f'{tuple(student_map.shape)}: {error}') from error
    if joined.size(1) != channels[1]:
        raise ConfigError(f"type={cfg['type']!r}: gives {joined.size(1)} channels, but the "
                          f"teacher's map has {channels[1]}; leave in_channels and out_channels "
                          'to the distiller')
    return adapter.train()
