"""The top-level keys of a config: misspelt ones, and those that only work together."""
from __future__ import annotations

import difflib
import importlib.util
import inspect
from collections.abc import Iterable

from mmengine.config import Config
from mmengine.registry import DATASETS
from mmengine.runner import Runner

from ..utils.build import find_type
from ..utils.errors import ConfigError, suggest
from .components import REGISTRIES, nested_configs
from .findings import Findings

_RUNNER_KEYS = [key for key in inspect.signature(Runner.__init__).parameters
                if key not in ('self', 'cfg')]
_KEYS = [*_RUNNER_KEYS, 'compile', 'custom_imports', 'model_wrapper_cfg', 'runner_type',
         'sync_bn']
_SCOPES = ('mmdet', 'mmseg')
# The Runner takes all or none of each.
_TOGETHER = (('train_dataloader', 'train_cfg', 'optim_wrapper'),
             ('val_dataloader', 'val_cfg', 'val_evaluator'),
             ('test_dataloader', 'test_cfg', 'test_evaluator'))
_DICTS = ('model', 'optim_wrapper', 'auto_scale_lr', 'data_preprocessor', 'default_hooks',
          'env_cfg', 'log_processor', 'randomness', 'visualizer',
          *(f'{split}_{part}' for split in ('train', 'val', 'test')
            for part in ('dataloader', 'cfg')))
# So that a user's own variables, such as train_pipeline, stay below it.
_NEAR = 0.85


def nearest_key(key: str, valid: Iterable[str]) -> str | None:
    """Find the key that a misspelt one stands for.

    Args:
        key (str): The key.
        valid (Iterable[str]): The right keys.

    Returns:
        str | None: The right key; None where ``key`` is right, or too far from any.
    """
    valid = list(valid)
    if key in valid or any(key.startswith(f'{right}_') for right in valid):
        return None
    for right in valid:
        # Two letters swapped weigh much in a short name.
        if sorted(key.lower()) == sorted(right):
            return right
    near = difflib.get_close_matches(key.lower(), valid, n=1, cutoff=_NEAR)
    return near[0] if near else None


def check_top_level(cfg: Config, findings: Findings) -> None:
    """Check the top-level keys, and correct those that are misspelt to go on with them.

    Keys far from any that the Runner knows are a user's variables.

    Args:
        cfg (Config): The config, corrected in place.
        findings (Findings): Takes what is wrong.
    """
    for key in list(cfg):
        right = nearest_key(key, _KEYS)
        # A number or a text by such a name is a user's variable.
        if right and (isinstance(cfg[key], dict) or right not in _DICTS):
            findings.add(f'{key}: the Runner does not know this key and would pass it over; did '
                         f'you mean {right!r}?')
            if cfg.get(right) is None:
                cfg[right] = cfg.pop(key)
    if not cfg.get('model'):
        findings.add("model: missing; give model=dict(type='AvatarDistiller', ...)")
    _check_together(cfg, findings)
    for key in _DICTS:
        if not isinstance(cfg.get(key, {}), (dict, type(None))):
            findings.add(f'{key}={cfg.pop(key)!r}: expected a dict')
    _check_scope(cfg, findings)
    ours = _type_of_ours(cfg)
    if ours and not cfg.get('custom_imports'):
        findings.add('custom_imports: missing, so the scripts of mmdet and mmseg do not know '
                     f'{ours!r}; set custom_imports='
                     "dict(imports=['mmakd'], allow_failed_imports=False)")


def _check_together(cfg: Config, findings: Findings) -> None:
    for keys in _TOGETHER:
        given = [key for key in keys if cfg.get(key) is not None]
        for key in keys:
            if given and key not in given:
                findings.add(f'{key}: missing, but {" and ".join(given)} given; give all three '
                             'or none')
    if all(cfg.get(key) is None for key in _TOGETHER[0]):
        findings.warn(f'{", ".join(_TOGETHER[0])}: missing; there is nothing to train')


def _check_scope(cfg: Config, findings: Findings) -> None:
    scope = cfg.get('default_scope')
    if scope is None:
        findings.add("default_scope: missing, so no type of mmdet or mmseg is found; set it to "
                     "'mmdet' or 'mmseg'")
    elif not isinstance(scope, str) or importlib.util.find_spec(scope) is None:
        findings.add(f'default_scope={scope!r}: no such package; {suggest(scope, _SCOPES)}')
    else:
        return
    # A guess, to go on with.
    cfg.default_scope = next((name for name in _SCOPES if _knows_dataset(cfg, name)), _SCOPES[0])


def _knows_dataset(cfg: Config, scope: str) -> bool:
    loader = cfg.get('train_dataloader') or cfg.get('val_dataloader') or {}
    try:
        dataset = loader['dataset']
        while 'dataset' in dataset:
            dataset = dataset['dataset']
        find_type(dict(type=dataset['type'], _scope_=scope), DATASETS)
    except (ConfigError, KeyError, TypeError):
        return False
    return True


def _type_of_ours(cfg: Config) -> str | None:
    """Find a type in the config that this package registers."""
    ours = {name for registry in REGISTRIES for name, found in registry.module_dict.items()
            if found.__module__.startswith('mmakd.')}
    types = (part.get('type') for _, part in nested_configs(dict(cfg.items()), ''))
    return next((name for name in types if isinstance(name, str) and name in ours), None)
