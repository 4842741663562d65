"""tools/make_config.py with data of one's own, small folders in the two layouts."""
import json
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope

import make_config
from config_making.coco import read_coco
from config_making.own_data import Names, set_data
from mmakd.utils.errors import ConfigError
from mmakd.utils.references import find_config
from shapes import scene

ROOT = Path(__file__).parents[2]
DET = str(ROOT / 'configs/det/toy/{}_retinanet_shapes.py')
SEG = str(ROOT / 'configs/seg/toy/{}_pspnet_shapes.py')
RETINANET = 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'
SEGFORMER = 'mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py'
CLASSES = tuple(shape.name for shape in scene.CLASSES)
NAMES = ['background', *CLASSES]


@pytest.fixture
def make(workspace, capsys):
    """Run the tool on copies of the data in mine/: ``output = make(STUDENT, TEACHER, ...)``."""
    for layout in 'coco', 'cityscapes':
        shutil.copytree(workspace / 'data/shapes' / layout, workspace / 'mine' / layout)

    def run(layout, *arguments):
        status = make_config.main(
            ['--data', f'mine/{layout}', '-o', 'my_akd.py', *map(str, arguments)])
        output = capsys.readouterr().out
        assert status == 0, output
        return output

    return run


def test_coco_folder(make):
    output = make('coco', RETINANET, RETINANET)
    assert 'train: 16 images in mine/coco/train, mine/coco/annotations/instances_train.json' in (
        output)
    for name in 'my_akd', 'my_akd_base', 'my_akd_student':
        cfg = Config.fromfile(f'{name}.py')
        student = cfg.model.get('student', cfg.model)
        assert student.bbox_head.num_classes == len(CLASSES)
        assert cfg.val_evaluator.ann_file == 'mine/coco/annotations/instances_val.json'
        assert cfg.test_evaluator == cfg.val_evaluator
        init_default_scope(cfg.default_scope)
        for split, number in ('train', 16), ('val', 8), ('test', 8):
            dataset = DATASETS.build(cfg[f'{split}_dataloader'].dataset)
            assert dataset.metainfo['classes'] == CLASSES
            assert len(dataset) <= number  # images without objects may be left out
            assert len(dataset[0]['data_samples'].gt_instances)
    stock = Config.fromfile(find_config(RETINANET))
    assert cfg.train_dataloader.dataset.pipeline == stock.train_dataloader.dataset.pipeline
    assert cfg.param_scheduler == stock.param_scheduler


def test_published_teacher_is_not_compared_at_its_classes(make):
    """Not even where it has as many, by chance; its own config is offered for a training."""
    output = make('cityscapes', SEGFORMER, SEGFORMER, '--classes', *NAMES)
    task, = Config.fromfile('my_akd.py').model.distill.values()
    assert (task.tap, task.levels) == ('backbone', [-1])
    assert '# Its classes (150) are not the 7 of mine/cityscapes' in Path('my_akd.py').read_text()
    assert 'python tools/train.py my_akd_teacher.py --cfg-options load_from=https://' in output
    teacher = Config.fromfile('my_akd_teacher.py')
    assert teacher.model.decode_head.num_classes == len(NAMES)
    # Trained so, it knows the same classes.
    output = make('cityscapes', SEGFORMER, 'my_akd_teacher.py', '--teacher-ckpt', 'iter_1.pth',
                  '--classes', *NAMES, '-o', 'again.py')
    task, = Config.fromfile('again.py').model.distill.values()
    assert task.tap == 'decode_head.conv_seg'
    assert not Path('again_teacher.py').exists() and 'my_akd_teacher' not in output


