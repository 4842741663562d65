"""A data set in COCO's format."""
from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from mmdet.datasets import CocoDataset
from mmengine.fileio import load
from rich.console import Console

from mmakd.utils.errors import describe

from .findings import Findings, decode, tell

# COCO 2017. The counts: github.com/cocodataset/cocoapi/issues/117. Two annotations of train2017
# have a box without height, which training leaves out (issue 355).
_PUBLISHED = {'instances_train2017.json': (118287, 860001),
              'instances_val2017.json': (5000, 36781)}
_WITHOUT_HEIGHT = {918, 2206849}
_UNUSED_IDS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
CATEGORIES = dict(zip(CocoDataset.METAINFO['classes'],
                      (number for number in range(1, 91) if number not in _UNUSED_IDS)))
_ADDRESS = 'http://images.cocodataset.org'
_FIELDS = dict(images=('id', 'file_name', 'width', 'height'),
               annotations=('id', 'image_id', 'category_id', 'bbox', 'area'),
               categories=('id', 'name'))
# A box may reach so many pixels beyond its image, by rounding.
_ROUNDING = 1
_CORRECT = 'correct the file'


def check_coco(dataset: CocoDataset, any_size: bool, findings: Findings) -> None:
    """Check an annotation file and its images.

    Args:
        dataset (CocoDataset): The data set, not read yet.
        any_size (bool): Whether a file with a name of COCO 2017 may hold something else.
        findings (Findings): Collects what is found.
    """
    path, folder = Path(dataset.ann_file), Path(dataset.data_prefix['img'])
    published = None if any_size else _PUBLISHED.get(path.name)
    get_file = get_images = f'put it there, or set data_root of the data set ({dataset.data_root})'
    if published:
        get_file, get_images = (
            f'download {_ADDRESS}/{archive}.zip and unpack it in {dataset.data_root}'
            for archive in ('annotations/annotations_trainval2017', f'zips/{folder.name}'))
    if not folder.is_dir():
        findings.problems.add(f'{folder}: no such folder; {get_images}')
    if not path.is_file():
        findings.problems.add(f'{path}: no such file; {get_file}')
        return
    try:
        with Console(stderr=True).status(f'reading {path}'):
            content = load(path)
    except Exception as error:
        findings.problems.add(f'{path}: cannot be read ({describe(error)}), perhaps cut off; '
                              f'{get_file}')
        return
    parts = _whole_records(path, content, dataset.test_mode, findings)
    if parts is None:
        return
    images, annotations, categories = parts
    findings.facts.append(f'  {len(images):,} images, {len(annotations):,} annotations, '
                          f'{len(categories):,} categories')
    for what, keys in (('image ids', (image['id'] for image in images)),
                       ('file names', (image['file_name'] for image in images)),
                       ('annotation ids', (part['id'] for part in annotations)),
                       ('category ids', (category['id'] for category in categories)),
                       ('category names', (category['name'] for category in categories))):
        findings.add(path, f'{what} used more than once', _repeated(keys), _CORRECT)
    ids = {category['name']: category['id'] for category in categories}
    classes = dataset.metainfo['classes']
    findings.add(path, 'classes of the config without a category', [
        name for name in classes if name not in ids],
        'objects of these classes are never learned; correct the names in the file, or '
        'metainfo.classes of the data set', len(classes))
    if published:
        for name, number, right in (('images', len(images), published[0]),
                                    ('annotations', len(annotations), published[1])):
            if number != right:
                findings.problems.add(f'{path}: {number:,} {name} instead of the {right:,} of '
                                      f'COCO 2017; {get_file} (--any-size if this is meant)')
        findings.add(path, "category ids other than COCO's", [
            f'{name} {ids[name]} instead of {number}' for name, number in CATEGORIES.items()
            if ids.get(name, number) != number], get_file)
    _check_annotations(path, images, annotations, set(ids.values()), bool(published), findings)
    if folder.is_dir():
        _check_images(folder, images, get_images, findings)


