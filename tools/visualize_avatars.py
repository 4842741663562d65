"""Draw what a teacher teaches on images of your own, and where students look.

For each image, task and level: image, prediction, the maps of student and teacher, two Avatars and
how they differ from the teacher, their deviation, and sigma of each channel; what
AvatarVisualizationHook draws during training. With --compare also the attention of several
students side by side over the image: the mean of the absolute values of the tapped map, without
adapter.
"""
from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import mmcv
import numpy as np
import torch
from matplotlib.figure import Figure
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import MODELS, VISUALIZERS, DefaultScope, init_default_scope
from rich.console import Console

from mmakd.distillers import AvatarDistiller
from mmakd.utils.checkpoint import local_path, read_checkpoint, read_state_dict, trust
from mmakd.utils.cli import add_cfg_options, add_trust, config_errors_as_messages
from mmakd.utils.config_file import read_config
from mmakd.utils.errors import ConfigError, ConfigProblems
from mmakd.utils.state_dict import describe_mismatch, rename_keys
from mmakd.visualization import (
    attention_map,
    draw_avatar_panel,
    draw_prediction,
    read_avatar_maps,
)

_EPILOG = """\
exit status: 0; 1 with a message if something is wrong; 2 for a wrong command line.

examples:
  python tools/visualize_avatars.py configs/seg/toy/akd-cwd_pspnet_shapes.py \\
      work_dirs/akd-cwd_pspnet_shapes/iter_700.pth data/shapes/cityscapes/leftImg8bit/val/*/*.png
  python tools/visualize_avatars.py configs/det/toy/akd-cwd_retinanet_shapes.py \\
      work_dirs/akd-cwd_retinanet_shapes/epoch_4.pth data/shapes/coco/val/000000000001.jpg \\
      --compare plain=work_dirs/student_retinanet_shapes/epoch_4.pth \\
      CWD=work_dirs/cwd_retinanet_shapes/epoch_4.pth"""


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, epilog=_EPILOG,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='path of a config whose model is an AvatarDistiller')
    parser.add_argument('checkpoint', help="path or address of its student's checkpoint")
    parser.add_argument('images', nargs='+', metavar='IMAGE', help='image files')
    parser.add_argument('--task', help='which task (default: the first with Avatars)')
    parser.add_argument('--level', type=int, default=0, metavar='N',
                        help='which of the compared maps (default: %(default)s)')
    parser.add_argument('--compare', nargs='+', default=[], metavar='NAME=CKPT',
                        help='checkpoints of the same student, trained otherwise')
    parser.add_argument('--out-dir', default='avatars', metavar='DIR',
                        help='where the pictures go (default: %(default)s)')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu',
                        help='where to run (default here: %(default)s)')
    add_cfg_options(parser)
    add_trust(parser)
    args = parser.parse_intermixed_args(argv)
    if any('=' not in pair for pair in args.compare):
        parser.error('--compare: give NAME=CKPT, e.g. plain=work_dirs/student/epoch_12.pth')
    return args


def build_distiller(cfg: Config, checkpoint: str, device: str) -> AvatarDistiller:
    """Build the model of a config with the student of a checkpoint.

    Raises:
        ConfigError: If the config or the checkpoint is wrong.
    """
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    model = MODELS.build(cfg.model)
    if not isinstance(model, AvatarDistiller):
        raise ConfigError(f'model.type={cfg.model.get("type")!r}: has no teacher; name the config '
                          "of a distillation, model=dict(type='AvatarDistiller', ...)")
    for teacher in model.teachers.values():
        teacher.load()
    load_student(model, 'CKPT', checkpoint)
    return model.to(device).eval()


def load_student(model: AvatarDistiller, key: str, checkpoint: str) -> None:
    """Load a distilled or a plain student's checkpoint.

    Raises:
        ConfigError: If it is missing, damaged or of another model.
    """
    key = f'{key}={checkpoint!r}'
    weights = read_state_dict(checkpoint, key)
    rename_keys(model, weights)
    mismatch = describe_mismatch(model, weights, ignored=('distiller.', ))
    if mismatch:
        raise ConfigError(f'{key}: does not fit the student ({type(model.student).__name__}): '
                          f'{mismatch}; name a checkpoint of this config')
    model.load_state_dict(weights, strict=False)


def find_task(model: AvatarDistiller, name: str | None, level: int) -> str:
    """Find the task to draw.

    Raises:
        ConfigError: If there is no such task or level.
    """
    tasks: Any = model.distiller
    with_avatars = [name for name, task in tasks.items()
                    if getattr(task.losses[0], 'perturbation', None) is not None]
    if not with_avatars or (name is not None and name not in with_avatars):
        raise ConfigError(f'--task={name!r}: tasks with Avatars are '
                          f'{", ".join(map(repr, with_avatars)) or "none in this config"}')
    name = name or with_avatars[0]
    if not 0 <= level < len(tasks[name].losses):
        raise ConfigError(f'--level={level}: task {name!r} compares {len(tasks[name].losses)} '
                          'maps; count from 0')
    return name


