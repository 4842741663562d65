"""Tasks and data sets of the study: what it changes in the toy configs."""
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]


class Task(NamedTuple):
    """A student, its teacher and how they train.

    Args:
        title (str): Its name.
        config (str): Path of the toy config, for ``'student'`` or ``'teacher'``.
        layout (str): Folder of the data set.
        tap (str): Where both are tapped.
        metric (str): Key of the result.
        scale (float): Factor from there to per cent.
        unit (str): Its name.
        least (float): The least effect of interest.
        iters (int): Iterations of a student.
        teacher_iters (int): Iterations of a teacher.
        teacher (dict): Overrides of the teacher's config.
        time_ratio (float): Seconds of a distilled step in those of a plain one.
        num_classes (str): Key of the number of classes in the model.
        background (int): Number of classes that the data set does not name.
    """

    title: str
    config: str
    layout: str
    tap: str
    metric: str
    scale: float
    unit: str
    least: float
    iters: int
    teacher_iters: int
    teacher: dict[str, Any]
    time_ratio: float
    num_classes: str
    background: int


# The teachers are half as wide as those of the toy configs, and their students' steps so much
# cheaper. Ratios: medians of 40 steps of `cwd` and `student` on one core.
TASKS = {
    'det': Task(
        'detection', 'configs/det/toy/{}_retinanet_shapes.py', 'coco', 'neck', 'coco/bbox_mAP',
        100, 'AP', 0.3, 600, 2000,
        {'model.backbone.base_channels': 16, 'model.neck.in_channels': [16, 32, 64, 128]},
        1.26, 'model.bbox_head.num_classes', 0),
    'seg': Task(
        'segmentation', 'configs/seg/toy/{}_pspnet_shapes.py', 'cityscapes',
        'decode_head.conv_seg', 'mIoU', 1, 'mIoU', 0.5, 400, 1100,
        {'model.backbone.base_channels': 16, 'model.backbone.stem_channels': 16,
         'model.decode_head.in_channels': 64},
        1.45, 'model.decode_head.num_classes', 1),
}

# Names of the classes, empty where they are those of the toy configs.
DATA: dict[str, tuple[str, ...]] = dict(
    shapes=(), digits=tuple('0123456789'))

# Their manifests, as tools/make_shapes.py draws them by default.
DRAWN: dict[str, dict[str, Any]] = dict(
    shapes=dict(version=1, size=[96, 96], count=[1600, 500], seed=0),
    digits=dict(version=2, size=[96, 96], count=[320, 500], seed=0))
