"""Find missing data files before anything is built."""

import os.path as osp
import re
from collections.abc import Iterator
from typing import Any

from mmengine.config import Config

from ..utils.errors import ConfigError


def check_data(cfg: Config, *splits: str) -> None:
    """Check that the local files and folders named by the data of each split exist.

    Remote paths (with ``backend_args``, or of the form ``s3://...``) are not checked, nor are
    defaults of a dataset class that are not in the config.

    Raises:
        ConfigError: If anything is missing; lists all missing paths with their config keys.
    """
    parts = [f'{split}_{part}' for split in splits for part in ('dataloader', 'evaluator')]
    missing = {key: path for part in parts for key, path in _paths(cfg.get(part), part)
               if not osp.exists(path)}
    if missing:
        drawn = [re.search(r'\bdata/(shapes|patchwork|digits)/', f'{osp.normpath(path)}/')
                 for path in missing.values()]
        names = sorted({'' if found[1] == 'shapes' else f' --data {found[1]}'
                        for found in drawn if found})
        raise ConfigError('\n'.join([
            f'the config names data that does not exist (seen from {osp.abspath(osp.curdir)}):',
            *(f'  {key}={path!r}' for key, path in missing.items()),
            'Draw the data: ' + ' and '.join(f'python tools/make_shapes.py{name}'
                                             for name in names) if all(drawn) else
            'Put the data there or name its place: --cfg-options KEY=PATH ...']))


def _paths(part: Any, key: str) -> Iterator[tuple[str, str]]:
    """Yield key and path of all files that a dataset, a metric, or a wrapper of them names."""
    if isinstance(part, (list, tuple)):
        for i, item in enumerate(part):
            yield from _paths(item, f'{key}.{i}')
    if not isinstance(part, dict):
        return
    for name in 'dataset', 'datasets', 'labelled', 'unlabelled', 'metrics':
        yield from _paths(part.get(name), f'{key}.{name}')
    root, prefix = part.get('data_root') or '', part.get('data_prefix')
    named = {'ann_file': part.get('ann_file')}
    if isinstance(prefix, dict):
        named.update({f'data_prefix.{name}': path for name, path in prefix.items()})
    for name, path in named.items():
        if path and _is_local(path) and _is_local(root) and not part.get('backend_args'):
            # The way MMEngine's BaseDataset joins them.
            yield f'{key}.{name}', osp.join(root, path)


def _is_local(path: object) -> bool:
    """Tell whether ``path`` is on this machine, not an address."""
    return isinstance(path, str) and not re.match(r'\w{2,}:', path)
