"""Draw one scene of the digits data: real handwriting on real photographs.

The handwriting is that of scikit-learn (1797 digits of 8 x 8 pixels, from UCI's test set of
optical recognition of handwritten digits). The photographs ship inside scikit-learn and
scikit-image; nothing is downloaded. Training and validation share neither digits nor photographs.
As in the shapes data, a class leans towards a colour of its own: without, a small network learns
next to nothing within a minute.
"""
from colorsys import hsv_to_rgb
from functools import cache

import cv2
import numpy as np
import skimage.data
from sklearn.datasets import load_digits, load_sample_image

from shapes.dataset import Drawing
from shapes.scene import SPLITS, Canvas, Scene

# Raise it whenever the pictures change, so that old ones are not reused.
VERSION = 2
# Height of the 8 x 8 pixels, in shorter sides of the image.
_HEIGHT = 0.35, 0.6
# In degrees, either way.
_TURN = 15
# Between ink and the ground behind it, in BGR.
_LEAST_CONTRAST = 120
# Standard deviation about the hue of the class, in turns of the colour circle.
_HUE_SPREAD = 0.04

# In alphabetical order they go to training and to validation in turn.
_PHOTOS = {
    'astronaut': skimage.data.astronaut,
    'brick': skimage.data.brick,
    'camera': skimage.data.camera,
    'chelsea': skimage.data.chelsea,
    'china': lambda: load_sample_image('china.jpg'),
    'coffee': skimage.data.coffee,
    'coins': skimage.data.coins,
    'flower': lambda: load_sample_image('flower.jpg'),
    'grass': skimage.data.grass,
    'gravel': skimage.data.gravel,
    'hubble': skimage.data.hubble_deep_field,
    'immunohistochemistry': skimage.data.immunohistochemistry,
    'moon': skimage.data.moon,
    'motorcycle': lambda: skimage.data.stereo_motorcycle()[0],
    'retina': skimage.data.retina,
    'rocket': skimage.data.rocket,
}


@cache
def photos(split: str) -> list[np.ndarray]:
    """Load the photographs of a part of the data set, BGR."""
    loaded = [_PHOTOS[name]() for name in sorted(_PHOTOS)[SPLITS.index(split)::len(SPLITS)]]
    return [np.ascontiguousarray(photo[..., ::-1]) if photo.ndim == 3 else
            np.repeat(photo[..., None], 3, axis=2) for photo in loaded]


@cache
def handwriting(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Load the digits of a part of the data set: ink in [0, 1] (N, 8, 8), and which they are.

    The first two thirds are for training. Their order is that of the source, so that most of the
    writers differ too.
    """
    digits = load_digits()
    border = len(digits.images) * 2 // 3
    part = slice(border) if split == SPLITS[0] else slice(border, None)
    return (digits.images[part] / 16).astype(np.float32), digits.target[part]


class _Page(Canvas):

    min_visible = 0.85

    def __init__(self, rng: np.random.Generator, size: tuple[int, int], split: str) -> None:
        self.split = split
        super().__init__(rng, size)

    def background(self) -> np.ndarray:
        """Crop a photograph."""
        choice = photos(self.split)
        photo = choice[self.rng.integers(len(choice))]
        # The largest crop of the canvas's shape, then a part of it.
        fit = min(photo.shape[0] / self.height, photo.shape[1] / self.width)
        share = self.rng.uniform(0.3, 1)
        height, width = (int(share * fit * side) for side in (self.height, self.width))
        top = self.rng.integers(photo.shape[0] - height + 1)
        left = self.rng.integers(photo.shape[1] - width + 1)
        crop = photo[top:top + height, left:left + width]
        if self.rng.random() < 0.5:
            crop = crop[:, ::-1]
        return cv2.resize(crop, (self.width, self.height), interpolation=cv2.INTER_AREA
                          ).astype(np.float32)

    def write(self, ink: np.ndarray, digit: int) -> bool:
        """Write a digit at a random place, in front of what is there, unless it hides another."""
        scale = self.rng.uniform(*_HEIGHT) * self.side / len(ink)
        turn = np.deg2rad(self.rng.uniform(-_TURN, _TURN))
        rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        matrix = scale * rotation * (self.rng.uniform(0.8, 1.2), 1)
        centre = self.rng.uniform(0.1, 0.9, 2) * (self.width, self.height)
        shift = centre - matrix @ np.full(2, (len(ink) - 1) / 2)
        cover = cv2.warpAffine(ink, np.column_stack([matrix, shift]), (self.width, self.height),
                               flags=cv2.INTER_CUBIC).clip(0, 1)
        everywhere = np.s_[:, :]
        inside = cover > 0.5
        is_cut = cover.sum() < self.min_visible * ink.sum() * np.linalg.det(matrix)
        if is_cut or not self.keeps_visible(everywhere, inside):
            return False
        ground = self.image[inside].mean(axis=0)
        while True:
            hue = (digit / 10 + self.rng.normal(0, _HUE_SPREAD)) % 1
            colour = 255 * np.array(hsv_to_rgb(hue, *self.rng.uniform(0.7, 1, 2))[::-1])
            if np.linalg.norm(colour - ground) > _LEAST_CONTRAST:
                break
        self.image += cover[..., None] * (colour.astype(np.float32) - self.image)
        self.mark(everywhere, inside, is_object=True)
        return True


def draw_page(seed: int, split: str, index: int, size: tuple[int, int]) -> Scene:
    """Draw one image, whatever else is drawn; see :func:`shapes.scene.draw_scene`."""
    rng = np.random.default_rng((seed, SPLITS.index(split), index))
    page = _Page(rng, size, split)
    ink, digits = handwriting(split)
    labels: list[int] = []
    # A long image holds proportionally more.
    for _ in range(round(max(size) / min(size) * rng.integers(2, 6))):
        chosen = rng.integers(len(ink))
        digit = int(digits[chosen])
        if page.write(ink[chosen], digit):
            labels.append(digit)
    return Scene(*page.finish(), labels)


DIGITS = Drawing('digits', VERSION, tuple('0123456789'), draw_page)
