"""Draw the embedded data set: shapes to detect and to segment.

Each image shows a few textured shapes among clutter, with occlusion, uneven
light and noise. Classes share outlines (disk, ladybird), textures (crate,
pennant) and often colours, so that none of these alone tells the class.
The same scenes are written in two layouts, which the stock loaders read:

    data/shapes/coco/         annotations/instances_{train,val}.json
                              train/*.jpg  val/*.jpg
    data/shapes/cityscapes/   leftImg8bit/{train,val}/shapes/*_leftImg8bit.png
                              gtFine/{train,val}/shapes/*_labelTrainIds.png
"""
import argparse
import json
import tempfile
from collections.abc import Sequence
from colorsys import hsv_to_rgb
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from pycocotools import mask as coco_mask
from rich.progress import track

# Raise it whenever the pictures change, so that old ones are not reused.
VERSION = 1
SPLITS = ('train', 'val')
# Scenes are painted larger and scaled down, which smooths the edges.
SUPERSAMPLING = 2
# No object is hidden further than this, so that every label can be seen.
MIN_VISIBLE = 0.6
# Classes lean towards a colour of their own, and often wear a neighbour's.
HUE_SPREAD = 0.08


class ShapeClass(NamedTuple):
    """What makes a class: outline, texture and size.

    Args:
        name (str): The name of the class.
        outline (str): The key of its contour in :data:`OUTLINES`.
        texture (str): The key of its pattern in :data:`TEXTURES`.
        radius (tuple[float, float]): The range of its radius, in shorter
            sides of the image.
    """
    name: str
    outline: str
    texture: str
    radius: tuple[float, float]


CLASSES = (
    ShapeClass('disk', 'disk', 'plain', (0.08, 0.18)),
    ShapeClass('ladybird', 'disk', 'dots', (0.12, 0.22)),
    ShapeClass('ring', 'ring', 'plain', (0.12, 0.24)),
    ShapeClass('crate', 'square', 'stripes', (0.12, 0.26)),
    ShapeClass('pennant', 'triangle', 'stripes', (0.12, 0.24)),
    ShapeClass('star', 'star', 'plain', (0.10, 0.22)),
)


def _polygon(corners: int, *radii: float) -> np.ndarray:
    """Corners at even angles; ``radii`` repeat around the centre."""
    angle = 2 * np.pi * np.arange(corners) / corners
    radius = np.resize(radii or (1.0, ), corners)[:, None]
    return radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)


# A contour inside another one is a hole.
OUTLINES = dict(
    disk=[_polygon(40)],
    ring=[_polygon(40), 0.55 * _polygon(40)],
    square=[_polygon(4)],
    triangle=[_polygon(3)],
    star=[_polygon(10, 1.0, 0.45)],
)

# Each takes coordinates that span about [-1, 1] over the object and returns
# the share of the second colour.
TEXTURES = dict(
    plain=lambda u, v: 0.15 * (u + 1),
    stripes=lambda u, v: np.sin(8 * u) > 0,
    checks=lambda u, v: np.sin(6 * u) * np.sin(6 * v) > 0,
    dots=lambda u, v: np.cos(8 * u) + np.cos(8 * v) > 0.7,
)


def _enlarge(grid: np.ndarray, height: int, width: int) -> np.ndarray:
    """Blend a few values smoothly over an image."""
    return cv2.resize(
        grid.astype(np.float32), (width, height),
        interpolation=cv2.INTER_CUBIC)


class Scene(NamedTuple):
    """A picture and what can be seen in it.

    Args:
        image (np.ndarray): The BGR image, uint8, of shape (H, W, 3).
        instances (np.ndarray): Which object each pixel shows, of shape
            (H, W): 0 for none, ``i + 1`` for object ``i``.
        labels (list[int]): The class of each object.
    """
    image: np.ndarray
    instances: np.ndarray
    labels: list[int]


