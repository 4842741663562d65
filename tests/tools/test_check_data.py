"""tools/check_data.py on drawn data, whole and damaged."""
import json
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mmengine.config import Config
from PIL import Image

import check_data
from data_checking import findings
from data_checking.coco import CATEGORIES

ROOT = Path(__file__).parents[2]
CONFIGS = {'coco': ROOT / 'configs/det/toy/student_retinanet_shapes.py',
           'cityscapes': ROOT / 'configs/seg/toy/student_pspnet_shapes.py'}
many = settings(max_examples=15, deadline=None, derandomize=True, database=None,
                suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def fresh(shapes, tmp_path):
    """Copy the data of a layout: ``folder = fresh('coco')``."""

    def copy(layout):
        shutil.rmtree(tmp_path / layout, ignore_errors=True)
        return Path(shutil.copytree(shapes / 'data/shapes' / layout, tmp_path / layout))

    return copy


def check(folder, full=False):
    """Check a folder of drawn data."""
    cfg = Config.fromfile(CONFIGS[folder.name])
    for split in 'train', 'val', 'test':
        cfg[f'{split}_dataloader'].dataset.data_root = str(folder)
    return check_data.check(cfg, full, any_size=False)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-200])


def shrink(path):
    with Image.open(path) as image:
        image.resize((32, 40), Image.Resampling.NEAREST).save(path)


def change(path, function):
    content = json.loads(path.read_text())
    function(content)
    path.write_text(json.dumps(content))


def paint(path, label):
    with Image.open(path) as image:
        image.putpixel((3, 5), label)
        image.save(path)


# What is done to the annotations or images of training, and the kinds of problems.
RECORDS = {
    'annotation twice': (lambda c: c['annotations'].append(c['annotations'][0]),
                         {'annotation ids used more than once: 1 (1);'}),
    'stray image': (lambda c: c['annotations'][1].update(image_id=999),
                    {'annotations of an image that is not listed: 1 of '}),
    'stray category': (lambda c: c['annotations'][2].update(category_id=77),
                       {'annotations of a category that is not listed: 1 of '}),
    'flat box': (lambda c: c['annotations'][3].update(bbox=[1, 1, 0, 9]),
                 {'annotations whose box has no width or height: 1 of '}),
    'outside': (lambda c: c['annotations'][4].update(bbox=[30, 30, 40, 40]),
                {'annotations whose box reaches out of the image: 1 of '}),
    'no box': (lambda c: c['annotations'][5].update(bbox=[1, 2, float('nan'), 4]),
               {'annotations whose bbox is not [x, y, width, height]: 1 of '}),
    'no area': (lambda c: c['annotations'][6].pop('area'),
                {'annotations without id, image_id, category_id, bbox or area, by their place in '
                 'the list: 1 of '}),
    'image twice': (lambda c: c['images'].append(c['images'][0]),
                    {'image ids used more than once: 1 (1);', 'file names used more than once'}),
    'category twice': (lambda c: c['categories'].append(c['categories'][0]),
                       {'category ids used more than once', 'category names used more than once'}),
    'other name': (lambda c: c['categories'][5].update(name='planet'),
                   {'classes of the config without a category: 1 of 6 (star);'})}
