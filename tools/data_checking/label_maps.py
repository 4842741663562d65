"""A data set of label maps, in the folders of Cityscapes or others."""
from __future__ import annotations

from pathlib import Path

import numpy as np
from mmengine.fileio import list_dir_or_file
from mmseg.datasets import BaseSegDataset, CityscapesDataset

from .findings import Findings, decode

# Images with fine annotations, as the README of cityscapesScripts counts them.
_PUBLISHED = dict(train=2975, val=500)


def check_label_maps(dataset: BaseSegDataset, any_size: bool, has_labels: bool,
                     findings: Findings) -> None:
    """Check images and label maps.

    Args:
        dataset (BaseSegDataset): The data set, not read yet.
        any_size (bool): Whether Cityscapes may have another number of images.
        has_labels (bool): Whether the label maps are used.
        findings (Findings): Collects what is found.
    """
    is_cityscapes = type(dataset) is CityscapesDataset
    images = Path(dataset.data_prefix['img_path'])
    maps = Path(dataset.data_prefix.get('seg_map_path') or '') if has_labels else None
    get = f'put it there, or set data_root of the data set ({dataset.data_root})'
    get_images, get_maps = (
        f'download {name}_trainvaltest.zip from cityscapes-dataset.com (by csDownload of '
        f'cityscapesscripts, with an account) and unpack it in {dataset.data_root}'
        if is_cityscapes else get for name in ('leftImg8bit', 'gtFine'))
    convert = ('pip install cityscapesscripts && '
               f'CITYSCAPES_DATASET={dataset.data_root} csCreateTrainIdLabelImgs')
    absent = {folder: todo for folder, todo in ((images, get_images), (maps, get_maps))
              if folder is not None and not folder.is_dir()}
    for folder, todo in absent.items():
        findings.problems.add(f'{folder}: no such folder; {todo}')
    if absent:
        return
    try:
        pairs = [(info['img_path'], info.get('seg_map_path')) for info in dataset.load_data_list()]
    except (AssertionError, OSError) as error:  # the list of the images
        findings.problems.add(f'{dataset.ann_file}: {error}; {get}')
        return
    findings.facts.append(f'  {len(pairs):,} images')
    right = _PUBLISHED.get(images.name) if is_cityscapes and not any_size else None
    if not pairs:
        findings.problems.add(f'{images}: no image *{dataset.img_suffix}; {get_images}')
    elif right and len(pairs) != right:
        findings.problems.add(f'{images}: {len(pairs):,} images instead of the {right:,} of '
                              f'Cityscapes; {get_images} (--any-size if this is meant)')
    missing = [image for image, _ in pairs if not Path(image).is_file()]
    findings.add(images, 'images missing', missing, get_images, len(pairs))
    if maps is not None:
        _check_names(pairs, maps, dataset.seg_map_suffix, get_maps, convert, findings)
    gone = set(missing)
    _read(images, [pair for pair in pairs if pair[0] not in gone], dataset,
          maps is not None, get_images, convert if is_cityscapes else '', findings)


def _check_names(pairs: list[tuple[str, str]], maps: Path, suffix: str, get_maps: str,
                 convert: str, findings: Findings) -> None:
    """Check that images and label maps belong together."""
    missing = [path for _, path in pairs if not Path(path).is_file()]
    # What Cityscapes is delivered with: classes by other numbers.
    other = [path for path in missing
             if Path(path.replace('_labelTrainIds.png', '_labelIds.png')).is_file()]
    findings.add(maps, 'label maps *_labelTrainIds.png missing where *_labelIds.png is there',
                 other, f'make them: {convert}', len(pairs))
    findings.add(maps, 'label maps missing', sorted(set(missing) - set(other)), get_maps,
                 len(pairs))
    there = {str(maps / name) for name in list_dir_or_file(maps, list_dir=False, suffix=suffix,
                                                           recursive=True)}
    if suffix != '.png':  # which other files may end with
        findings.add(maps, 'label maps without an image',
                     sorted(there - {str(Path(path)) for _, path in pairs}),
                     'add the images, or remove the label maps', len(there))


def _read(images: Path, pairs: list[tuple[str, str]], dataset: BaseSegDataset, has_labels: bool,
          get_images: str, convert: str, findings: Findings) -> None:
    classes = dataset.metainfo.get('classes')
    number = len(classes or ()) + bool(dataset.reduce_zero_label)
    allowed = {*(dataset.label_map or range(number)), dataset.ignore_index}
    todo = {
        'images that cannot be decoded': get_images,
        'label maps that cannot be decoded': 'get or make them again',
        'label maps that are pictures in colour': 'write the number of the class at each pixel',
        'label maps of another size than their image': 'make them again from the same images',
        'label maps with ids that are no class': (
            f'allowed are 0 to {number - 1} and {dataset.ignore_index}, which is ignored; '
            + (f'if they hold _labelIds, make them again: {convert}' if convert else
               'correct them, or metainfo.classes of the data set'))}
    broken, broken_map, in_colour, other_size, other_ids = todo

    def look(pair: tuple[str, str]) -> dict[str, str]:
        image, path = pair
        found = {}
        pixels, why = decode(image)
        if pixels is None:
            found[broken] = f'{image}: {why}'
        if not has_labels or not Path(path).is_file():
            return found
        labels, why = decode(path)
        if labels is None:
            found[broken_map] = f'{path}: {why}'
        elif labels.ndim != 2:
            found[in_colour] = path
        else:
            if pixels is not None and labels.shape != pixels.shape[:2]:
                found[other_size] = path
            ids = set(np.unique(labels).tolist()) - allowed
            if classes and ids:
                found[other_ids] = f'{path}: {", ".join(map(str, sorted(ids)[:8]))}'
        return found

    findings.read(str(images), pairs, look, todo, images)
