"""Several students that learn from a teacher and from each other."""
from __future__ import annotations

from collections.abc import Iterable
from itertools import permutations
from typing import Any

import torch
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..utils.build import brief
from ..utils.errors import ConfigError, ConfigProblems, suggest
from ..utils.rng import preserve_rng
from .assembly import TaskConfig, build_network
from .avatar_distiller import AvatarDistiller
from .renormalize import same_normalization
from .student_model import StudentModel
from .taps import FeatureTaps, check_tap

_LABEL = 'students.'
_PEER_KEYS = {'tap', 'loss', 'adapter', 'resize', 'levels'}
_PEER_DEFAULTS = dict(loss=dict(type='KLDivergence'), adapter=None)


@MODELS.register_module()
class PeerDistiller(AvatarDistiller):
    r"""Trains several students, which learn from the teacher and from each other.

    The teacher runs once a step, as far as the deepest tap of all students. A peer task compares
    every two students i and j both ways, each with the other's map as a fixed target: by default
    :math:`KL(p_j \| p_i)` in the loss of i, without a gradient to j. Source: uncertainty-aware
    dual-student distillation (arXiv 2511.18826); deep mutual learning (arXiv 1706.00384).

    To the rest of MMEngine the model *is* the first student, as of :class:`AvatarDistiller`; it
    starts and, with all weights 0, ends as in plain training. The others sit in the child
    ``peers``, their losses are ``<name>.<loss>``. The tasks are ``<name>_<task>`` and, for what
    ``a`` learns from ``b``, ``a_from_b_<task>``; by these names hooks know them. The modes
    ``'predict'`` and ``'tensor'`` run the first student. In validation and test all are run, and
    :class:`mmakd.metrics.PeerEvaluator` scores each.

    Args:
        students (dict[str, str | dict]): Two or more by name, each as ``student`` of
            :class:`AvatarDistiller`. They get the same images, so mean, std and channel order of
            their data preprocessors must agree; that of the first is used.
        teacher (str | dict): One or several, as of :class:`AvatarDistiller`.
        distill (dict[str, dict]): By name of the student the tasks with the teacher, as
            ``distill`` of :class:`AvatarDistiller`. A student may have none.
        peer (dict[str, dict], optional): Named tasks between the students. A task has ``tap``, one
            path or ``dict(a=..., b=...)``, outside RoI heads. Optional are ``loss``, by default
            ``dict(type='KLDivergence')``, ``adapter``, by default None, ``levels`` and ``resize``,
            see :class:`mmakd.distillers.distill_task.DistillTask`. Defaults to None, no such task.
        teacher_ckpt (str, optional): See :class:`AvatarDistiller`. Defaults to ``'auto'``.
        teacher_strict (bool): Likewise. Defaults to True.
        teacher_precision (str, optional): Likewise. Defaults to None.
        skip_nonfinite (bool): Likewise. Defaults to False.
        data_preprocessor (dict, optional): Likewise. Defaults to None.

    Attributes:
        peers (nn.ModuleDict): All students but the first, by name.
    """

    def __init__(self, students: dict[str, Any], teacher: str | dict, distill: dict[str, dict],
                 peer: dict[str, dict] | None = None, teacher_ckpt: str | None = 'auto',
                 teacher_strict: bool = True, teacher_precision: str | None = None,
                 skip_nonfinite: bool = False, data_preprocessor: dict | None = None) -> None:
        StudentModel.__init__(self)
        problems = ConfigProblems()
        networks: dict[str, BaseModel] = {}
        tasks: list[tuple[str, TaskConfig]] = []
        if not isinstance(students, dict) or len(students) < 2:
            problems.add(f'model.students={brief(students)}: expected two or more by name, '
                         'dict(a=..., b=...)')
        else:
            networks = _build_students(students, data_preprocessor, problems)
            tasks = _teacher_tasks(distill, students, problems)
            if tasks and networks:
                tasks += _peer_tasks({} if peer is None else peer, networks, problems)
        configs: dict[str, TaskConfig] = {}
        for name, task in tasks:
            if configs.setdefault(name, task) is not task:
                problems.add(f'{task.key}: its loss would be {name!r}, as that of '
                             f'{configs[name].key}; rename this task')
        self._assemble({f'{_LABEL}{name}': network for name, network in networks.items()},
                       configs, problems, teacher, (), skip_nonfinite, ckpt=teacher_ckpt,
                       strict=teacher_strict, precision=teacher_precision)
        self.first, *others = networks
        self.peers = nn.ModuleDict({name: networks[name] for name in others})

    @property
    def students(self) -> dict[str, BaseModel]:
        """dict[str, BaseModel]: The students by label, ``'students.<name>'``."""
        networks: dict[str, Any] = {self.first: self.student, **self.peers}
        return {f'{_LABEL}{name}': network for name, network in networks.items()}

    @torch.compiler.disable(recursive=False)
    def _run_students(self, inputs: Tensor, data_samples: list | None, mode: str
                      ) -> tuple[Any, dict[str, FeatureTaps]]:
        """Run all; return the losses of all, or what the first returns, and taps by label."""
        first, *others = self.students
        taps = {}
        outputs, taps[first] = self._run_tapped(first, inputs, data_samples, mode)
        with preserve_rng():  # so that the first draws what it draws in plain training
            for label in others:
                own, taps[label] = self._run_tapped(label, inputs, data_samples, mode)
                if mode == 'loss':
                    name = label.removeprefix(_LABEL)
                    outputs.update({f'{name}.{key}': loss for key, loss in own.items()})
        return outputs, taps

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        if any(key.startswith(f'{prefix}peers.{self.first}.') for key in state_dict):
            raise ConfigError(
                f'model.students: {self.first!r} is the first here, but not in the checkpoint; '
                'give them in the order of its training (MMEngine sorts the keys of a config that '
                'it saves: take the original one)')
        super()._load_from_state_dict(state_dict, prefix, *args)

    def val_step(self, data: Any) -> list:
        """Predict by all students.

        Args:
            data (dict): A batch as a dataloader gives it.

        Returns:
            list: The first student's data samples; each has those of the others as ``peers``, and
            its student's name as metainfo ``student``.
        """
        data = self.data_preprocessor(data, False)
        # A network writes its predictions into the samples that it gets.
        copies = [[sample.new() for sample in data['data_samples']] for _ in self.peers]
        samples = self._run_forward(data, mode='predict')
        named: Any = {self.first: samples}
        with preserve_rng():
            for (name, peer), own in zip(self.peers.items(), copies):
                named[name] = peer(data['inputs'], own, mode='predict')
        for name, predictions in named.items():
            for prediction in predictions:
                prediction.set_metainfo(dict(student=name))
        for sample, *others in zip(*named.values()):
            sample.peers = others
        return samples

    test_step = val_step


