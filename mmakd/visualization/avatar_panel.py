"""One picture of what a task teaches on one image."""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mmcv
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from mmengine.structures import PixelData
from torch import Tensor

from .avatar_maps import AvatarMaps, draw_heat_map, draw_sigma

_DPI = 100
# Below, the labels of the visualizers could not be read.
_LEAST_SIZE = 400


def draw_avatar_panel(maps: AvatarMaps, image: np.ndarray, prediction: np.ndarray | None = None,
                      start: Tensor | None = None, title: str = '',
                      classes: Sequence[str] = ()) -> np.ndarray:
    """Draw the maps of one level, in the channel that varies most over the teacher's map.

    Upper row: image, prediction, the deviation of the Avatars, and the student's map, now and at
    the start. Lower row: the teacher's map, two Avatars and how they differ from it. Maps share
    one colour scale, differences and deviation another. Below: sigma of each channel.

    Args:
        maps (AvatarMaps): The maps.
        image (np.ndarray): RGB (H, W, 3).
        prediction (np.ndarray, optional): The image with the student's prediction. Defaults to
            None, no such picture.
        start (Tensor, optional): The student's map (C, H, W) before training. Defaults to None.
        title (str): What the maps are of. Defaults to ''.
        classes (Sequence[str]): Names of the classes, for channels that are classes. Defaults to
            ().

    Returns:
        np.ndarray: RGB (1100, 1600, 3), or without sigma (820, 1600, 3).
    """
    channel = maps.most_varied_channel()
    names = classes if len(classes) == len(maps.teacher) else ()
    figure = Figure(figsize=(16, 8.2 if maps.sigma is None else 11), dpi=_DPI,
                    layout='constrained')
    canvas = FigureCanvasAgg(figure)
    grid = figure.add_gridspec(2 + (maps.sigma is not None), 5,
                               height_ratios=[1, 1, 0.6][:2 + (maps.sigma is not None)])
    panels = [[figure.add_subplot(grid[row, column]) for column in range(5)] for row in (0, 1)]
    same = [maps.teacher, *maps.avatars, maps.student, *([] if start is None else [start])]
    limit = max(float(values[channel].abs().max()) for values in same)
    gaps = [avatar - maps.teacher for avatar in maps.avatars]
    largest = max(float(values[channel].abs().max()) for values in (maps.deviation, *gaps))
    _draw_picture(panels[0][0], image, 'image')
    _draw_picture(panels[0][1], prediction, "student's prediction")
    for ax, values, name, bound, signed in (
            (panels[0][2], maps.deviation, 'deviation of Avatars', largest, False),
            (panels[0][3], maps.student, 'student S', limit, True),
            (panels[0][4], start, 'student S at the start', limit, True),
            (panels[1][0], maps.teacher, 'teacher T', limit, True),
            (panels[1][1], maps.avatars[0], 'first Avatar A', limit, True),
            (panels[1][2], gaps[0], 'A - T', largest, True),
            (panels[1][3], maps.avatars[1], 'second Avatar A', limit, True),
            (panels[1][4], gaps[1], 'A - T', largest, True)):
        if values is None:
            ax.axis('off')
            continue
        drawn = draw_heat_map(ax, values[channel], bound, signed)
        ax.set_title(name)
        # Inside, so that pictures without a colour bar have the same place in their cells.
        figure.colorbar(drawn, cax=ax.inset_axes((0.1, -0.1, 0.8, 0.04)), orientation='horizontal')
    if maps.sigma is not None:
        bars = figure.add_subplot(grid[2, :])
        draw_sigma(bars, maps.sigma, [channel], names or None)
        bars.set_title('sigma of each channel; black: the one shown above')
    shown = f'class {names[channel]!r}' if names else f'channel {channel}'
    figure.suptitle(f'{title}, {shown} of {len(maps.teacher)}'.removeprefix(', '))
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _draw_picture(ax: Axes, picture: np.ndarray | None, title: str) -> None:
    ax.set(xticks=[], yticks=[])
    if picture is None:
        ax.axis('off')
        return
    ax.imshow(picture)
    ax.set_title(title)


def draw_prediction(visualizer: Any, image: np.ndarray, sample: Any,
                    metainfo: dict[str, Any]) -> np.ndarray | None:
    """Draw a prediction by the visualizer of mmdet or mmseg, which is left as it is.

    Args:
        visualizer (Visualizer): The Runner's.
        image (np.ndarray): RGB (H, W, 3), as the file has it.
        sample (BaseDataElement): The data sample that the model predicted.
        metainfo (dict): Classes and palette of the data set.

    Returns:
        np.ndarray | None: RGB (H, W, 3); None if the visualizer cannot draw data samples.
    """
    if not hasattr(visualizer, 'add_datasample'):
        return None
    sample = sample.cpu()
    factor = -(-_LEAST_SIZE // max(image.shape[:2]))
    image = image.repeat(factor, 0).repeat(factor, 1)
    if 'pred_sem_seg' in sample:
        sample.pred_sem_seg = PixelData(data=_enlarge(sample.pred_sem_seg.data, factor))
    if 'pred_instances' in sample:
        instances = sample.pred_instances
        instances.bboxes = instances.bboxes * factor
        if 'masks' in instances:
            instances.masks = _enlarge(instances.masks, factor)
    own = type(visualizer)(name='mmakd_panel')
    own.dataset_meta = {key: metainfo[key] for key in ('classes', 'palette') if key in metainfo}
    with TemporaryDirectory() as folder:
        path = Path(folder, 'prediction.png')
        own.add_datasample('prediction', image, sample, draw_gt=False, out_file=str(path))
        drawn = mmcv.imread(str(path), channel_order='rgb')
    # mmseg puts the image itself to the left in some versions.
    return drawn[:, -image.shape[1]:]


def _enlarge(values: Tensor, factor: int) -> Tensor:
    return values.repeat_interleave(factor, -2).repeat_interleave(factor, -1)


def attention_map(feature: Tensor) -> Tensor:
    """Compute where a map is strong: the mean of absolute values over channels.

    The attention of attention transfer (arXiv 1612.03928) and of the AKD paper's figures.

    Args:
        feature (Tensor): Map (C, H, W).

    Returns:
        Tensor: (H, W), from 0 to 1.
    """
    attention = feature.float().abs().mean(0)
    low, high = torch.aminmax(attention)
    return (attention - low) / (high - low).clamp(min=1e-12)
