"""The parts of configs that the pages show build, in the place of those of a toy config.

tests/integration/test_readme.py trains with the configs of the main page.
"""
import re
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.evaluator import Evaluator
from mmengine.registry import (
    EVALUATOR,
    HOOKS,
    MODELS,
    TRANSFORMS,
    VISUALIZERS,
    init_default_scope,
)
from mmengine.runner import Runner

from .blocks import CONFIG, PAGES, README, ROOT, find_blocks

CASCADE_TO_FASTER_RCNN = ROOT / (
    'configs/det/faster_rcnn/'
    'akd-mgd_cascade-mask-rcnn-x101_faster-rcnn-r50_fpn-roi_2x_coco.py')
PARTS = [pytest.param(part, id=f'{page.stem}-{number}')
         for page in PAGES if page != README
         for number, part in enumerate(
             part for block in find_blocks(page) if block.kind == CONFIG and not block.file
             for part in block.text.split('\n\n'))]


@pytest.mark.parametrize('part', PARTS)
def test_builds(part, toy, workspace):
    task = 'det' if re.search('bbox|retinanet', part) else 'seg'
    base = toy(task, 'distcorr_gfl_shapes' if 'gfl' in part else 'akd-cwd')
    base.dump(workspace / 'my_akd.py')
    (workspace / 'my_student.py').write_text(  # of a config in pure Python
        "model = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'\ndefault_hooks = dict()\n")
    (workspace / 'part.py').write_text(f"data_root = 'data/shapes/coco/'\n{part}")
    cfg = Config.fromfile(workspace / 'part.py')
    names = re.findall(r'^(\w+) ?= ?(?=dict|\[)', part, re.MULTILINE)
    assert names
    init_default_scope(base.default_scope)
    for name in names:
        BUILD[name](cfg[name], base)


def build_model(value, base):
    teachers = value.get('teacher')
    if isinstance(teachers, dict):
        for teacher in teachers.values():
            teacher.ckpt = None
            if teacher.cfg == 'my_segmentor.py':
                teacher.cfg = 'mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py'
    elif teachers != 'ema':
        value.teacher_ckpt = None
    MODELS.build(value)


def build_distill(value, base):
    if 'roi_head' in str(value):
        base = Config.fromfile(CASCADE_TO_FASTER_RCNN)
    MODELS.build(dict(base.model, distill=value, teacher_ckpt=None))


def build_loader(value, base):
    Path('data').rename('drawn')
    Path('data/cityscapes/leftImg8bit').mkdir(parents=True)
    Path('data/shapes').symlink_to(Path('drawn/shapes').resolve())
    Path('data/cityscapes/leftImg8bit/train_extra').symlink_to(
        Path('drawn/shapes/cityscapes/leftImg8bit/train').resolve())
    del value.dataset.labelled.metainfo
    batch = next(iter(Runner.build_dataloader(value)))
    assert len(batch['inputs']) == 16


BUILD = dict(
    model=build_model,
    distill=build_distill,
    default_hooks=lambda value, base: [HOOKS.build(hook) for hook in value.values()],
    visualizer=lambda value, base: VISUALIZERS.build(
        dict(base.visualizer, name='part', save_dir='.', **value)),
    train_pipeline=lambda value, base: Compose([TRANSFORMS.build(step) for step in value]),
    train_dataloader=build_loader,
    val_evaluator=lambda value, base: (
        EVALUATOR.build(value) if 'metrics' in value else Evaluator(value)))
