"""The figures of the demo: predictions, and the maps that the distillation compares."""
from pathlib import Path
from typing import Any, NamedTuple

import mmcv
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, MODELS, DefaultScope

from demonstration.runs import load_checkpoint
from mmakd.visualization import AvatarMaps, draw_heat_map, read_avatar_maps

# The first image of the validation set, whatever it shows.
IMAGE = 0
SCORE_THRESHOLD = 0.3


class Scene(NamedTuple):
    """All that is drawn of one image.

    Args:
        image (np.ndarray): RGB (H, W, 3).
        truth (Any): The data sample with the ground truth.
        student (Any): The data sample with the plain student's prediction.
        akd_student (Any): The data sample with the AKD student's prediction.
        maps (AvatarMaps): What the AKD student was trained by.
    """

    image: np.ndarray
    truth: Any
    student: Any
    akd_student: Any
    maps: AvatarMaps


def caption(task: str) -> str:
    """Say what a figure shows.

    Args:
        task (str): 'detection' or 'segmentation'.

    Returns:
        str: The caption.
    """
    scores = (f' Boxes are shown from a score of {100 * SCORE_THRESHOLD:.0f} per cent on.'
              if task == 'detection' else '')
    return ('The first image of the validation set. Above: the image, what is there, and what '
            f'plain student and AKD student find.{scores} Below: one channel at the distilled '
            "tap's first level, that which varies most over the teacher's map of this image: the "
            'map T of the teacher; one Avatar A of it, whose dropped positions have the mean of '
            'the map; the map S of the AKD student, on the same colour scale; and how far Avatars '
            'deviate from T there, the root of E[(A - T)^2]. The loss divides each channel by '
            'sigma, the root mean square of this deviation over images and positions.')


def draw_figure(student: tuple[Config, Path], akd_student: tuple[Config, Path],
                path: Path) -> None:
    """Draw the figure of one task.

    Args:
        student (tuple[Config, Path]): Config and checkpoint of the plain student.
        akd_student (tuple[Config, Path]): Those of the AKD student, with one distillation task.
        path (Path): The image file to write.
    """
    cfg = akd_student[0]
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        dataset = DATASETS.build(cfg.val_dataloader.dataset)
        scene = _scene(dataset, _load(*student), _load(*akd_student))
    classes, palette = (dataset.metainfo[key] for key in ('classes', 'palette'))
    figure = Figure(figsize=(10, 5.6), dpi=110, layout='constrained')
    pictures, maps = figure.subplots(2, 4)
    _draw_pictures(pictures, scene, np.array(palette) / 255)
    _draw_maps(maps, scene.maps, classes)
    handles = [Patch(facecolor='#{:02x}{:02x}{:02x}'.format(*colour), edgecolor='gray', label=name)
               for name, colour in zip(classes, palette, strict=True)]
    figure.legend(handles=handles, loc='outside upper center', ncols=len(handles), frameon=False)
    figure.savefig(path)


def _load(cfg: Config, checkpoint: Path) -> Any:
    model = MODELS.build(cfg.model)
    model.init_weights()  # loads the teacher
    model.load_state_dict(load_checkpoint(checkpoint)['state_dict'])
    return model.eval()


@torch.no_grad()
def _scene(dataset: Any, student: Any, akd_student: Any) -> Scene:
    task = next(iter(akd_student.distiller))
    truth = dataset[IMAGE]['data_samples']
    # The steps change their batch, so each gets its own.
    batches = [pseudo_collate([dataset[IMAGE]]) for _ in range(3)]
    return Scene(
        mmcv.imread(truth.img_path, channel_order='rgb'), truth,
        student.test_step(batches[0])[0], akd_student.test_step(batches[1])[0],
        read_avatar_maps(akd_student, batches[2], task))


def _draw_pictures(panels: np.ndarray, scene: Scene, palette: np.ndarray) -> None:
    # Not by the visualizers of mmdet and mmseg: they draw at the image's own 128 pixels, where
    # no label can be read.
    columns = (('image', None), ('ground truth', scene.truth), ('student', scene.student),
               ('AKD student', scene.akd_student))
    for ax, (title, sample) in zip(panels, columns, strict=True):
        ax.imshow(scene.image)
        ax.set(xticks=[], yticks=[])
        ax.set_title(title, fontsize=10)
        kind = 'gt' if sample is scene.truth else 'pred'
        if sample is not None and f'{kind}_sem_seg' in sample:
            _draw_classes(ax, sample.get(f'{kind}_sem_seg').data[0].numpy(), palette)
        elif sample is not None:
            _draw_boxes(ax, sample.get(f'{kind}_instances'), palette)


def _draw_classes(ax: Axes, labels: np.ndarray, palette: np.ndarray) -> None:
    colours = palette[labels]
    background = (labels == 0)[..., None]
    ax.imshow(np.concatenate([colours, np.where(background, 0, 0.75)], axis=2))


def _draw_boxes(ax: Axes, instances: Any, palette: np.ndarray) -> None:
    if 'scores' in instances:
        instances = instances[instances.scores > SCORE_THRESHOLD]
    boxes = instances.bboxes.tensor if hasattr(instances.bboxes, 'tensor') else instances.bboxes
    for i, (left, top, right, bottom) in enumerate(boxes.tolist()):
        colour = palette[instances.labels[i]]
        ax.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, lw=2,
                               color=colour))
        if 'scores' in instances:
            ax.text(max(left, 0), max(top, 0), f'{100 * instances.scores[i]:.0f}', fontsize=8,
                    va='top', clip_on=True,
                    color='white' if colour.mean() < 0.5 else 'black',
                    bbox=dict(facecolor=colour, edgecolor='none', pad=1))


def _draw_maps(panels: np.ndarray, maps: AvatarMaps, classes: tuple[str, ...]) -> None:
    channel = maps.most_varied_channel()
    # The channels of a segmentor's logits are its classes.
    name = classes[channel] if len(classes) == len(maps.teacher) else f'channel {channel}'
    signed = torch.stack([
        values[channel] for values in (maps.teacher, maps.avatars[0], maps.student)])
    for ax, values, title in zip(panels, signed, ('teacher T', 'one Avatar A', 'AKD student S')):
        shared = draw_heat_map(ax, values, float(signed.abs().max()))
        ax.set_title(f'{title}: {name}', fontsize=10)
    deviation = maps.deviation[channel]
    own = draw_heat_map(panels[3], deviation, float(deviation.max()), signed=False)
    panels[3].set_title(r'spread of A: $\sqrt{E[(A-T)^2]}$', fontsize=10)
    for ax, image in (panels[2], shared), (panels[3], own):
        ax.figure.colorbar(image, cax=ax.inset_axes((1.03, 0, 0.05, 1)))