def test_label_maps(make):
    """ADE20K's pipeline, which leaves out label 0, does so no more."""
    make('cityscapes', SEGFORMER, SEGFORMER, '--classes', *NAMES)
    cfg = Config.fromfile('my_akd.py')
    init_default_scope(cfg.default_scope)
    for split, number in ('train', 16), ('val', 8):
        dataset = DATASETS.build(cfg[f'{split}_dataloader'].dataset)
        assert len(dataset) == number
        assert dataset.metainfo['classes'] == tuple(NAMES)
        label_map = dataset[0]['data_samples'].gt_sem_seg.data
        drawn = cv2.imread(dataset.get_data_info(0)['seg_map_path'], cv2.IMREAD_UNCHANGED)
        assert 0 in label_map and set(np.unique(label_map)) <= {*np.unique(drawn), 255}
    assert cfg.val_evaluator == dict(type='IoUMetric', iou_metrics=['mIoU'])


def test_other_names_of_folders(make, workspace):
    mine = workspace / 'mine/cityscapes'
    for old, new in ('leftImg8bit', 'img_dir'), ('gtFine', 'ann_dir'):
        (mine / old).rename(mine / new)
        for split in 'train', 'val':
            for path in (mine / new / split / 'shapes').iterdir():
                name = path.name.replace('_leftImg8bit', '').replace('_gtFine_labelTrainIds', '')
                path.rename(mine / new / split / name)
    make('cityscapes', SEG.format('student'), SEG.format('teacher'), '--teacher-ckpt', 'none',
         '--classes', *NAMES)
    dataset = Config.fromfile('my_akd.py').train_dataloader.dataset
    assert (dataset.img_suffix, dataset.seg_map_suffix) == ('.png', '.png')
    assert dataset.data_prefix == dict(img_path='img_dir/train', seg_map_path='ann_dir/train')


def test_some_of_the_categories(make):
    make('coco', DET.format('student'), DET.format('teacher'), '--teacher-ckpt', 'none',
         '--classes', CLASSES[3], CLASSES[1])
    cfg = Config.fromfile('my_akd.py')
    # As mmdet numbers them.
    assert cfg.train_dataloader.dataset.metainfo.classes == (CLASSES[1], CLASSES[3])
    assert cfg.model.student.bbox_head.num_classes == 2
    assert Path('my_akd_teacher.py').exists()  # a config of one's own, with other classes


def change(path, **content):
    path.write_text(json.dumps({**json.loads(path.read_text()), **content}))


def spoil_annotations(mine):
    shutil.rmtree(mine / 'coco/annotations')


def copy_annotations(mine):
    folder = mine / 'coco/annotations'
    shutil.copy(folder / 'instances_train.json', folder / 'captions_train.json')


def rename_category(mine):
    path = mine / 'coco/annotations/instances_val.json'
    categories = json.loads(path.read_text())['categories']
    change(path, categories=[*categories[1:], categories[0]])


def empty_annotations(mine):
    change(mine / 'coco/annotations/instances_train.json', annotations=[])


def break_annotations(mine):
    (mine / 'coco/annotations/instances_val.json').write_text('{')


def remove_image(mine):
    next((mine / 'coco/train').iterdir()).unlink()


def copy_images(mine):
    shutil.copytree(mine / 'coco/train', mine / 'coco/train_copy')


def remove_label_map(mine):
    next((mine / 'cityscapes/gtFine/train/shapes').iterdir()).unlink()


def add_pictures(mine):
    for path in list((mine / 'cityscapes/gtFine').rglob('*.png')):
        shutil.copy(path, path.with_name(path.name.replace('labelTrainIds', 'color')))


def colour(mine):
    for path in (mine / 'cityscapes/gtFine/val').rglob('*.png'):
        cv2.imwrite(str(path), np.zeros((64, 64, 3), np.uint8))


def remove_maps(mine):
    shutil.rmtree(mine / 'cityscapes/gtFine')


def nothing(mine):
    pass


COCO, MAPS = (['coco', DET.format('student'), DET.format('teacher')],
              ['cityscapes', SEG.format('student'), SEG.format('teacher')])
