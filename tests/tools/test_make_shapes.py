"""Tests of tools/make_shapes.py."""
import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from pycocotools.coco import COCO

from shapes.dataset import SHAPES, make_shapes
from shapes.digits import DIGITS, handwriting, photos
from shapes.patchwork import PATCHWORK
from shapes.scene import CLASSES, SPLITS, draw_scene

ROOT = Path(__file__).parents[2]
TINY = dict(size=(64, 64), count=(6, 4), seed=3)


@pytest.fixture(scope='module')
def drawn(tmp_path_factory) -> Path:
    """A tiny data set in both layouts."""
    out = tmp_path_factory.mktemp('data') / 'shapes'
    make_shapes(out, **TINY)
    return out


def _contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob('*') if path.is_file()
    }


def _label_maps(drawn: Path, split: str, city: str) -> list[np.ndarray]:
    folder = drawn / 'cityscapes' / 'gtFine' / split / city
    return [
        cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        for path in sorted(folder.glob('*_gtFine_labelTrainIds.png'))
    ]


def test_same_seed_draws_the_same_bytes(drawn, tmp_path):
    make_shapes(tmp_path, **TINY)
    assert _contents(tmp_path) == _contents(drawn)


def test_another_seed_and_split_draw_other_images(drawn, tmp_path):
    scene = draw_scene(0, 'train', 0, (64, 64))
    for other in (draw_scene(1, 'train', 0, (64, 64)),
                  draw_scene(0, 'val', 0, (64, 64)),
                  draw_scene(0, 'train', 1, (64, 64))):
        assert not np.array_equal(scene.image, other.image)


def test_more_images_keep_the_first_ones(drawn, tmp_path):
    make_shapes(tmp_path, **{**TINY, 'count': (8, 5)})
    more = _contents(tmp_path)
    for name, content in _contents(drawn).items():
        if name.endswith(('.jpg', '.png')):
            assert more[name] == content


@pytest.mark.parametrize('size', [(32, 32), (64, 160)])
def test_objects_can_be_seen_at_any_size(size):
    for index in range(20):
        scene = draw_scene(0, 'train', index, size)
        assert scene.image.shape == (*size, 3)
        assert scene.image.dtype == np.uint8
        seen = set(np.unique(scene.instances)) - {0}
        assert seen == set(range(1, len(scene.labels) + 1))


@pytest.mark.parametrize('split', SPLITS)
@pytest.mark.parametrize('drawing', [SHAPES, DIGITS], ids=lambda drawing: drawing.name)
def test_boxes_masks_and_label_maps_agree(drawn, split, drawing, tmp_path):
    if drawing is DIGITS:
        drawn = tmp_path
        make_shapes(drawn, **TINY, drawing=DIGITS)
    coco = COCO(drawn / 'coco' / 'annotations' / f'instances_{split}.json')
    label_maps = _label_maps(drawn, split, drawing.name)
    assert len(coco.imgs) == len(label_maps) == TINY['count'][
        SPLITS.index(split)]
    names = [category['name'] for category in coco.dataset['categories']]
    assert names == list(drawing.classes)
    assert min(coco.anns) == 1
    for image_id, label_map in zip(coco.imgs, label_maps):
        from_masks = np.zeros_like(label_map)
        for ann in coco.imgToAnns[image_id]:
            mask = coco.annToMask(ann).astype(bool)
            assert not from_masks[mask].any(), 'objects overlap'
            from_masks[mask] = ann['category_id']
            rows, columns = np.nonzero(mask)
            x, y, width, height = ann['bbox']
            assert (x, y) == (columns.min(), rows.min())
            assert (x + width, y + height) == (columns.max() + 1,
                                               rows.max() + 1)
            assert ann['area'] == mask.sum() > 0
            assert ann['iscrowd'] == 0
        assert np.array_equal(from_masks, label_map)


def test_images_of_both_layouts_show_the_same_scene(drawn):
    jpeg = cv2.imread(str(drawn / 'coco/train/000000000001.jpg'))
    png = cv2.imread(
        str(drawn / 'cityscapes/leftImg8bit/train/shapes/'
            'shapes_000000_000000_leftImg8bit.png'))
    assert np.abs(jpeg.astype(int) - png).mean() < 12


def test_digits_to_train_are_not_those_to_validate():
    ink, labels = zip(*map(handwriting, SPLITS))
    assert sum(map(len, ink)) == 1797
    assert not {image.tobytes() for image in ink[0]} & {image.tobytes() for image in ink[1]}
    assert all(set(part) == set(range(10)) for part in labels)
    train, val = map(photos, SPLITS)
    assert len(train) == len(val) == 8
    assert not {photo.tobytes() for photo in train} & {photo.tobytes() for photo in val}


def test_digits_look_like_the_handwriting():
    # A page's ink on its ground, found again without what drew it.
    for index in range(10):
        scene = DIGITS.draw(0, 'val', index, (96, 96))
        assert set(np.unique(scene.instances)) == set(range(len(scene.labels) + 1))
        assert min(np.bincount(scene.instances.ravel())) > 20
    again = DIGITS.draw(0, 'val', 9, (96, 96))
    assert np.array_equal(again.image, scene.image) and again.labels == scene.labels


def test_every_class_is_drawn():
    labels = set()
    for index in range(30):
        labels.update(draw_scene(0, 'train', index, (32, 32)).labels)
    assert labels == set(range(len(CLASSES)))


