"""Build networks and tasks from the config of a distiller, and collect all problems."""
from typing import Any

from mmengine.model import BaseModel
from mmengine.registry import MODELS
from torch import nn

from ..utils.build import build, wrong_types
from ..utils.errors import ConfigError, ConfigProblems, describe
from ..utils.references import find_checkpoint, is_reference, resolve_model
from .distill_task import DistillTask, task_taps
from .dry_run import dry_run, dry_run_samples
from .tap_pair import TapPair, make_tap_pair


def build_network(cfg: str | dict, data_preprocessor: dict | None = None) -> BaseModel:
    """Build a student or a teacher, with random weights.

    Args:
        cfg (str | dict): What :func:`mmakd.utils.references.resolve_model` takes.
        data_preprocessor (dict, optional): Config of its ``data_preprocessor`` if ``cfg`` has
            none. Defaults to None.

    Raises:
        ConfigError: If it cannot be built.
    """
    cfg = resolve_model(cfg)
    if data_preprocessor is not None:
        cfg = {'data_preprocessor': data_preprocessor, **cfg}
    try:
        network = MODELS.build(cfg)
    except Exception as error:
        raise ConfigError(f'type={cfg["type"]!r}: cannot be built: {describe(error)}') from error
    if not isinstance(network, BaseModel):
        raise ConfigError(f'type={cfg["type"]!r}: is no detector or segmentor (BaseModel)')
    return network


def find_teacher_ckpt(teacher: str | dict, teacher_ckpt: str | None) -> str | None:
    """Replace ``teacher_ckpt='auto'`` by the address of the teacher's published weights.

    Raises:
        ConfigError: If there is none.
    """
    if teacher_ckpt != 'auto':
        return teacher_ckpt
    reference = teacher.get('cfg') if isinstance(teacher, dict) else teacher
    if not isinstance(reference, str) or not is_reference(reference):
        raise ConfigError("teacher_ckpt='auto': only a 'mmdet::...' or 'mmseg::...' teacher has "
                          'published weights; give the path or the URL of a checkpoint')
    return find_checkpoint(reference)


def build_tasks(distill: dict[str, Any], student: BaseModel, teacher: BaseModel,
                problems: ConfigProblems) -> tuple[dict[str, TapPair], nn.ModuleDict]:
    """Read the taps of all tasks, find their maps by one dry run, and build the tasks.

    Tasks with problems, which are added to ``problems``, are left out.
    """
    pairs: dict[str, TapPair] = {}
    for name, cfg in distill.items():
        with problems.under(f'model.distill.{name}'):
            if not str(name).isidentifier() or hasattr(nn.ModuleDict(), name):
                raise ConfigError('name: a task needs a Python name that nn.ModuleDict does not '
                                  'use; rename the task')
            pairs[name] = make_tap_pair(student, teacher, task_taps(cfg), cfg.get('perturb_at'))
    tasks = nn.ModuleDict()
    maps = dry_run(student, teacher, pairs, problems)
    samples = dry_run_samples(student, 2)
    for name, cfg in distill.items():
        if name in maps:
            options = {key: value for key, value in cfg.items()
                       if key not in ('tap', 'student_tap', 'teacher_tap', 'perturb_at')}
            with problems.under(f'model.distill.{name}'):
                wrong = wrong_types(options, DistillTask)
                if wrong:
                    raise ConfigError(wrong)
                tasks[name] = DistillTask(name, maps[name].student, maps[name].teacher,
                                          upstream=maps[name].upstream, data_samples=samples,
                                          **options)
        elif isinstance(cfg, dict) and 'loss' in cfg:
            # Its taps are wrong already; its loss may be wrong as well.
            with problems.under(f'model.distill.{name}.loss'):
                build(cfg['loss'], offer=dict(channels=1))
    return pairs, tasks
