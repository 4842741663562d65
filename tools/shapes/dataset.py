"""Write scenes in the layouts of COCO and Cityscapes, which the stock loaders read."""
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from pycocotools import mask as coco_mask
from rich.progress import track

from shapes.scene import CLASSES, SPLITS, VERSION, Scene, draw_scene


class Drawing(NamedTuple):
    """What a data set shows.

    Args:
        name (str): Its name.
        version (int): That of its pictures.
        classes (tuple[str, ...]): Names of the classes.
        draw (Callable): Draws image ``(seed, split, index, size)``, a :class:`Scene`.
    """

    name: str
    version: int
    classes: tuple[str, ...]
    draw: Callable[[int, str, int, tuple[int, int]], Scene]


SHAPES = Drawing('shapes', VERSION, tuple(kind.name for kind in CLASSES), draw_scene)


class CocoWriter:
    """Writes scenes in the layout of COCO.

    Args:
        root (Path): The folder to fill.
        split (str): The part of the data set to write.
        drawing (Drawing): What is drawn.
    """

    def __init__(self, root: Path, split: str, drawing: Drawing) -> None:
        self.classes = drawing.classes
        self.image_dir = root / split
        self.image_dir.mkdir(parents=True)
        self.ann_file = root / 'annotations' / f'instances_{split}.json'
        self.ann_file.parent.mkdir(exist_ok=True)
        self.images: list[dict] = []
        self.annotations: list[dict] = []

    def add(self, scene: Scene) -> None:
        """Write one image and note its objects."""
        # COCO counts from 1; its evaluation takes an id of 0 for no match.
        image_id = len(self.images) + 1
        file_name = f'{image_id:012d}.jpg'
        _write_image(self.image_dir / file_name, scene.image)
        height, width = scene.instances.shape
        self.images.append(dict(id=image_id, file_name=file_name, height=height, width=width))
        for index, label in enumerate(scene.labels, start=1):
            rle = coco_mask.encode(np.asfortranarray(scene.instances == index, np.uint8))
            self.annotations.append(dict(
                id=len(self.annotations) + 1, image_id=image_id, category_id=label + 1,
                bbox=coco_mask.toBbox(rle).tolist(), area=int(coco_mask.area(rle)),
                segmentation=dict(size=rle['size'], counts=rle['counts'].decode()), iscrowd=0))

    def close(self) -> None:
        """Write the annotations."""
        categories = [dict(id=label, name=name) for label, name in enumerate(self.classes, 1)]
        _write_json(self.ann_file, dict(images=self.images, annotations=self.annotations,
                                        categories=categories))


class CityscapesWriter:
    """Writes scenes in the layout of Cityscapes, as a city named as the drawing.

    The label maps hold 0 for the background and ``i + 1`` for class ``i``.

    Args:
        root (Path): The folder to fill.
        split (str): The part of the data set to write.
        drawing (Drawing): What is drawn.
    """

    def __init__(self, root: Path, split: str, drawing: Drawing) -> None:
        self.city = drawing.name
        self.image_dir = root / 'leftImg8bit' / split / self.city
        self.label_dir = root / 'gtFine' / split / self.city
        self.image_dir.mkdir(parents=True)
        self.label_dir.mkdir(parents=True)
        self.count = 0

    def add(self, scene: Scene) -> None:
        """Write one image and its label map."""
        name = f'{self.city}_{self.count:06d}_000000'
        _write_image(self.image_dir / f'{name}_leftImg8bit.png', scene.image)
        label_of = np.array([0, *(label + 1 for label in scene.labels)], np.uint8)
        _write_image(self.label_dir / f'{name}_gtFine_labelTrainIds.png',
                     label_of[scene.instances])
        self.count += 1

    def close(self) -> None:
        """Nothing is left to write."""


WRITERS: dict[str, type[CocoWriter] | type[CityscapesWriter]] = dict(
    coco=CocoWriter, cityscapes=CityscapesWriter)


def make_shapes(out: str | Path = 'data/shapes',
                size: tuple[int, int] = (96, 96),
                count: tuple[int, int] = (1600, 500),
                seed: int = 0,
                layouts: Sequence[str] = tuple(WRITERS),
                drawing: Drawing = SHAPES) -> None:
    """Draw the data set, or keep it where it is there already.

    An interrupted drawing leaves no part of a data set behind: each layout appears under its name
    when it is complete.

    Args:
        out (str | Path): The folder to hold one folder for each layout. Defaults to
            'data/shapes'.
        size (tuple[int, int]): Height and width of the images. Defaults to (96, 96).
        count (tuple[int, int]): How many images to draw to train and to validate. More of them
            do not change the first ones. Defaults to (1600, 500).
        seed (int): What all randomness derives from. Defaults to 0.
        layouts (Sequence[str]): The keys of :data:`WRITERS` to write. Defaults to all.
        drawing (Drawing): What to draw. Defaults to :data:`SHAPES`.

    Raises:
        ValueError: If a number is out of range.
        FileExistsError: If other files, or pictures drawn with other parameters, are in the way.
    """
    if min(size) < 32:
        raise ValueError(f'--size must be at least 32, got {min(size)}')
    if min(count) < 1:
        raise ValueError(f'--count must be at least 1, got {min(count)}')
    if seed < 0:
        raise ValueError(f'--seed must not be negative, got {seed}')
    out = Path(out)
    parameters = dict(version=drawing.version, size=list(size), count=list(count), seed=seed)
    manifest = f'{drawing.name}.json'
    missing = [layout for layout in layouts
               if not _is_drawn(out / layout / manifest, parameters)]
    if not missing:
        return
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix='.drawing-', dir=out) as unfinished:
        for split, number in zip(SPLITS, count):
            writers = [WRITERS[layout](Path(unfinished, layout), split, drawing)
                       for layout in missing]
            for index in track(range(number), f'drawing {split}'):
                scene = drawing.draw(seed, split, index, size)
                for writer in writers:
                    writer.add(scene)
            for writer in writers:
                writer.close()
        for layout in missing:
            _write_json(Path(unfinished, layout, manifest), parameters)
            Path(unfinished, layout).replace(out / layout)


def _is_drawn(manifest: Path, parameters: dict[str, Any]) -> bool:
    """Whether this data set is there; an error where something else is."""
    folder = manifest.parent
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    if not manifest.is_file():
        raise FileExistsError(f'{folder} holds other files and is left alone: choose another '
                              'folder with --out')
    found = json.loads(manifest.read_text())
    differences = [f'{key} {found.get(key)} instead of {value}'
                   for key, value in parameters.items() if found.get(key) != value]
    if differences:
        raise FileExistsError(f'{folder} was drawn with {", ".join(differences)}: remove it, or '
                              'choose another folder with --out')
    return True


def _write_image(path: Path, image: np.ndarray) -> None:
    if not cv2.imwrite(str(path), image):
        raise OSError(f'cannot write {path}')


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1) + '\n')