class _Canvas:
    """A picture under construction and its map of objects."""

    def __init__(self, rng: np.random.Generator, size: tuple[int, int]):
        self.rng = rng
        self.height, self.width = (SUPERSAMPLING * side for side in size)
        self.side = min(self.height, self.width)
        self.image = self._background()
        self.instances = np.zeros((self.height, self.width), np.int32)
        self.areas: list[int] = []

    def _colours(self, hue: float) -> np.ndarray:
        """Two colours that can be told apart, the first of about that hue."""
        hue = (hue + self.rng.normal(0, HUE_SPREAD)) % 1
        saturation, value = self.rng.uniform(0.5, 1, 2)
        first = 255 * np.array(hsv_to_rgb(hue, saturation, value)[::-1])
        while True:
            second = self.rng.uniform(0, 255, 3)
            if np.linalg.norm(first - second) > 120:
                return np.stack([first, second])

    def _background(self) -> np.ndarray:
        """A cloudy ground of muted colours."""
        muted = 128 + 0.5 * (self._colours(self.rng.random()) - 128)
        mix = self.rng.random((6, 6, 3))
        clouds = muted[0] + mix * (muted[1] - muted[0])
        return _enlarge(clouds, self.height, self.width)

    def paint(self,
              contours: Sequence[np.ndarray],
              texture: str,
              radius: float,
              hue: float,
              is_object: bool) -> bool:
        """Put a shape at a random place, in front of what is there.

        Args:
            contours (Sequence[np.ndarray]): Its outline within the unit
                circle, and its holes.
            texture (str): The key of its pattern in :data:`TEXTURES`.
            radius (float): Its radius in shorter sides of the image.
            hue (float): About its first colour, in [0, 1].
            is_object (bool): Whether it is an object or clutter.

        Returns:
            bool: Whether it is there; False where it would hide an object.
        """
        turn, squeeze = self.rng.uniform(0, 2 * np.pi), self.rng.uniform(.7, 1)
        rotation = np.array([[np.cos(turn), -np.sin(turn)],
                             [np.sin(turn), np.cos(turn)]])
        shape_to_image = radius * self.side * rotation * (1, squeeze)
        # Objects keep their centre inside the image, or little is seen.
        centre = self.rng.uniform(0.08, 0.92, 2) * (self.width, self.height)
        points = [contour @ shape_to_image.T + centre for contour in contours]

        low = np.floor(np.min(points[0], axis=0)).astype(int).clip(0)
        high = np.ceil(np.max(points[0], axis=0)).astype(int) + 1
        high = high.clip(max=(self.width, self.height))
        window = np.s_[low[1]:high[1], low[0]:high[0]]
        mask = np.zeros(self.instances[window].shape, np.uint8)
        cv2.fillPoly(mask, [np.rint(p - low).astype(int) for p in points], 1)
        inside = mask.astype(bool)
        if not self._keeps_visible(window, inside):
            return False

        y, x = np.nonzero(inside)
        pixels = np.stack([x, y]) + (low - centre)[:, None]
        u, v = np.linalg.inv(shape_to_image) @ pixels
        share = TEXTURES[texture](u, v)[:, None]
        first, second = self._colours(hue)
        self.image[window][inside] = first + share * (second - first)
        if is_object:
            self.areas.append(int(inside.sum()))
        self.instances[window][inside] = len(self.areas) if is_object else 0
        return True

    def _keeps_visible(self, window: tuple[slice, ...],
                       inside: np.ndarray) -> bool:
        """Whether all objects remain visible behind a new shape."""
        hidden = self.instances[window][inside]
        for index in np.unique(hidden[hidden > 0]):
            before = np.count_nonzero(self.instances == index)
            after = before - np.count_nonzero(hidden == index)
            if after < MIN_VISIBLE * self.areas[index - 1]:
                return False
        return True

    def finish(self) -> tuple[np.ndarray, np.ndarray]:
        """Scale it down, light it, add noise; image and map of objects."""
        image = cv2.resize(
            self.image,
            None,
            fx=1 / SUPERSAMPLING,
            fy=1 / SUPERSAMPLING,
            interpolation=cv2.INTER_AREA)
        light = _enlarge(self.rng.uniform(0.55, 1.25, (3, 3, 1)),
                         *image.shape[:2])
        noise = self.rng.standard_normal(image.shape, np.float32)
        image = image * light[..., None] + self.rng.uniform(2, 10) * noise
        instances = self.instances[::SUPERSAMPLING, ::SUPERSAMPLING]
        return np.rint(image).clip(0, 255).astype(np.uint8), instances


