"""Draw one scene of the shapes data: a picture and what can be seen in it."""
from abc import abstractmethod
from collections.abc import Callable, Sequence
from colorsys import hsv_to_rgb
from typing import NamedTuple

import cv2
import numpy as np

# Raise it whenever the pictures change, so that old ones are not reused.
VERSION = 1
SPLITS = ('train', 'val')
# Scenes are painted larger and scaled down, which smooths the edges.
SUPERSAMPLING = 2
# Classes lean towards a colour of their own, and often wear a neighbour's.
HUE_SPREAD = 0.08


class ShapeClass(NamedTuple):
    """What makes a class: outline, texture and size.

    Args:
        name (str): The name of the class.
        outline (str): The key of its contour in :data:`OUTLINES`.
        texture (str): The key of its pattern in :data:`TEXTURES`.
        radius (tuple[float, float]): The range of its radius, in shorter sides of the image.
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

# Each takes coordinates that span about [-1, 1] over the object; it returns the share of the
# second colour.
TEXTURES = dict(
    plain=lambda u, v: 0.15 * (u + 1),
    stripes=lambda u, v: np.sin(8 * u) > 0,
    checks=lambda u, v: np.sin(6 * u) * np.sin(6 * v) > 0,
    dots=lambda u, v: np.cos(8 * u) + np.cos(8 * v) > 0.7,
)


def _enlarge(grid: np.ndarray, height: int, width: int) -> np.ndarray:
    """Blend a few values smoothly over an image."""
    return cv2.resize(grid.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)


class Scene(NamedTuple):
    """A picture and what can be seen in it.

    Args:
        image (np.ndarray): The BGR image, uint8, of shape (H, W, 3).
        instances (np.ndarray): Which object each pixel shows, of shape (H, W): 0 for none,
            ``i + 1`` for object ``i``.
        labels (list[int]): The class of each object.
    """

    image: np.ndarray
    instances: np.ndarray
    labels: list[int]


class Canvas:
    """A picture under construction and its map of objects.

    Args:
        rng (np.random.Generator): Where all that is random comes from.
        size (tuple[int, int]): Height and width of the finished image.

    Attributes:
        min_visible (float): Share of each object that stays visible.
        height (int): Of the canvas, which is larger than the finished image.
        width (int): Likewise.
        side (int): The shorter of both.
        image (np.ndarray): BGR, float32, of shape (height, width, 3).
        instances (np.ndarray): Which object each pixel shows, as of :class:`Scene`.
    """

    min_visible = 0.6

    def __init__(self, rng: np.random.Generator, size: tuple[int, int]):
        self.rng = rng
        self.height, self.width = (SUPERSAMPLING * side for side in size)
        self.side = min(self.height, self.width)
        self.image = self.background()
        self.instances = np.zeros((self.height, self.width), np.int32)
        self._areas: list[int] = []

    @abstractmethod
    def background(self) -> np.ndarray:
        """Draw what is behind the objects."""

    def keeps_visible(self, window: tuple[slice, ...], inside: np.ndarray) -> bool:
        """Tell whether all objects remain visible behind a new one."""
        hidden = self.instances[window][inside]
        for index in np.unique(hidden[hidden > 0]):
            before = np.count_nonzero(self.instances == index)
            after = before - np.count_nonzero(hidden == index)
            if after < self.min_visible * self._areas[index - 1]:
                return False
        return True

    def mark(self, window: tuple[slice, ...], inside: np.ndarray, is_object: bool) -> None:
        """Note what is now seen at some pixels: a new object, or none."""
        if is_object:
            self._areas.append(int(inside.sum()))
        self.instances[window][inside] = len(self._areas) if is_object else 0

    def finish(self) -> tuple[np.ndarray, np.ndarray]:
        """Scale it down, light it, add noise; image and map of objects."""
        image = cv2.resize(self.image, None, fx=1 / SUPERSAMPLING, fy=1 / SUPERSAMPLING,
                           interpolation=cv2.INTER_AREA)
        light = _enlarge(self.rng.uniform(0.55, 1.25, (3, 3, 1)), *image.shape[:2])
        noise = self.rng.standard_normal(image.shape, np.float32)
        image = image * light[..., None] + self.rng.uniform(2, 10) * noise
        instances = self.instances[::SUPERSAMPLING, ::SUPERSAMPLING]
        return np.rint(image).clip(0, 255).astype(np.uint8), instances


class ShapesCanvas(Canvas):
    """A picture of shapes on a cloudy ground."""

    textures: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = TEXTURES

    def _colours(self, hue: float) -> np.ndarray:
        """Two colours that can be told apart, the first of about that hue."""
        hue = (hue + self.rng.normal(0, HUE_SPREAD)) % 1
        saturation, value = self.rng.uniform(0.5, 1, 2)
        first = 255 * np.array(hsv_to_rgb(hue, saturation, value)[::-1])
        while True:
            second = self.rng.uniform(0, 255, 3)
            if np.linalg.norm(first - second) > 120:
                return np.stack([first, second])

    def background(self) -> np.ndarray:
        """A cloudy ground of muted colours."""
        muted = 128 + 0.5 * (self._colours(self.rng.random()) - 128)
        mix = self.rng.random((6, 6, 3))
        clouds = muted[0] + mix * (muted[1] - muted[0])
        return _enlarge(clouds, self.height, self.width)

    def paint(self, contours: Sequence[np.ndarray], texture: str, radius: float, hue: float,
              is_object: bool) -> bool:
        """Put a shape at a random place, in front of what is there.

        Args:
            contours (Sequence[np.ndarray]): Its outline within the unit circle, and its holes.
            texture (str): The key of its pattern in ``textures``.
            radius (float): Its radius in shorter sides of the image.
            hue (float): About its first colour, in [0, 1].
            is_object (bool): Whether it is an object or clutter.

        Returns:
            bool: Whether it is there; False where it would hide an object.
        """
        turn, squeeze = self.rng.uniform(0, 2 * np.pi), self.rng.uniform(.7, 1)
        rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
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
        if not self.keeps_visible(window, inside):
            return False

        y, x = np.nonzero(inside)
        pixels = np.stack([x, y]) + (low - centre)[:, None]
        u, v = np.linalg.inv(shape_to_image) @ pixels
        share = self.textures[texture](u, v)[:, None]
        first, second = self._colours(hue)
        self.image[window][inside] = first + share * (second - first)
        self.mark(window, inside, is_object)
        return True


def draw_scene(seed: int, split: str, index: int, size: tuple[int, int]) -> Scene:
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
    canvas = ShapesCanvas(rng, size)
    labels: list[int] = []
    # A long image holds proportionally more.
    crowd = max(size) / min(size)
    for _ in range(round(crowd * rng.integers(6, 13))):
        if rng.random() < 0.65:
            label = int(rng.integers(len(CLASSES)))
            kind = CLASSES[label]
            if canvas.paint(OUTLINES[kind.outline], kind.texture, rng.uniform(*kind.radius),
                            label / len(CLASSES), is_object=True):
                labels.append(label)
        else:
            # Clutter wears the textures of the classes, not their outlines.
            corners = int(rng.integers(4, 9))
            blob = _polygon(corners, *rng.uniform(0.3, 1.0, corners))
            canvas.paint([blob], str(rng.choice(list(TEXTURES))),
                         rng.uniform(0.05, 0.2), rng.random(), is_object=False)
    return Scene(*canvas.finish(), labels)