FILES = {
    'coco': {
        'gone': ('train/000000000003.jpg', Path.unlink, {'images missing: 1 of '}),
        'empty': ('train/000000000004.jpg', lambda path: path.write_bytes(b''),
                  {'images that cannot be decoded'}),
        'truncated': ('train/000000000005.jpg', truncate, {'images that cannot be decoded'}),
        'other size': ('train/000000000006.jpg', shrink,
                       {'images of another size than stated: 1 of '})},
    'cityscapes': {
        'gone': ('leftImg8bit/train/shapes/shapes_000003_000000_leftImg8bit.png', Path.unlink,
                 {'label maps without an image: 1 of '}),
        'truncated': ('leftImg8bit/train/shapes/shapes_000004_000000_leftImg8bit.png', truncate,
                      {'images that cannot be decoded: 1 of '}),
        'no map': ('gtFine/train/shapes/shapes_000005_000000_gtFine_labelTrainIds.png',
                   Path.unlink, {'label maps missing: 1 of '}),
        'not converted': (
            'gtFine/train/shapes/shapes_000006_000000_gtFine_labelTrainIds.png',
            lambda path: path.rename(str(path).replace('TrainIds', 'Ids')),
            {'label maps *_labelTrainIds.png missing where *_labelIds.png is there: 1 of '}),
        'truncated map': ('gtFine/train/shapes/shapes_000007_000000_gtFine_labelTrainIds.png',
                          truncate, {'label maps that cannot be decoded: 1 of '}),
        'other size': ('gtFine/train/shapes/shapes_000008_000000_gtFine_labelTrainIds.png',
                       shrink, {'label maps of another size than their image: 1 of '}),
        'no class': ('gtFine/train/shapes/shapes_000009_000000_gtFine_labelTrainIds.png',
                     lambda path: paint(path, 33), {'label maps with ids that are no class'}),
        'ignored': ('gtFine/train/shapes/shapes_000010_000000_gtFine_labelTrainIds.png',
                    lambda path: paint(path, 255), set()),
        'colour': ('gtFine/train/shapes/shapes_000011_000000_gtFine_labelTrainIds.png',
                   lambda path: Image.open(path).convert('RGB').save(path),
                   {'label maps that are pictures in colour: 1 of '})}}


def assert_found(found, kinds):
    problems = found.problems.problems
    assert len(problems) == len(kinds), problems
    for kind in kinds:
        assert any(kind in problem for problem in problems), (kind, problems)


@many
@given(records=st.sets(st.sampled_from(sorted(RECORDS))),
       files=st.sets(st.sampled_from(sorted(FILES['coco']))))
def test_damages_of_coco(records, files, fresh):
    """Any of them together are found by name, and nothing else."""
    folder = fresh('coco')
    kinds = set()
    for name in sorted(files):
        path, damage, expected = FILES['coco'][name]
        damage(folder / path)
        kinds |= expected
    for name in sorted(records):
        damage, expected = RECORDS[name]
        change(folder / 'annotations/instances_train.json', damage)
        kinds |= expected
    assert_found(check(folder), kinds)


@many
@given(files=st.sets(st.sampled_from(sorted(FILES['cityscapes']))))
def test_damages_of_label_maps(files, fresh):
    folder = fresh('cityscapes')
    kinds = set()
    for name in sorted(files):
        path, damage, expected = FILES['cityscapes'][name]
        damage(folder / path)
        kinds |= expected
    assert_found(check(folder), kinds)


@pytest.mark.parametrize('layout, path, damage, kinds', [
    ('coco', 'annotations/instances_val.json', Path.unlink,
     ['instances_val.json: no such file; put it there, or set data_root']),
    ('coco', 'annotations/instances_train.json', truncate,
     ['instances_train.json: cannot be read (JSONDecodeError']),
    ('coco', 'annotations/instances_train.json',
     lambda path: change(path, lambda content: content.pop('categories')),
     ["instances_train.json: has no categories; write it in COCO's format"]),
    ('coco', 'annotations/instances_val.json',
     lambda path: change(path, lambda content: content['annotations'][0].pop('iscrowd')),
     ['annotations without id, image_id, category_id, bbox, area or iscrowd']),
    ('coco', 'train', shutil.rmtree, ['coco/train: no such folder; ']),
    ('cityscapes', 'gtFine/val', shutil.rmtree, ['gtFine/val: no such folder; ']),
    ('cityscapes', 'leftImg8bit/val/shapes', shutil.rmtree,
     ['leftImg8bit/val: no image *_leftImg8bit.png; ', 'label maps without an image: 8 of 8'])])
def test_what_is_missing_as_a_whole(layout, path, damage, kinds, fresh):
    folder = fresh(layout)
    damage(folder / path)
    assert_found(check(folder), kinds)


def test_small_boxes_are_noted(fresh):
    folder = fresh('coco')
    change(folder / 'annotations/instances_train.json',
           lambda content: content['annotations'][0].update(bbox=[1, 1, .5, 9]))
    found = check(folder)
    assert not found.problems.problems
    assert 'left out of training, narrower than a pixel or without area: 1 of ' in (
        found.problems.warnings[0])


