"""A folder of one's own with a label map for each image, as mmseg reads it."""
from __future__ import annotations

from pathlib import Path

import mmcv
import numpy as np

from mmakd.utils.errors import ConfigError, ConfigProblems

from .own_data import OwnData, Places, find_one, folders

_IMAGES = ('img_dir', 'images', 'leftImg8bit')
_MAPS = ('ann_dir', 'annotations', 'gtFine')
_FORMATS = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp')
_IGNORED = 255
# So many label maps are read, to check their labels.
_LOOKED_AT = 50


def read_label_maps(root: Path, places: Places, classes: list[str] | None,
                    suffix: str | None) -> OwnData:
    """Read a folder with ``img_dir/train``, ``ann_dir/train`` and the same for val.

    ``images`` and ``annotations``, or ``leftImg8bit`` and ``gtFine``, will do as well.

    Args:
        root (Path): The folder.
        places (Places): What the command line names of it.
        classes (list[str], optional): Their names, in the order of the labels.
        suffix (str, optional): How the names of the label maps end.

    Raises:
        ConfigError: If a folder is missing or unusable, or there are several that may be meant.
    """
    problems = ConfigProblems()
    found: dict[str, tuple[Path, Path]] = {}
    for split, names in places.items():
        with problems.under(''):
            of_images, of_maps = (
                [path for top in tops if (root / top).is_dir()
                 for path in sorted((root / top).iterdir())
                 if path.is_dir() and path.name.startswith(split)] for tops in (_IMAGES, _MAPS))
            there = folders(root)
            found[split] = (
                find_one(root, names.images, of_images, there, f'--{split}-images'),
                find_one(root, names.annotations, of_maps, there, f'--{split}-annotations'))
    problems.raise_if_any()
    endings = _find_endings(*found['train'], suffix)
    facts = []
    for split, (images, maps) in found.items():
        with problems.under(''):
            pairs = _pair(images, maps, *endings, split)
            facts.append(f'{split}: {len(pairs)} images in {images.as_posix()}, label maps in '
                         f'{maps.as_posix()}')
            _check_labels([path for _, path in pairs], classes)
    problems.raise_if_any()
    chosen = list(classes or ())
    return OwnData(
        root=root, classes=chosen,
        dataset=dict(type='BaseSegDataset', img_suffix=endings[0], seg_map_suffix=endings[1],
                     reduce_zero_label=False, metainfo=dict(classes=tuple(chosen))),
        splits={split: dict(data_prefix=dict(
            img_path=images.relative_to(root).as_posix(),
            seg_map_path=maps.relative_to(root).as_posix()))
            for split, (images, maps) in found.items()},
        metric=dict(type='IoUMetric', iou_metrics=['mIoU']), facts=facts)


def _files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob('*')
                  if path.suffix.lower() in _FORMATS)


def _find_endings(images: Path, maps: Path, suffix: str | None) -> tuple[str, str]:
    """Find how the names of images and label maps end, behind what they have in common."""
    image = next(iter(_files(images)), None)
    if image is None:
        raise ConfigError(f'--train-images={str(images)!r}: no image in it')
    files = [name for name in _files(maps) if suffix is None or name.endswith(suffix)]
    if not files:
        raise ConfigError(f'--train-annotations={str(maps)!r}: no label map '
                          f'*{suffix or ""} in it')
    alike = {name: _common_letters(name, image) for name in files}
    start = max(alike.values())
    own = [name for name in files if alike[name] == start]
    start = min(start, image.rindex('.'))
    start -= image[:start].endswith('_')  # which belongs to the ending
    if len(own) > 1:
        raise ConfigError(f'--map-suffix: {len(own)} files belong to {image!r}; name the ending '
                          f'of the label maps: {", ".join(repr(name[start:]) for name in own)}')
    return image[start:], own[0][start:]


def _common_letters(one: str, other: str) -> int:
    """Count the letters with which both begin."""
    return next((i for i, pair in enumerate(zip(one, other)) if pair[0] != pair[1]),
                min(len(one), len(other)))


def _pair(images: Path, maps: Path, of_image: str, of_map: str, split: str
          ) -> list[tuple[Path, Path]]:
    """Pair images and label maps, as mmseg does."""
    names = [name for name in _files(images) if name.endswith(of_image)]
    pairs = [(images / name, maps / (name[:-len(of_image)] + of_map)) for name in names]
    if not pairs:
        raise ConfigError(f'--{split}-images={str(images)!r}: no image *{of_image} in it')
    missing = [path for _, path in pairs if not path.is_file()]
    if missing:
        raise ConfigError(f'--{split}-annotations={str(maps)!r}: {len(missing)} of {len(pairs)} '
                          f'images have no label map, e.g. {missing[0].name!r}')
    return pairs


def _check_labels(paths: list[Path], classes: list[str] | None) -> None:
    """Check the labels of some label maps against the number of classes."""
    labels: set[int] = set()
    for path in paths[::max(1, len(paths) // _LOOKED_AT)]:
        labels_there = mmcv.imread(path, flag='unchanged', backend='pillow')
        if labels_there.ndim != 2:
            raise ConfigError(f'--data: {path.as_posix()!r} is a picture in colour; mmseg needs '
                              'the number of the class at each pixel')
        labels |= set(np.unique(labels_there).tolist())
    labels -= {_IGNORED}
    if not labels:
        raise ConfigError(f'--data: the label maps in {paths[0].parent.as_posix()!r} have no '
                          f'label but {_IGNORED}, which is ignored')
    if not classes:
        raise ConfigError(f'--classes: missing, and label maps have no names; the labels are '
                          f'{_describe(labels)}; give {max(labels) + 1} names, from label 0 on')
    if max(labels) >= len(classes):
        raise ConfigError(f'--classes: {len(classes)} names, for labels 0 to {len(classes) - 1}, '
                          f'but the labels are {_describe(labels)}; {_IGNORED} is ignored')


def _describe(labels: set[int]) -> str:
    return (f'{min(labels)} to {max(labels)}' if len(labels) > 12 else
            ', '.join(map(str, sorted(labels))))