def _whole_records(path: Path, content: Any, is_tested: bool, findings: Findings
                   ) -> list[list[dict[str, Any]]] | None:
    """Return the records that have all that mmdet and pycocotools read of them."""
    parts = []
    for name, fields in _FIELDS.items():
        records = content.get(name) if isinstance(content, dict) else None
        if not isinstance(records, list) or not records:
            findings.problems.add(f"{path}: has no {name}; write it in COCO's format, with "
                                  'images, annotations and categories')
            continue
        if name == 'annotations' and is_tested:
            fields = (*fields, 'iscrowd')
        is_whole = [isinstance(record, dict) and all(record.get(field) is not None
                                                     for field in fields) for record in records]
        findings.add(path, f'{name} without {", ".join(fields[:-1])} or {fields[-1]}, by their '
                     'place in the list', [i for i, whole in enumerate(is_whole) if not whole],
                     _CORRECT, len(records))
        parts.append([record for record, whole in zip(records, is_whole) if whole])
    return parts if len(parts) == len(_FIELDS) else None


def _repeated(keys: Iterable[Any]) -> list[Any]:
    return [key for key, number in Counter(keys).items() if number > 1]


def _check_annotations(path: Path, images: list[dict[str, Any]],
                       annotations: list[dict[str, Any]], categories: set[int], published: bool,
                       findings: Findings) -> None:
    sizes = {image['id']: (image['width'], image['height']) for image in images}
    total = len(annotations)
    for what, key, known in (('an image', 'image_id', sizes),
                             ('a category', 'category_id', categories)):
        findings.add(path, f'annotations of {what} that is not listed',
                     [part['id'] for part in annotations if part[key] not in known], _CORRECT,
                     total)
    boxed = [part for part in annotations if _is_box(part['bbox'])]
    findings.add(path, 'annotations whose bbox is not [x, y, width, height]',
                 [part['id'] for part in annotations if not _is_box(part['bbox'])], _CORRECT,
                 total)
    boxed = [part for part in boxed if part['image_id'] in sizes]
    if boxed:
        numbers = np.array([part['id'] for part in boxed])
        boxes = np.array([part['bbox'] for part in boxed], float)
        beyond = boxes[:, :2] + boxes[:, 2:] - [sizes[part['image_id']] for part in boxed]
        is_empty = (boxes[:, 2:] <= 0).any(1)
        if published:
            is_empty &= ~np.isin(numbers, list(_WITHOUT_HEIGHT))
        findings.add(path, 'annotations whose box has no width or height',
                     numbers[is_empty].tolist(), 'remove or correct them', total)
        is_outside = ((boxes[:, :2] < -_ROUNDING) | (beyond > _ROUNDING)).any(1)
        findings.add(path, 'annotations whose box reaches out of the image',
                     numbers[is_outside].tolist(),
                     'write [x, y, width, height] in pixels of the image as it is stored', total)
        is_small = (boxes[:, 2:] < 1).any(1) | (np.array([part['area'] for part in boxed]) <= 0)
        left_out = numbers[is_small & ~is_empty].tolist()
        if left_out:
            findings.problems.warn(f'{path}: annotations left out of training, narrower than a '
                                   f'pixel or without area: {tell(left_out, total)}')
    empty = len(images) - len({part['image_id'] for part in annotations} & set(sizes))
    if empty:
        findings.facts.append(f'  {empty:,} images without annotations')


def _is_box(box: Any) -> bool:
    return isinstance(box, list) and len(box) == 4 and all(
        isinstance(value, (int, float)) and abs(value) < float('inf') for value in box)


def _check_images(folder: Path, images: list[dict[str, Any]], get_images: str,
                  findings: Findings) -> None:
    missing = [image['file_name'] for image in images
               if not (folder / image['file_name']).is_file()]
    findings.add(folder, 'images missing', missing, get_images, len(images))
    gone = set(missing)
    broken, other_size = 'images that cannot be decoded', 'images of another size than stated'

    def look(image: dict[str, Any]) -> dict[str, str]:
        pixels, why = decode(folder / image['file_name'])
        if pixels is None:
            return {broken: f'{image["file_name"]}: {why}'}
        height, width = pixels.shape[:2]
        if (width, height) == (image['width'], image['height']):
            return {}
        return {other_size: f'{image["file_name"]} is {width} x {height}, stated '
                f'{image["width"]} x {image["height"]}'}

    findings.read(str(folder), [image for image in images if image['file_name'] not in gone], look,
                  {broken: get_images, other_size: 'the boxes belong to other images; correct '
                   'width and height in the annotations, or the images'}, folder)
