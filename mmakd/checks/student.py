"""Compare a config with the student's own, outside ``model``."""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from mmengine.config import Config
from mmengine.hooks import Hook

from ..utils.build import brief
from ..utils.config_file import read_config
from ..utils.references import find_config

_ABSENT = '-'
# What decides about the student's accuracy; paths, workers and logging do not.
_COMPARED = ('optim_wrapper', 'param_scheduler', 'train_cfg', 'auto_scale_lr')
_PLACES = ('backend_args', 'file_client_args')


def compare_with_student(cfg: Config, hooks: Sequence[Hook]) -> list[tuple[str, str, str]]:
    """Compare a distiller's config, and its Runner's hooks, with the first student's own if any.

    Returns:
        list[tuple[str, str, str]]: Key, the student's own value and the value here, for what is
        missing or different of hooks, optimizer, schedule, batch and pipelines.
    """
    students = cfg.model.get('students') or {}
    student = cfg.model.get('student', next(iter(students.values()), None))
    reference = student.get('cfg') if isinstance(student, dict) else student
    if not isinstance(reference, str):
        return []
    own = read_config(find_config(reference))
    rows = [row for key in _COMPARED
            for row in _differences(own.get(key), cfg.get(key), key)]
    wanted = [*(own.get('custom_hooks') or ()), *(own.get('default_hooks') or {}).values()]
    there = {type(hook).__name__ for hook in hooks}
    rows += [('hooks', brief(dict(hook)), _ABSENT) for hook in wanted
             if hook and hook['type'].split('.')[-1] not in there]
    for split in 'train', 'val':
        theirs, ours = (config.get(f'{split}_dataloader') or {} for config in (own, cfg))
        if split == 'train':
            rows += _differences(theirs.get('batch_size'), ours.get('batch_size'),
                                 'train_dataloader.batch_size')
        rows += _differences(_pipeline(theirs), _pipeline(ours),
                             f'{split}_dataloader.dataset.pipeline')
    return rows


def _differences(own: Any, here: Any, key: str) -> Iterator[tuple[str, str, str]]:
    """Find what is missing or different here, ignoring additions."""
    if isinstance(own, dict) and isinstance(here, dict) and own.get('type') == here.get('type'):
        for name, value in own.items():
            if name not in _PLACES:
                yield from _differences(value, here.get(name), f'{key}.{name}')
    elif isinstance(own, (list, tuple)) and isinstance(here, (list, tuple)):
        if len(own) == len(here):
            for i, pair in enumerate(zip(own, here)):
                yield from _differences(*pair, f'{key}.{i}')
        elif any(item not in here for item in own):
            yield key, _types(own), _types(here)
    elif own != here and own is not None:
        yield key, brief(own), _ABSENT if here is None else brief(here)


def _types(items: Any) -> str:
    return ', '.join(item['type'] if isinstance(item, dict) and 'type' in item else brief(item)
                     for item in items) or _ABSENT


def _pipeline(loader: dict) -> Any:
    dataset = loader.get('dataset') or {}
    while 'pipeline' not in dataset and 'dataset' in dataset:
        dataset = dataset['dataset']
    return dataset.get('pipeline')
