"""Dataloaders, datasets and evaluators, checked without reading data."""
from __future__ import annotations

import inspect
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import DATA_SAMPLERS, DATASETS, EVALUATOR, FUNCTIONS, METRICS, TRANSFORMS
from torch.utils.data import DataLoader, TensorDataset

from ..utils.build import known_arguments
from ..utils.errors import ConfigError, suggest
from .components import build_component, check_component
from .data_files import check_data
from .findings import Findings

SPLITS = ('train', 'val', 'test')
# What the Runner makes of the config itself, and what it hands on to torch.
_RUNNER_KEYS = ('dataset', 'sampler', 'batch_sampler', 'collate_fn', 'worker_init_fn',
                'num_batch_per_epoch', 'disable_subprocess_warning')
_TORCH_KEYS = tuple(inspect.signature(DataLoader.__init__).parameters)[1:]
# Arguments with which a metric would read or write files when it is built.
_FILES = ('ann_file', 'output_dir')


def check_all_data(cfg: Config, findings: Findings) -> dict[str, dict]:
    """Check dataloaders and evaluators of all splits.

    Missing data files are warnings: a config may be checked away from its data.

    Args:
        cfg (Config): The config.
        findings (Findings): Takes what is wrong.

    Returns:
        dict[str, dict]: Metainfo of each split's dataset, where it is known.
    """
    # Testing is mostly a copy of validation.
    splits = SPLITS[:2] if cfg.get('test_dataloader') == cfg.get('val_dataloader') else SPLITS
    has_data = False
    with findings.attempt('dataset'):
        try:
            check_data(cfg, *splits)
            has_data = True
        except ConfigError as error:
            findings.warn(str(error))
    metainfo = {}
    for split in SPLITS:
        loader, evaluator = cfg.get(f'{split}_dataloader'), cfg.get(f'{split}_evaluator')
        if split not in splits:
            loader = None
        if split == 'test' and evaluator == cfg.get('val_evaluator'):
            evaluator = None
        if loader is not None:
            with findings.attempt(f'{split}_dataloader'):
                found = _check_dataloader(loader, f'{split}_dataloader', findings, has_data)
                if found:
                    metainfo[split] = found
        if evaluator is not None:
            with findings.attempt(f'{split}_evaluator'):
                _check_evaluator(evaluator, f'{split}_evaluator', findings)
    return metainfo


def _check_dataloader(cfg: dict, key: str, findings: Findings, has_data: bool) -> dict | None:
    for name in sorted(set(cfg) - set(_RUNNER_KEYS) - set(_TORCH_KEYS)):
        findings.add(f'{key}.{name}={cfg[name]!r}: a dataloader has no such key; '
                     f'{suggest(name, {*_RUNNER_KEYS, *_TORCH_KEYS})}')
    for name in 'dataset', 'sampler':
        if name not in cfg:
            findings.add(f'{key}.{name}: missing; give dict(type=...)')
    _check_samplers(cfg, key, findings)
    collate = cfg.get('collate_fn')
    if isinstance(collate, dict):
        check_component(collate, f'{key}.collate_fn', FUNCTIONS, findings, ('data_batch', ))
    with findings.attempt(key):
        # With a stand-in for the dataset: torch checks how the rest goes together.
        options = {name: cfg[name] for name in _TORCH_KEYS
                   if name in cfg and name not in _RUNNER_KEYS}
        DataLoader(TensorDataset(torch.zeros(1)), **options)
    if 'dataset' in cfg:
        return _check_dataset(cfg['dataset'], f'{key}.dataset', findings, has_data)
    return None


def _check_samplers(cfg: dict, key: str, findings: Findings) -> None:
    given = dict(sampler=('dataset', 'seed'), batch_sampler=('sampler', 'batch_size'))
    for name, arguments in given.items():
        if cfg.get(name) is not None:
            check_component(cfg[name], f'{key}.{name}', DATA_SAMPLERS, findings, arguments)
    if cfg.get('batch_sampler') is not None and 'batch_size' not in cfg:
        findings.add(f'{key}.batch_size: missing; batch_sampler needs it')


def _check_dataset(cfg: Any, key: str, findings: Findings, has_data: bool) -> dict | None:
    """Check a dataset, or a wrapper of datasets with all that it wraps; return its metainfo."""
    if not isinstance(cfg, dict):
        check_component(cfg, key, DATASETS, findings)
        return None
    _check_pipeline(cfg.get('pipeline') or (), f'{key}.pipeline', findings)
    wrapped = {f'{key}.datasets.{i}': part for i, part in enumerate(cfg.get('datasets') or ())}
    if 'dataset' in cfg:
        wrapped[f'{key}.dataset'] = cfg['dataset']
    # Its pipeline and what it wraps are checked one by one.
    alone = {name: [] if name in ('pipeline', 'dataset', 'datasets') else value
             for name, value in cfg.items()}
    found = check_component(alone, key, DATASETS, findings)
    if wrapped:
        # Wrappers count images when they are built.
        inner = [_check_dataset(part, name, findings, has_data) for name, part in wrapped.items()]
        return inner[0]
    if found is None:
        return None
    known = known_arguments(found) or ()
    if 'lazy_init' not in known:
        return None  # building it would read data
    lazily = dict(lazy_init=True, pipeline=[]) if 'pipeline' in known else dict(lazy_init=True)
    # Some datasets look for their files at once.
    forgive = () if has_data else (OSError, AssertionError)
    dataset = build_component({**cfg, **lazily}, key, DATASETS, findings, forgive)
    return getattr(dataset, 'metainfo', None)


def _check_pipeline(pipeline: Any, key: str, findings: Findings) -> None:
    if not isinstance(pipeline, (list, tuple)):
        findings.add(f'{key}={pipeline!r}: expected a list of dict(type=...)')
        return
    for i, transform in enumerate(pipeline):
        if not callable(transform):
            build_component(transform, f'{key}.{i}', TRANSFORMS, findings)


def _check_evaluator(cfg: Any, key: str, findings: Findings) -> None:
    if isinstance(cfg, dict) and 'metrics' in cfg:
        check_component(dict(cfg, type=cfg.get('type', 'Evaluator')), key, EVALUATOR, findings)
        _check_evaluator(cfg['metrics'], f'{key}.metrics', findings)
    elif isinstance(cfg, (list, tuple)):
        for i, metric in enumerate(cfg):
            _check_metric(metric, f'{key}.{i}', findings)
    else:
        _check_metric(cfg, key, findings)


def _check_metric(cfg: Any, key: str, findings: Findings) -> None:
    if check_component(cfg, key, METRICS, findings) is not None:
        cfg = {name: value for name, value in cfg.items() if name not in _FILES}
        build_component(cfg, key, METRICS, findings, forgive=(OSError, ))
