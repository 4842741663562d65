"""Finding missing data before anything is built."""

import os.path as osp
import re
from collections.abc import Iterator
from typing import TypeGuard

from mmengine.config import Config

from ..utils.errors import ConfigError


def check_data(cfg: Config, *splits: str) -> None:
    """Check that the local files and folders named by the datasets of a config exist.

    Paths at a remote place (with ``backend_args``, or of the form ``s3://...``) are not looked
    at, and neither are the defaults that a dataset class does not show in the config.

    Args:
        cfg (Config): The config.
        *splits (str): Which dataloaders and evaluators to check: 'train', 'val' or 'test'.

    Raises:
        ConfigError: If anything is missing; it lists all of it with its config keys.
    """
    missing = {}
    for split in splits:
        loader = cfg.get(f'{split}_dataloader')
        dataset = loader.get('dataset') if isinstance(loader, dict) else None
        paths = [*_dataset_paths(dataset, f'{split}_dataloader.dataset')]
        paths += _evaluator_paths(cfg.get(f'{split}_evaluator'), f'{split}_evaluator')
        missing.update({key: path for key, path in paths if not osp.exists(path)})
    if missing:
        raise ConfigError(_describe(missing))


def _dataset_paths(dataset: object, key: str) -> Iterator[tuple[str, str]]:
    """Yield the keys and paths of a dataset config, of the wrapped ones where it is a wrapper."""
    if not isinstance(dataset, dict):
        return
    yield from _dataset_paths(dataset.get('dataset'), f'{key}.dataset')
    for i, part in enumerate(dataset.get('datasets') or []):
        yield from _dataset_paths(part, f'{key}.datasets.{i}')
    root = dataset.get('data_root') or ''
    if dataset.get('backend_args') or not _is_local(root):
        return
    named = {'ann_file': dataset.get('ann_file')}
    prefix = dataset.get('data_prefix')
    if isinstance(prefix, dict):
        named.update({f'data_prefix.{k}': v for k, v in prefix.items()})
    for name, path in named.items():
        # The way MMEngine's BaseDataset joins them.
        if path and _is_local(path):
            yield f'{key}.{name}', osp.join(root, path)


def _evaluator_paths(evaluator: object, key: str) -> Iterator[tuple[str, str]]:
    """Yield the keys and paths of the annotation files that metrics read themselves."""
    if isinstance(evaluator, (list, tuple)):
        for i, metric in enumerate(evaluator):
            yield from _evaluator_paths(metric, f'{key}.{i}')
    elif isinstance(evaluator, dict) and not evaluator.get('backend_args'):
        path = evaluator.get('ann_file')
        if path and _is_local(path):
            yield f'{key}.ann_file', path


def _is_local(path: object) -> TypeGuard[str]:
    """Tell whether ``path`` is one on this machine, not an address."""
    return isinstance(path, str) and not re.match(r'\w{2,}:', path)


def _describe(missing: dict[str, str]) -> str:
    """Return the message for missing data, by config key: what is missing and what to do."""
    if all(osp.join('data', 'shapes') in osp.normpath(path) for path in missing.values()):
        fix = 'Draw the data: python tools/make_shapes.py'
    else:
        fix = 'Put the data there or name its place: --cfg-options KEY=PATH ...'
    lines = [f'  {key}={path!r}' for key, path in missing.items()]
    title = f'the config names data that does not exist (seen from {osp.abspath(osp.curdir)}):'
    return '\n'.join([title, *lines, fix])