def draw_scene(seed: int, split: str, index: int,
               size: tuple[int, int]) -> Scene:
    """Draw one image, whatever else is drawn.

    Args:
        seed (int): The seed of the data set.
        split (str): Its part of the data set, one of :data:`SPLITS`.
        index (int): Its number there.
        size (tuple[int, int]): Its height and width.

    Returns:
        Scene: The picture, its map of objects and their classes.
    """
    rng = np.random.default_rng((seed, SPLITS.index(split), index))
    canvas = _Canvas(rng, size)
    labels: list[int] = []
    # A long image holds proportionally more.
    crowd = max(size) / min(size)
    for _ in range(round(crowd * rng.integers(6, 13))):
        if rng.random() < 0.65:
            label = int(rng.integers(len(CLASSES)))
            kind = CLASSES[label]
            if canvas.paint(OUTLINES[kind.outline], kind.texture,
                            rng.uniform(*kind.radius), label / len(CLASSES),
                            is_object=True):
                labels.append(label)
        else:
            # Clutter wears the textures of the classes, not their outlines.
            corners = int(rng.integers(4, 9))
            blob = _polygon(corners, *rng.uniform(0.3, 1.0, corners))
            canvas.paint([blob], str(rng.choice(list(TEXTURES))),
                         rng.uniform(0.05, 0.2), rng.random(), is_object=False)
    return Scene(*canvas.finish(), labels)


class CocoWriter:
    """Writes scenes in the layout of COCO.

    Args:
        root (Path): The folder to fill.
        split (str): The part of the data set to write.
    """

    def __init__(self, root: Path, split: str):
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
        self.images.append(
            dict(id=image_id, file_name=file_name, height=height, width=width))
        for index, label in enumerate(scene.labels, start=1):
            mask = np.asfortranarray(scene.instances == index, np.uint8)
            rle = coco_mask.encode(mask)
            self.annotations.append(
                dict(
                    id=len(self.annotations) + 1,
                    image_id=image_id,
                    category_id=label + 1,
                    bbox=coco_mask.toBbox(rle).tolist(),
                    area=int(coco_mask.area(rle)),
                    segmentation=dict(
                        size=rle['size'], counts=rle['counts'].decode()),
                    iscrowd=0))

    def close(self) -> None:
        """Write the annotations."""
        categories = [
            dict(id=label + 1, name=kind.name)
            for label, kind in enumerate(CLASSES)
        ]
        _write_json(
            self.ann_file,
            dict(
                images=self.images,
                annotations=self.annotations,
                categories=categories))


class CityscapesWriter:
    """Writes scenes in the layout of Cityscapes, as a city named shapes.

    The label maps hold 0 for the background and ``i + 1`` for class ``i``.

    Args:
        root (Path): The folder to fill.
        split (str): The part of the data set to write.
    """

    def __init__(self, root: Path, split: str):
        self.image_dir = root / 'leftImg8bit' / split / 'shapes'
        self.label_dir = root / 'gtFine' / split / 'shapes'
        self.image_dir.mkdir(parents=True)
        self.label_dir.mkdir(parents=True)
        self.count = 0

    def add(self, scene: Scene) -> None:
        """Write one image and its label map."""
        name = f'shapes_{self.count:06d}_000000'
        _write_image(self.image_dir / f'{name}_leftImg8bit.png', scene.image)
        label_of = np.array([0, *(label + 1 for label in scene.labels)],
                            np.uint8)
        _write_image(self.label_dir / f'{name}_gtFine_labelTrainIds.png',
                     label_of[scene.instances])
        self.count += 1

    def close(self) -> None:
        """Nothing is left to write."""


WRITERS: dict[str, type[CocoWriter] | type[CityscapesWriter]] = dict(
    coco=CocoWriter, cityscapes=CityscapesWriter)


def _write_image(path: Path, image: np.ndarray) -> None:
    if not cv2.imwrite(str(path), image):
        raise OSError(f'cannot write {path}')


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1) + '\n')


