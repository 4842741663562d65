"""A folder of one's own in COCO's format."""
from __future__ import annotations

from pathlib import Path
from typing import Any

from mmengine.fileio import load

from mmakd.utils.errors import ConfigError, ConfigProblems, suggest

from .own_data import OwnData, Places, find_one, folders


def read_coco(root: Path, places: Places, classes: list[str] | None, with_masks: bool) -> OwnData:
    """Read a folder with ``annotations/*.json`` and images anywhere in it.

    Args:
        root (Path): The folder.
        places (Places): What the command line names of it.
        classes (list[str], optional): Those to detect; None for all categories.
        with_masks (bool): Whether the model learns masks.

    Raises:
        ConfigError: If a file is missing or unusable, or there are several that may be meant.
    """
    found = sorted((root / 'annotations').glob('*.json'))
    problems = ConfigProblems()
    files: dict[str, Path] = {}
    for split, names in places.items():
        with problems.under(''):
            if names.annotations is None and not found:
                raise ConfigError(f'--data={str(root)!r}: no annotations/*.json in it, which a '
                                  "detector needs; give a folder in COCO's format, or name the "
                                  f'file: --{split}-annotations FILE')
            files[split] = find_one(
                root, names.annotations, [path for path in found if split in path.stem],
                found, f'--{split}-annotations')
    problems.raise_if_any()
    read = {}
    for split, path in files.items():
        with problems.under(f'--{split}-annotations={str(path)!r}'):
            read[split] = _read(path, with_masks)
    problems.raise_if_any()
    known = {split: [category['name'] for category in content['categories']]
             for split, content in read.items()}
    if known['train'] != known['val']:
        raise ConfigError(f'--val-annotations={str(files["val"])!r}: its categories '
                          f'{known["val"]} are not those of the training {known["train"]}')
    for name in classes or ():
        if name not in known['train']:
            problems.add(f'--classes={name!r}: no such category; {suggest(name, known["train"])}')
    images: dict[str, Path] = {}
    for split, names in places.items():
        with problems.under(''):
            images[split] = _find_images(root, names.images, read[split], split)
    problems.raise_if_any()
    # In the order of the file, in which mmdet numbers them.
    chosen = [name for name in known['train'] if not classes or name in classes]
    metric = dict(type='CocoMetric', metric=['bbox', 'segm'] if with_masks else 'bbox')
    return OwnData(
        root=root, classes=chosen,
        dataset=dict(type='CocoDataset',
                     metainfo=dict(classes=tuple(chosen), palette='random')),
        splits={split: dict(ann_file=path.relative_to(root).as_posix(),
                            data_prefix=dict(img=images[split].relative_to(root).as_posix()))
                for split, path in files.items()},
        metric=metric, ann_file=files['val'].as_posix(),
        facts=[f'{split}: {len(read[split]["images"])} images in {images[split].as_posix()}, '
               f'{path.as_posix()}' for split, path in files.items()])


def _read(path: Path, with_masks: bool) -> dict[str, list[dict[str, Any]]]:
    try:
        content = load(path)
    except Exception as error:
        raise ConfigError(f': cannot be read ({error})') from error
    for key in 'images', 'annotations', 'categories':
        if not isinstance(content, dict) or not content.get(key):
            raise ConfigError(f": has no {key}; COCO's format for detection has images, "
                              'annotations and categories')
    names = [category.get('name') for category in content['categories']]
    if len(set(names)) < len(names):
        raise ConfigError(f': two categories have one name: {names}')
    lacking = [key for key in ('bbox', *(['segmentation'] if with_masks else ()))
               if any(not part.get(key) for part in content['annotations'])]
    if lacking:
        raise ConfigError(f': annotations without {" and ".join(lacking)}, which the model '
                          'learns')
    return content


def _find_images(root: Path, named: str | None, content: dict[str, list[dict[str, Any]]],
                 split: str) -> Path:
    """Find the folder in which all images of an annotation file are."""
    files = [image['file_name'] for image in content['images']]
    places = folders(root)
    whole = [folder for folder in places if (folder / files[0]).is_file()
             and all((folder / file).is_file() for file in files)]
    # Several may hold files of the same names.
    whole = [folder for folder in whole if split in folder.name] or whole
    chosen = find_one(root, named, whole, places, f'--{split}-images')
    missing = [file for file in files if not (chosen / file).is_file()]
    if missing:
        raise ConfigError(f'--{split}-images={str(chosen)!r}: {len(missing)} of {len(files)} '
                          f'images are not there, e.g. {missing[0]!r}')
    return chosen