WRONG = {
    'no folder': (nothing, ['else', *COCO[1:]], r"--data='mine/else': no such folder"),
    'no annotations': (spoil_annotations, COCO,
                       r"--data='mine/coco': no annotations/\*.json in it.*--train-annotations"),
    'the other layout': (nothing, ['cityscapes', *COCO[1:]],
                         r'no annotations/\*.json in it, which a detector needs'),
    'coco for a segmentor': (nothing, ['coco', *MAPS[1:]],
                             r"--train-images: not found; .*there: '.', 'annotations'"),
    'two files': (copy_annotations, COCO,
                  r"--train-annotations: 2 may be meant; name it, as seen from mine/coco; there: "
                  r"'annotations/captions_train.json', 'annotations/instances_train.json'"),
    'named file': (nothing, [*COCO, '--val-annotations', 'val.json'],
                   r"--val-annotations='val.json': not in mine/coco; there: "
                   r"'mine/coco/annotations/instances_train.json'"),
    'categories': (rename_category, COCO, r'--val-annotations=.* are not those of the training'),
    'nothing annotated': (empty_annotations, COCO,
                          r"--train-annotations='mine.*has no annotations; COCO's format"),
    'broken': (break_annotations, COCO, r"--val-annotations='mine/.*: cannot be read"),
    'image': (remove_image, [*COCO, '--train-images', 'train'],
              r"--train-images='mine/coco/train': 1 of 16 images are not there, e.g. '"),
    'no folder of images': (remove_image, COCO, r'--train-images: not found; name it'),
    'two folders of images': (copy_images, COCO,
                              r"--train-images: 2 may be meant.*'train', 'train_copy'"),
    'category': (nothing, [*COCO, '--classes', 'dosk'],
                 r"--classes='dosk': no such category; did you mean 'disk'"),
    'suffix of a detector': (nothing, [*COCO, '--map-suffix', '.png'],
                             r"--map-suffix='.png': is for label maps"),
    'no names': (nothing, MAPS, r'--classes: missing, .* give 7 names'),
    'few names': (nothing, [*MAPS, '--classes', 'a', 'b'],
                  r'--classes: 2 names, for labels 0 to 1, but the labels are 0, 1, 2'),
    'label map': (remove_label_map, [*MAPS, '--classes', *NAMES],
                  r'--train-annotations=.*1 of 16 images have no label map'),
    'pictures beside': (add_pictures, [*MAPS, '--classes', *NAMES],
                        r"--map-suffix: 2 files belong to .*'_gtFine_color.png', "
                        r"'_gtFine_labelTrainIds.png'"),
    'colour': (colour, [*MAPS, '--classes', *NAMES], r'--data: .* is a picture in colour'),
    'no label maps': (remove_maps, [*MAPS, '--classes', *NAMES],
                      r'--train-annotations: not found; name it'),
}


@pytest.mark.parametrize('case', WRONG)
def test_one_clear_message(case, make, workspace):
    spoil, arguments, message = WRONG[case]
    spoil(workspace / 'mine')
    with pytest.raises(ConfigError, match=message):
        make(*arguments, '--teacher-ckpt', 'none')
    assert not list(workspace.glob('*.py'))


def test_what_is_asked_for_can_be_named(make, workspace):
    add_pictures(workspace / 'mine')
    make(*MAPS, '--teacher-ckpt', 'none', '--classes', *NAMES, '--map-suffix',
         '_labelTrainIds.png')
    assert Config.fromfile('my_akd.py').train_dataloader.dataset.seg_map_suffix == (
        '_gtFine_labelTrainIds.png')
    copy_annotations(workspace / 'mine')
    copy_images(workspace / 'mine')
    make(*COCO, '--teacher-ckpt', 'none', '--train-annotations',
         'annotations/instances_train.json', '--train-images', 'train', '--force')
    dataset = Config.fromfile('my_akd.py').train_dataloader.dataset
    assert dataset.ann_file == 'annotations/instances_train.json'