def _build_students(students: dict[str, Any], data_preprocessor: dict | None,
                    problems: ConfigProblems) -> dict[str, BaseModel]:
    """Build the students; return none if one cannot be built."""
    networks: dict[str, BaseModel] = {}

    def build(name: str, cfg: Any) -> None:
        with problems.under(f'model.students.{name}'):
            # A name is part of those of modules and losses; MMEngine sums what has 'loss' in it.
            if not str(name).isidentifier() or hasattr(nn.ModuleDict(), name) or 'loss' in name:
                raise ConfigError(": no Python name, one of nn.ModuleDict's, or with 'loss' in "
                                  'it; rename the student')
            networks[name] = build_network(cfg, data_preprocessor)
            first = next(iter(networks))
            if not same_normalization(*(networks[each].data_preprocessor
                                        for each in (first, name))):
                problems.add(f'model.students.{name}.data_preprocessor: mean, std or channel '
                             f'order are not those of {first!r}, and all students get the same '
                             'images; set them alike')

    first, *others = students.items()
    build(*first)
    with preserve_rng():
        for other in others:
            build(*other)
    return networks if len(networks) == len(students) else {}


def _teacher_tasks(distill: Any, students: Iterable[str], problems: ConfigProblems
                   ) -> list[tuple[str, TaskConfig]]:
    """Name what each student learns from the teachers."""
    if not isinstance(distill, dict) or not any(distill.values()):
        problems.add(f'model.distill={distill!r}: expected named tasks of students, e.g. dict(a='
                     "dict(fpn=dict(tap='neck', loss=dict(type=...))))")
        return []
    found = []
    for name, tasks in distill.items():
        key = f'model.distill.{name}'
        if name not in students:
            problems.add(f'{key}: no such student; {suggest(name, students)}')
        elif not isinstance(tasks, dict):
            problems.add(f'{key}={tasks!r}: expected a dict of named tasks')
        else:
            found += [(f'{name}_{task}', TaskConfig(f'{key}.{task}', cfg, f'{_LABEL}{name}'))
                      for task, cfg in tasks.items()]
    return found


def _peer_tasks(peer: Any, networks: dict[str, BaseModel], problems: ConfigProblems
                ) -> list[tuple[str, TaskConfig]]:
    """Name what every two students learn from each other."""
    if not isinstance(peer, dict):
        problems.add(f'model.peer={peer!r}: expected a dict of named tasks, e.g. '
                     "dict(logits=dict(tap='decode_head.conv_seg'))")
        return []
    found = []
    for task, cfg in peer.items():
        key = f'model.peer.{task}'
        with problems.under(key):
            taps = _peer_taps(cfg, networks)
            options = dict(_PEER_DEFAULTS, **{name: cfg[name] for name in cfg if name != 'tap'})
            found += [(f'{by}_from_{of}_{task}', TaskConfig(
                key, dict(options, student_tap=taps[by], teacher_tap=taps[of]),
                f'{_LABEL}{by}', f'{_LABEL}{of}')) for by, of in permutations(networks, 2)]
    return found


def _peer_taps(cfg: Any, networks: dict[str, BaseModel]) -> dict[str, str]:
    """Check the keys of a peer task, and return its taps by student."""
    if not isinstance(cfg, dict) or 'tap' not in cfg:
        raise ConfigError(f'tap: missing in {brief(cfg)}; give the path of a module')
    problems = ConfigProblems()
    for name in sorted(set(cfg) - _PEER_KEYS):
        problems.add(f'{name}={brief(cfg[name])}: a peer task has no such key; '
                     f'{suggest(name, _PEER_KEYS)}')
    several = isinstance(cfg['tap'], dict)
    taps: dict[str, Any] = cfg['tap'] if several else dict.fromkeys(networks, cfg['tap'])
    if set(taps) != set(networks):
        problems.add(f'tap={brief(taps)}: give one path, or one for each of '
                     f'{", ".join(map(repr, networks))}')
    for name in sorted(set(taps) & set(networks)):
        where, tap = f'tap.{name}' if several else 'tap', taps[name]
        with problems.under(''):
            check_tap(networks[name], where, tap, f'student {name!r}')
            if tap.split('.')[0] == 'roi_head':
                raise ConfigError(f'{where}={tap!r}: each student has RoIs of its own there; tap '
                                  "outside RoI heads, e.g. 'neck'")
    problems.raise_if_any()
    return taps