def _is_drawn(folder: Path, parameters: dict[str, Any]) -> bool:
    """Whether this data set is there; an error where something else is."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    manifest = folder / 'shapes.json'
    if not manifest.is_file():
        raise FileExistsError(
            f'{folder} holds other files and is left alone: choose another '
            'folder with --out')
    found = json.loads(manifest.read_text())
    differences = [
        f'{key} {found.get(key)} instead of {value}'
        for key, value in parameters.items() if found.get(key) != value
    ]
    if differences:
        raise FileExistsError(
            f'{folder} was drawn with {", ".join(differences)}: remove it, '
            'or choose another folder with --out')
    return True


def make_shapes(out: str | Path = 'data/shapes',
                size: tuple[int, int] = (96, 96),
                count: tuple[int, int] = (1600, 500),
                seed: int = 0,
                layouts: Sequence[str] = tuple(WRITERS)) -> None:
    """Draw the data set, or keep it where it is there already.

    An interrupted drawing leaves no part of a data set behind: each layout
    appears under its name when it is complete.

    Args:
        out (str | Path): The folder to hold one folder for each layout.
            Defaults to 'data/shapes'.
        size (tuple[int, int]): Height and width of the images. Defaults to
            (96, 96).
        count (tuple[int, int]): How many images to draw to train and to
            validate. More of them do not change the first ones. Defaults to
            (1600, 500).
        seed (int): What all randomness derives from. Defaults to 0.
        layouts (Sequence[str]): The keys of :data:`WRITERS` to write.
            Defaults to all.

    Raises:
        ValueError: If a number is out of range.
        FileExistsError: If other files, or shapes drawn with other
            parameters, are in the way.
    """
    if min(size) < 32:
        raise ValueError(f'--size must be at least 32, got {min(size)}')
    if min(count) < 1:
        raise ValueError(f'--count must be at least 1, got {min(count)}')
    if seed < 0:
        raise ValueError(f'--seed must not be negative, got {seed}')
    out = Path(out)
    parameters = dict(
        version=VERSION, size=list(size), count=list(count), seed=seed)
    missing = [
        layout for layout in layouts
        if not _is_drawn(out / layout, parameters)
    ]
    if not missing:
        return
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix='.drawing-', dir=out) as drawing:
        for split, number in zip(SPLITS, count):
            writers = [
                WRITERS[layout](Path(drawing, layout), split)
                for layout in missing
            ]
            for index in track(range(number), f'drawing {split}'):
                scene = draw_scene(seed, split, index, size)
                for writer in writers:
                    writer.add(scene)
            for writer in writers:
                writer.close()
        for layout in missing:
            _write_json(Path(drawing, layout, 'shapes.json'), parameters)
            Path(drawing, layout).replace(out / layout)


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='The same options draw the same bytes. What is there already '
        'is kept; other files\nare never overwritten.\n\nexamples:\n'
        '  python tools/make_shapes.py\n'
        '  python tools/make_shapes.py --layout cityscapes --size 512 1024 '
        '--count 2000 500 \\\n      --out data/shapes_large')
    parser.add_argument(
        '--out',
        type=Path,
        default='data/shapes',
        help='folder to hold coco/ and cityscapes/ (default: %(default)s)')
    parser.add_argument(
        '--size',
        type=int,
        nargs='+',
        default=[96],
        metavar='N',
        help='height and width of the images, or one number for both; '
        'objects grow with them (default: 96)')
    parser.add_argument(
        '--count',
        type=int,
        nargs=2,
        default=[1600, 500],
        metavar=('TRAIN', 'VAL'),
        help='number of images; a larger number adds images and keeps the '
        'first ones as they are (default: 1600 500)')
    parser.add_argument(
        '--seed',
        type=int,
        default=0,
        help='another seed draws other images (default: %(default)s)')
    parser.add_argument(
        '--layout',
        nargs='+',
        choices=list(WRITERS),
        default=list(WRITERS),
        help='what to write: coco to detect, cityscapes to segment '
        '(default: both)')
    args = parser.parse_args()
    if len(args.size) > 2:
        parser.error('--size takes one number, or height and width')
    args.size = (args.size[0], args.size[-1])
    args.count = tuple(args.count)
    return args


def main() -> None:
    """Draw what the command line asks for."""
    args = parse_args()
    try:
        make_shapes(args.out, args.size, args.count, args.seed, args.layout)
    except (ValueError, OSError) as error:
        raise SystemExit(f'make_shapes.py: {error}') from None
    print(f'{args.out}: {" and ".join(args.layout)} ready')


if __name__ == '__main__':
    main()