@pytest.fixture
def set_coco(make):
    """Set the COCO folder in a stock config: ``cfg = set_coco('retinanet/...')``."""
    data = read_coco(Path('mine/coco'), dict.fromkeys(('train', 'val'), Names(None, None)), None,
                     with_masks=False)

    def run(name):
        cfg = Config.fromfile(find_config(f'mmdet::{name}'))
        set_data(cfg, data)
        return cfg

    return run


def test_several_data_sets_become_one(set_coco):
    """VOC's 2007 and 2012 together, three times an epoch."""
    cfg = set_coco('pascal_voc/retinanet_r50_fpn_1x_voc0712.py')
    outer = cfg.train_dataloader.dataset
    assert (outer.type, outer.times, outer.dataset.type) == ('RepeatDataset', 3, 'CocoDataset')
    assert outer.dataset.pipeline[0].type == 'LoadImageFromFile'
    assert cfg.val_evaluator.type == 'CocoMetric'
    init_default_scope('mmdet')
    assert len(DATASETS.build(outer)) > 16


def test_mosaics_keep_their_own_pipeline(set_coco):
    cfg = set_coco('yolox/yolox_tiny_8xb8-300e_coco.py')
    outer = cfg.train_dataloader.dataset
    assert outer.pipeline[0].type == 'Mosaic'
    assert outer.dataset.data_root == 'mine/coco'


def test_weights_of_the_old_classes_go(set_coco):
    head = set_coco('mask2former/mask2former_r50_8xb2-lsj-50e_coco.py').model.panoptic_head
    assert head.num_things_classes == len(CLASSES)
    assert head.loss_cls.class_weight == [1.0] * len(CLASSES) + [0.1]
    with pytest.raises(ConfigError, match='--data: this is a panoptic model'):
        set_coco('mask2former/mask2former_r50_8xb2-lsj-50e_coco-panoptic.py')


def test_heads_of_other_things_keep_their_number(make):
    stdc = 'mmseg::stdc/stdc1_4xb12-80k_cityscapes-512x1024.py'
    make('cityscapes', stdc, stdc, '--teacher-ckpt', 'none', '--classes', *NAMES)
    model = Config.fromfile('my_akd_student.py').model
    assert [head.num_classes for head in (model.decode_head, *model.auxiliary_head)] == [
        7, 7, 7, 2]


def test_teacher_that_needs_more_than_there_is(make, workspace):
    """It teaches boxes, but cannot be trained on them."""
    for split in 'train', 'val':
        path = workspace / f'mine/coco/annotations/instances_{split}.json'
        annotations = json.loads(path.read_text())['annotations']
        change(path, annotations=[{**part, 'segmentation': []} for part in annotations])
    condinst = 'mmdet::condinst/condinst_r50_fpn_ms-poly-90k_coco_instance.py'
    output = make('coco', RETINANET, condinst, '--teacher-ckpt', 'none')
    reason = 'not written: my_akd_teacher.py, for the teacher: (.|\n)*without segmentation'
    assert re.search(reason, output)
    assert 'my_akd_teacher.py' not in output.split('Train;')[1]
    assert not Path('my_akd_teacher.py').exists()


def test_students_that_learn_more_than_boxes(make, workspace):
    mask_rcnn = 'mmdet::mask_rcnn/mask-rcnn_r18_fpn_8xb8-amp-lsj-200e_coco.py'
    path = workspace / 'mine/coco/annotations/instances_train.json'
    annotations = json.loads(path.read_text())['annotations']
    change(path, annotations=[{**part, 'segmentation': []} for part in annotations])
    arguments = ['coco', mask_rcnn, mask_rcnn, '--teacher-ckpt', 'none']
    with pytest.raises(ConfigError, match='annotations without segmentation, which the model'):
        make(*arguments)
    arguments[1] = 'mmdet::panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco.py'
    with pytest.raises(ConfigError, match='--data: the model also learns from label maps'):
        make(*arguments)
