"""Another domain than the shapes: other outlines, textures and grounds, and no classes."""
import cv2
import numpy as np

from shapes.dataset import SHAPES, Drawing
from shapes.scene import SPLITS, Scene, ShapesCanvas

# Raise it whenever the pictures change, so that old ones are not reused.
VERSION = 1
_CROSS = np.array([(1, .3), (.3, .3), (.3, 1), (-.3, 1), (-.3, .3), (-1, .3), (-1, -.3),
                   (-.3, -.3), (-.3, -1), (.3, -1), (.3, -.3), (1, -.3)]) / 1.05
_BAR = np.array([(.98, .2), (-.98, .2), (-.98, -.2), (.98, -.2)])


class _Patchwork(ShapesCanvas):

    textures = dict(
        waves=lambda u, v: np.sin(7 * u + 2 * np.sin(5 * v)) > 0,
        grid=lambda u, v: np.maximum(np.cos(12 * u), np.cos(12 * v)) > 0.8,
    )

    def background(self) -> np.ndarray:
        """A ground of flat patches of any colour."""
        grid = self.rng.uniform(0, 255, (*self.rng.integers(3, 9, 2), 3)).astype(np.float32)
        return cv2.resize(grid, (self.width, self.height), interpolation=cv2.INTER_NEAREST)


def draw_patchwork(seed: int, split: str, index: int, size: tuple[int, int]) -> Scene:
    """Draw one image, whatever else is drawn; see :func:`shapes.scene.draw_scene`."""
    rng = np.random.default_rng((seed, SPLITS.index(split), index))
    canvas = _Patchwork(rng, size)
    # A long image holds proportionally more.
    for _ in range(round(max(size) / min(size) * rng.integers(6, 13))):
        outline = _CROSS if rng.random() < 0.5 else _BAR
        canvas.paint([outline], str(rng.choice(list(canvas.textures))), rng.uniform(0.08, 0.26),
                     rng.random(), is_object=False)
    return Scene(*canvas.finish(), [])


PATCHWORK = Drawing('patchwork', VERSION, SHAPES.classes, draw_patchwork)
