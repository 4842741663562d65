"""Data of one's own in the place of that of a config."""
from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config

from mmakd.utils.errors import ConfigError

# What a data set keeps of the one in whose place it is.
_KEPT = ('pipeline', 'filter_cfg', 'test_mode')
_NUMBERS = ('num_classes', 'num_things_classes')
_NOT_HEADS = ('backbone', 'neck', 'rpn_head')


class Names(NamedTuple):
    """What the command line names of a split: a folder, and a file or folder; None to find it."""

    images: str | None
    annotations: str | None


Places = dict[str, Names]


@dataclass
class OwnData:
    """A data set.

    Attributes:
        root (Path): Its folder.
        classes (list[str]): Names of the classes.
        dataset (dict): Its config, without the place of a split.
        splits (dict[str, dict]): The place of ``'train'`` and ``'val'``.
        metric (dict): What evaluates it.
        facts (list[str]): What was found, to be printed.
        ann_file (str, optional): What the metric reads. Defaults to None.
    """

    root: Path
    classes: list[str]
    dataset: dict[str, Any]
    splits: dict[str, dict[str, Any]]
    metric: dict[str, Any]
    facts: list[str]
    ann_file: str | None = None


def find_one(root: Path, named: str | None, found: list[Path], possible: list[Path],
             option: str) -> Path:
    """Return what is named, or else the only one that was found.

    Raises:
        ConfigError: If it is not there, or the option is needed; lists what is possible.
    """
    if named is not None:
        if not (root / named).exists():
            raise ConfigError(f'{option}={named!r}: not in {root.as_posix()}; {_list(possible)}')
        return root / named
    if len(found) != 1:
        why = f'{len(found)} may be meant' if found else 'not found'
        raise ConfigError(f'{option}: {why}; name it, as seen from {root.as_posix()}; '
                          f'{_list([path.relative_to(root) for path in found or possible])}')
    return found[0]


def folders(root: Path) -> list[Path]:
    """List a folder and those in it, two levels deep."""
    return [root, *sorted(path for form in ('*', '*/*') for path in root.glob(form)
                          if path.is_dir())]


def _list(paths: list[Path]) -> str:
    shown = ', '.join(repr(path.as_posix()) for path in paths[:12])
    return f'there: {shown or "nothing"}{", ..." * (len(paths) > 12)}'


def learns_masks(cfg: Config) -> bool:
    """Tell whether a detector's training loads masks.

    Raises:
        ConfigError: If it loads what a data set of one's own does not have.
    """
    for part in _dicts(cfg.get('train_dataloader')):
        if part.get('with_seg') or part.get('type') == 'LoadPanopticAnnotations':
            raise ConfigError('--data: the model also learns from label maps of the whole '
                              'image; take one that learns from boxes, or boxes and masks')
    return any(part.get('with_mask') for part in _dicts(cfg.get('train_dataloader')))


def set_data(cfg: Config, data: OwnData) -> None:
    """Set paths, classes and heads of a config in place.

    Raises:
        ConfigError: If it has no place for them.
    """
    for split in 'train', 'val', 'test':
        loader = cfg.get(f'{split}_dataloader')
        if loader is None:
            if split == 'train':
                raise ConfigError('train_dataloader: missing, so --data has no place')
            continue
        inner = outer = loader.dataset
        while 'dataset' in inner or 'datasets' in inner:
            if 'datasets' in inner:  # several in one, whose place it takes
                outer, inner = inner, inner['datasets'][0]
            else:
                outer = inner = inner['dataset']
        kept = {key: inner[key] for key in _KEPT if key in inner}
        outer.clear()
        outer.update(copy.deepcopy(data.dataset), data_root=data.root.as_posix(),
                     **data.splits['train' if split == 'train' else 'val'], **kept)
    for split in 'val', 'test':
        if cfg.get(f'{split}_evaluator') is not None:
            cfg[f'{split}_evaluator'] = _evaluator(cfg[f'{split}_evaluator'], data)
    # A pipeline that says otherwise than the data set would shift the labels.
    for part in _dicts(list(cfg.values())):
        if part.get('type') == 'LoadAnnotations' and 'reduce_zero_label' in part:
            part['reduce_zero_label'] = False
    _set_classes(cfg.model, len(data.classes))


def _evaluator(metrics: Any, data: OwnData) -> Any:
    """Keep the metric of the same type, with its options."""
    metrics = metrics if isinstance(metrics, (list, tuple)) else [metrics]
    own = next((dict(metric) for metric in metrics if metric['type'] == data.metric['type']),
               dict(data.metric))
    for key in 'format_only', 'outfile_prefix', 'output_dir':
        own.pop(key, None)
    return {**own, 'ann_file': data.ann_file} if data.ann_file else own


def _set_classes(model: Any, number: int) -> None:
    """Set the number of classes of all heads, and drop weights of the old classes."""
    heads = [part for name, value in model.items() if name not in _NOT_HEADS
             for part in _dicts(value)]
    if any(part.get('num_stuff_classes') for part in heads):
        raise ConfigError('--data: this is a panoptic model; take one that learns boxes, '
                          'or boxes and masks')
    old = Counter(part[key] for part in heads for key in _NUMBERS if part.get(key))
    if not old:
        raise ConfigError('--data: no head of the model has num_classes in its config; set it '
                          "there, then give the config's path")
    # Other numbers are of other things, such as boundaries.
    (most, _), *_ = old.most_common(1)
    for part in heads:
        part.update({key: number for key in _NUMBERS if part.get(key) == most})
        weights = part.get('class_weight')
        if isinstance(weights, (list, tuple)):
            same = set(weights[:most]) == {weights[0]} and len(weights) == most + 1
            # The last of them is that of no object.
            part['class_weight'] = [weights[0]] * number + [weights[-1]] if same else None


def _dicts(value: Any) -> Iterator[dict[str, Any]]:
    """Yield all dicts of a part of a config."""
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for part in value:
            yield from _dicts(part)