def prepare(cfg: Config, path: str) -> tuple[np.ndarray, dict]:
    """Read an image, and prepare it as the config's test pipeline does.

    Returns:
        tuple[np.ndarray, dict]: The image, RGB (H, W, 3), and a batch of it.
    """
    # Not mmcv's, which cannot be told to leave out what it cannot decode.
    image = cv2.imread(path) if Path(path).is_file() else None
    if image is None:
        raise ConfigError(f'IMAGE={path!r}: cannot be read as an image; give JPEG or PNG files')
    dataset = (cfg.get('test_dataloader') or cfg.val_dataloader).dataset
    while 'dataset' in dataset:
        dataset = dataset.dataset
    pipeline = Compose([step for step in dataset.pipeline if 'Annotations' not in step.type])
    return mmcv.bgr2rgb(image), pseudo_collate([pipeline(dict(img_path=path, img_id=0))])


def tapped_maps(model: AvatarDistiller, batch: dict, task: str, level: int
                ) -> tuple[torch.Tensor, torch.Tensor]:
    """Run both networks; return the maps of student and teacher, (C, H, W), without adapter."""
    batch = model.data_preprocessor(batch, training=False)
    _, maps = model.run_with_teacher([task], batch['inputs'], batch['data_samples'], 'tensor')
    levels: Any = model.distiller[task].levels
    index = level if levels is None else levels[level]
    return maps[task].student[index][0], maps[task].teacher[index][0]


def draw_attention(image: np.ndarray, attentions: dict[str, torch.Tensor]) -> Figure:
    """Draw attention maps over an image, side by side."""
    figure = Figure(figsize=(3.4 * (len(attentions) + 1), 3.8), dpi=110, layout='constrained')
    axes = figure.subplots(1, len(attentions) + 1, squeeze=False)[0]
    axes[0].imshow(image)
    axes[0].set_title('image')
    for ax, (name, attention) in zip(axes[1:], attentions.items()):
        ax.imshow(image)
        drawn = ax.imshow(attention.numpy(force=True), 'jet', alpha=0.5, vmin=0, vmax=1,
                          extent=(0, image.shape[1], image.shape[0], 0),
                          interpolation='bilinear')
        ax.set_title(name)
    for ax in axes:
        ax.set(xticks=[], yticks=[])
    figure.colorbar(drawn, ax=axes, shrink=0.7)
    return figure


@torch.no_grad()
def main(argv: Sequence[str] | None = None) -> None:
    """Draw what the command line names.

    Args:
        argv (Sequence[str], optional): The command line. Defaults to None, the process's.
    """
    args = parse_args(argv)
    for path in args.trust:
        trust(path)
    cfg = read_config(args.config, args.cfg_options)
    model = build_distiller(cfg, args.checkpoint, args.device)
    task = find_task(model, args.task, args.level)
    problems = ConfigProblems()
    batches = {}
    for path in args.images:
        with problems.under(''):
            batches[path] = prepare(cfg, path)
    problems.raise_if_any()
    meta = read_checkpoint(local_path(args.checkpoint), 'CKPT').get('meta', {})
    metainfo = meta.get('dataset_meta') or {}
    visualizer = VISUALIZERS.build(dict(cfg.get('visualizer', dict(type='Visualizer')),
                                        vis_backends=None, name='visualize_avatars'))
    out = Path(args.out_dir)
    out.mkdir(parents=True, exist_ok=True)
    console = Console(highlight=False, markup=False, emoji=False)
    attentions: dict[str, dict[str, torch.Tensor]] = {path: {} for path in batches}
    for path, (image, batch) in batches.items():
        maps = read_avatar_maps(model, dict(batch), task, args.level)
        prediction = None
        if metainfo.get('classes'):
            sample = model.student.test_step(dict(batch))[0]
            prediction = draw_prediction(visualizer, image, sample, metainfo)
        picture = draw_avatar_panel(
            maps, image, prediction, title=f'{Path(path).name}: task {task}, level {args.level}',
            classes=metainfo.get('classes', ()))
        name = out / f'{Path(path).stem}_{task}.{args.level}.png'
        mmcv.imwrite(mmcv.rgb2bgr(picture), str(name))
        console.print(name, soft_wrap=True)
        if args.compare:
            student, teacher = tapped_maps(model, dict(batch), task, args.level)
            attentions[path] = {'teacher': attention_map(teacher),
                                'this student': attention_map(student)}
    for other, checkpoint in (pair.split('=', 1) for pair in args.compare):
        load_student(model, f'--compare {other}', checkpoint)
        for path, (_, batch) in batches.items():
            student, _ = tapped_maps(model, dict(batch), task, args.level)
            attentions[path][other] = attention_map(student)
    if args.compare:
        for path, (image, _) in batches.items():
            name = out / f'{Path(path).stem}_attention.png'
            draw_attention(image, attentions[path]).savefig(name)
            console.print(name, soft_wrap=True)


if __name__ == '__main__':
    with config_errors_as_messages(), DefaultScope.overwrite_default_scope(None):
        main()
