"""The models that are compared, and what they cost."""
from functools import partial
from statistics import median
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.model import BaseModel

from benchmark.measure import measure_time
from mmakd.checks.classes import check_classes
from mmakd.checks.complexity import count_parameters, measure_network
from mmakd.distillers.assembly import build_teachers
from mmakd.distillers.plain_student import load_student
from mmakd.utils.errors import ConfigProblems

STUDENT, AKD = 'student', 'AKD student'
ROUNDS = 20


def build_models(cfg: Config, student: str, akd: str, with_teacher: bool,
                 problems: ConfigProblems) -> dict[str, tuple[BaseModel, str]]:
    """Build student, AKD student and perhaps the teachers, each with its checkpoint, by name."""
    models = {}
    for name, checkpoint, argument in ((STUDENT, student, 'STUDENT_CKPT'), (AKD, akd, 'AKD_CKPT')):
        with problems.under(''):
            models[name] = load_student(cfg, checkpoint, argument), checkpoint
    model: Any = cfg.get('model') or {}
    if with_teacher and 'teacher' not in model:
        problems.add(f"--teacher: model.type={model.get('type')!r} has no teacher; leave it out, "
                     'or name the config of a distilled student')
    elif with_teacher and STUDENT in models:
        options = {key: model[f'teacher_{key}'] for key in ('ckpt', 'strict')
                   if f'teacher_{key}' in model}
        for teacher in build_teachers(model.teacher, models[STUDENT][0], problems,
                                      **options).values():
            if teacher.is_average:
                problems.add('--teacher: a running average of the student has no weights beside '
                             'its training; leave it out')
                continue
            with problems.under(''):
                teacher.load()
            models[teacher.label] = teacher.network, teacher.checkpoint or 'random weights'
    return models


def check_heads(models: dict[str, BaseModel], metainfo: dict[str, Any]) -> None:
    """Check that all models predict the classes of the data."""
    problems = ConfigProblems()
    others = {name: model for name, model in models.items() if name != AKD}
    check_classes(dict(val=metainfo), others, {}, problems)
    problems.problems += [f'--teacher: it cannot be scored on this data; leave it out ({warning})'
                          for warning in problems.warnings]
    problems.raise_if_any()


def measure_costs(models: dict[str, BaseModel], dataset: Any,
                  device: str) -> list[dict[str, Any]]:
    """Count parameters and FLOPs, and time predictions of the first image; moves the models."""
    measured = [measure_network(model) for model in models.values()]
    batch = pseudo_collate([dataset[0]])
    steps = {name: partial(model.to(device).val_step, batch) for name, model in models.items()}
    with torch.no_grad():
        times = {name: median(seconds) for name, seconds in
                 measure_time(steps, ROUNDS, device, 'Timing').items()}
    height, width = batch['inputs'][0].shape[-2:]
    rows = {
        'parameters': [f'{count_parameters(model):,}' for model in models.values()],
        'GFLOPs': [f'{found.flops / 1e9:.3g}' for found in measured],
        'for an image of': [' x '.join(map(str, found.image_size)) for found in measured],
        f'ms for {height} x {width}': [f'{1000 * time:.1f}' for time in times.values()],
        "over the student's": [f'{time / times[STUDENT]:.2f}' for time in times.values()]}
    return [dict(name=name, cells=cells) for name, cells in rows.items()]