def test_full(fresh, monkeypatch):
    monkeypatch.setattr(findings, '_SAMPLE', 4)
    folder = fresh('coco')
    truncate(folder / 'train/000000000002.jpg')
    some = check(folder)
    assert not some.problems.problems and '  4 of 16 images decoded' in some.facts
    assert_found(check(folder, full=True), ['images that cannot be decoded: 1 of 16'])


@pytest.mark.parametrize('config', [
    *CONFIGS.values(), ROOT / 'configs/seg/toy/transfer-other_pspnet_shapes.py'])
def test_whole_data(config, workspace, capsys):
    """Also an unlabelled set with other classes."""
    assert check_data.main([str(config)]) == 0
    output = capsys.readouterr().out
    assert '  8 of 8 images decoded\n' in output and output.endswith('No problem found.\n')


@pytest.fixture
def small_coco(fresh):
    """A part of COCO 2017: its names and categories, few images."""
    folder = fresh('coco')
    for split in 'train', 'val':
        (folder / split).rename(folder / f'{split}2017')
        path = folder / f'annotations/instances_{split}.json'
        change(path, lambda content: content.update(
            categories=[dict(id=number, name=name) for name, number in CATEGORIES.items()]))
        path.rename(folder / f'annotations/instances_{split}2017.json')
    return folder


def test_published_coco(small_coco, capsys):
    assert (len(CATEGORIES), CATEGORIES['person'], CATEGORIES['toothbrush']) == (80, 1, 90)
    ann_file = small_coco / 'annotations/instances_train2017.json'
    # As published.
    change(ann_file, lambda content: content['annotations'][0].update(
        id=918, bbox=[6.65, 8.33, 1.03, 0.], area=0.))
    assert check_data.main([str(small_coco)]) == 1
    output = capsys.readouterr().out
    assert '4 problems:' in output and '1 note:' in output
    assert f'{ann_file}: 16 images instead of the 118,287 of COCO 2017; download http' in output
    assert '39 annotations instead of the 36,781 of COCO 2017' in output
    assert check_data.main([str(small_coco), '--any-size']) == 1
    assert '1 problem:' in capsys.readouterr().out  # that box is then like others
    change(ann_file, lambda content: content['categories'][79].update(id=80))
    assert check_data.main([str(small_coco)]) == 1
    assert "category ids other than COCO's: 1 (toothbrush 80 instead of 90)" in (
        capsys.readouterr().out)


def test_published_cityscapes(fresh, capsys):
    folder = fresh('cityscapes')
    assert check_data.main([str(folder)]) == 1
    output = capsys.readouterr().out
    assert '2 problems:' in output and '16 images instead of the 2,975 of Cityscapes' in output
    assert check_data.main([str(folder), '--any-size']) == 0
    path = folder / FILES['cityscapes']['no class'][0]
    paint(path, 19)
    (folder / FILES['cityscapes']['no map'][0]).rename(
        folder / FILES['cityscapes']['no map'][0].replace('TrainIds', 'Ids'))
    assert check_data.main([str(folder), '--any-size']) == 1
    output = capsys.readouterr().out
    assert f'{path}: 19); allowed are 0 to 18 and 255' in output
    assert f'make them: pip install cityscapesscripts && CITYSCAPES_DATASET={folder} cs' in output


def test_folder_that_is_not_there(workspace, capsys):
    assert check_data.main(['somewhere/coco']) == 1
    output = capsys.readouterr().out
    assert '4 problems:' in output and 'name the config that reads them' in output
    assert ('somewhere/coco/train2017: no such folder; download '
            'http://images.cocodataset.org/zips/train2017.zip and unpack it in somewhere/coco'
            ) in output


def test_wrong_use(workspace, capsys):
    with pytest.raises(SystemExit, match='2'):
        check_data.main(['data'])
    assert 'name the config that reads them' in capsys.readouterr().err
    assert check_data.main(['nowhere.py']) == 1
    assert "error: config='nowhere.py': no such file" in capsys.readouterr().out
