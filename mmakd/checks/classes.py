"""Compare the classes of data, networks and the teacher's checkpoint."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from ..utils.errors import ConfigError, ConfigProblems

_HEADS = ('bbox_head', 'mask_head', 'decode_head', 'auxiliary_head')


def find_class_numbers(network: nn.Module) -> dict[str, int]:
    """Find the number of classes of each head of a network, by the path of the head."""
    numbers = {}
    for path, module in network.named_modules():
        names = [name for name in path.split('.') if not name.isdigit()]
        # STDC's third auxiliary head knows boundaries only.
        if names and names[-1] in _HEADS and isinstance(
                getattr(module, 'num_classes', None), int) and not hasattr(
                    module, 'boundary_threshold'):
            numbers[path] = module.num_classes
    return numbers


def check_classes(metainfo: Mapping[str, dict], networks: Mapping[str, nn.Module],
                  checkpoints: Mapping[str, Mapping[str, Any]], problems: ConfigProblems) -> None:
    """Compare the classes and palettes of data, networks and the teachers' checkpoints.

    A teacher with other classes is only a warning, since its features can still be distilled.

    Args:
        metainfo (Mapping[str, dict]): Metainfo of each split's dataset.
        networks (Mapping[str, nn.Module]): ``'model'``; or ``'student'``, or
            ``'students.<name>'`` for each, and ``'teacher'`` or ``'teacher.<name>'`` for each
            teacher.
        checkpoints (Mapping[str, Mapping[str, Any]]): ``classes`` and ``palette`` of the data set
            that the checkpoint of a teacher names, likewise; empty where it names none.
        problems (ConfigProblems): Collects the problems and warnings.

    Raises:
        ConfigError: If ``classes`` is no list.
    """
    splits = {split: info for split, info in metainfo.items() if info.get('classes')}
    if not splits:
        return
    first, data = next(iter(splits.items()))
    for split, info in splits.items():
        if not isinstance(info['classes'], (list, tuple)):
            raise ConfigError(f'{split}_dataloader.dataset.metainfo.classes={info["classes"]!r}: '
                              'expected a list of names')
        palette = info.get('palette')
        if isinstance(palette, (list, tuple)) and 0 < len(palette) < len(info['classes']):
            problems.add(f'{split}_dataloader.dataset.metainfo.palette: {len(palette)} colours '
                         f'for {len(info["classes"])} classes; list one colour for each class')
        difference = _difference(info['classes'], data['classes'])
        if difference:
            problems.add(f'{split}_dataloader.dataset.metainfo.classes: not those of '
                         f'{first}_dataloader: {difference}')
    number = len(data['classes'])
    # Heads for boxes of a panoptic data set know its things only.
    right = {number, len(data.get('thing_classes') or data['classes'])}
    source = f'the data set ({first}_dataloader) has {number}'
    for side, network in networks.items():
        for path, own in find_class_numbers(network).items():
            if own in right:
                continue
            place = 'model' if side == 'model' else f'model.{side}'
            if side.startswith('teacher.'):
                place += '.cfg'
            key = f'{place}.{path}.num_classes={own}'
            if side.startswith('teacher'):
                problems.warn(f'{key}: {source}; right only for taps at features, not at class '
                              'scores')
            else:
                problems.add(f'{key}: {source} classes; set {number}, or metainfo of the dataset')
    for side, checkpoint in checkpoints.items():
        if not checkpoint.get('classes'):
            continue
        key = f'model.{side}{"." if "." in side else "_"}ckpt'
        difference = _difference(checkpoint['classes'], data['classes'])
        theirs, ours = ([*map(list, info.get('palette') or ())] for info in (checkpoint, data))
        if difference:
            problems.warn(f'{key}: its classes are not those of {first}_dataloader: '
                          f'{difference}')
        elif theirs != ours:
            problems.warn(f'{key}: its palette is not that of the data set '
                          f'({first}_dataloader); pictures of teacher and student differ in '
                          'colour')


def _difference(theirs: Sequence[str], ours: Sequence[str]) -> str:
    """Describe how two lists of classes differ; empty if they agree."""
    theirs = [theirs] if isinstance(theirs, str) else theirs
    if len(theirs) != len(ours):
        return f'{len(theirs)} classes there, {len(ours)} here'
    return next((f'class {i} is {a!r} there, {b!r} here'
                 for i, (a, b) in enumerate(zip(theirs, ours)) if a != b), '')