def test_mmdet_reads_it_through_our_config(drawn):
    from mmdet.registry import DATASETS
    from mmdet.utils import register_all_modules
    register_all_modules()
    cfg = Config.fromfile(ROOT / 'configs/_base_/datasets/shapes_detection.py')
    names = tuple(kind.name for kind in CLASSES)
    for loader, number in ((cfg.train_dataloader, 6), (cfg.val_dataloader, 4)):
        dataset = DATASETS.build(
            {**loader.dataset, 'data_root': f'{drawn}/coco/'})
        assert dataset.metainfo['classes'] == names
        assert len(dataset.metainfo['palette']) == len(names)
        assert len(dataset) <= number  # images without objects are left out
        sample = dataset[0]
        assert sample['inputs'].shape[0] == 3
        instances = sample['data_samples'].gt_instances
        assert len(instances.bboxes) == len(instances.labels) > 0


def test_mmseg_reads_it_through_our_config(drawn):
    from mmseg.registry import DATASETS
    from mmseg.utils import register_all_modules
    register_all_modules()
    cfg = Config.fromfile(
        ROOT / 'configs/_base_/datasets/shapes_segmentation.py')
    names = ('background', *(kind.name for kind in CLASSES))
    root = f'{drawn}/cityscapes/'
    for loader, number in ((cfg.train_dataloader, 6), (cfg.val_dataloader, 4)):
        dataset = DATASETS.build({**loader.dataset, 'data_root': root})
        assert dataset.metainfo['classes'] == names
        assert len(dataset.metainfo['palette']) == len(names)
        assert len(dataset) == number
        stock = DATASETS.build({
            'type': 'CityscapesDataset',
            'data_root': root,
            'data_prefix': loader.dataset.data_prefix,
            'pipeline': loader.dataset.pipeline
        })
        assert len(stock) == number
        labels = stock[0]['data_samples'].gt_sem_seg.data
        assert labels.shape[-2:] == TINY['size']
        assert labels.max() <= len(CLASSES)


def test_what_is_there_is_kept(drawn):
    before = {path: path.stat().st_mtime_ns for path in drawn.rglob('*')}
    make_shapes(drawn, **TINY)
    after = {path: path.stat().st_mtime_ns for path in drawn.rglob('*')}
    assert after == before


def test_layouts_can_be_drawn_one_after_the_other(drawn, tmp_path):
    make_shapes(tmp_path, **TINY, layouts=['cityscapes'])
    assert {path.name for path in tmp_path.iterdir()} == {'cityscapes'}
    make_shapes(tmp_path, **TINY)
    assert _contents(tmp_path) == _contents(drawn)


def test_other_parameters_are_refused(drawn):
    before = _contents(drawn)
    with pytest.raises(FileExistsError, match=r'seed 3 instead of 4.*--out'):
        make_shapes(drawn, **{**TINY, 'seed': 4})
    assert _contents(drawn) == before


def test_other_files_are_left_alone(tmp_path):
    precious = tmp_path / 'coco' / 'annotations' / 'instances_train.json'
    precious.parent.mkdir(parents=True)
    precious.write_text('mine')
    with pytest.raises(FileExistsError, match='other files'):
        make_shapes(tmp_path, **TINY)
    assert [path for path in tmp_path.rglob('*')
            if path.is_file()] == [precious]
    assert precious.read_text() == 'mine'


def test_interruption_leaves_nothing(tmp_path):

    def interrupted(seed, split, index, size):
        if (split, index) == ('val', 2):
            raise KeyboardInterrupt
        return draw_scene(seed, split, index, size)

    with pytest.raises(KeyboardInterrupt):
        make_shapes(tmp_path, **TINY, drawing=SHAPES._replace(draw=interrupted))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('wrong', [
    dict(size=(16, 64)),
    dict(count=(0, 4)),
    dict(seed=-1),
])
def test_wrong_numbers_name_their_option(wrong, tmp_path):
    with pytest.raises(ValueError, match=f'--{next(iter(wrong))}'):
        make_shapes(tmp_path / 'shapes', **{**TINY, **wrong})
    assert list(tmp_path.iterdir()) == []


def test_patchwork_is_another_domain(tmp_path, drawn):
    make_shapes(tmp_path, **TINY, drawing=PATCHWORK)
    for split, number in zip(SPLITS, TINY['count']):
        coco = COCO(tmp_path / 'coco' / 'annotations' / f'instances_{split}.json')
        assert len(coco.imgs) == number and not coco.anns
        assert [category['name'] for category in coco.cats.values()] == list(SHAPES.classes)
        assert not any(labels.any() for labels in _label_maps(tmp_path, split, 'patchwork'))
    # Hard edges of large patches: far more change from pixel to pixel.
    edges = [np.mean([np.abs(np.diff(drawing.draw(0, 'train', index, (64, 64)).image.astype(
        float), axis=1)).mean() for index in range(10)]) for drawing in (SHAPES, PATCHWORK)]
    assert edges[1] > 1.2 * edges[0]


@pytest.mark.parametrize('data', ['shapes', 'patchwork'])
def test_default_folder(data, tmp_path):
    subprocess.run([sys.executable, ROOT / 'tools' / 'make_shapes.py', '--size', '32', '--count',
                    '1', '1', '--data', data], check=True, cwd=tmp_path)
    assert {path.name for path in (tmp_path / 'data' / data).iterdir()} == {'coco', 'cityscapes'}


def test_command_line(tmp_path):
    command = [
        sys.executable, ROOT / 'tools' / 'make_shapes.py', '--out', tmp_path,
        '--size', '32', '--count', '2', '1', '--layout', 'coco'
    ]
    subprocess.run(command, check=True)
    manifest = json.loads((tmp_path / 'coco' / 'shapes.json').read_text())
    assert manifest['size'] == [32, 32]
    assert manifest['count'] == [2, 1]
    refused = subprocess.run([*command, '--seed', '5'],
                             capture_output=True,
                             text=True)
    assert refused.returncode == 1
    assert 'Traceback' not in refused.stderr
    assert '--out' in refused.stderr
