import copy
import re

import pytest

from mmakd.utils.errors import ConfigError
from mmakd.utils.references import find_checkpoint, is_reference, resolve_model

RETINANET = 'mmdet::retinanet/retinanet_r50_fpn_2x_coco.py'
RETINANET_R101 = 'mmdet::retinanet/retinanet_r101_fpn_2x_coco.py'
PSPNET = 'mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py'
PSPNET_R101 = 'mmseg::pspnet/pspnet_r101-d8_4xb2-80k_cityscapes-512x1024.py'


@pytest.mark.parametrize('name, expected', [
    (RETINANET, True), ('configs/a.py', False), (dict(cfg=RETINANET), False), (None, False)])
def test_is_reference(name, expected):
    assert is_reference(name) is expected


@pytest.mark.parametrize('reference, expected', [
    (RETINANET, ('mmdet', 'RetinaNet', 'ResNet', 50)),
    (RETINANET_R101, ('mmdet', 'RetinaNet', 'ResNet', 101)),
    (PSPNET, ('mmseg', 'EncoderDecoder', 'ResNetV1c', 18)),
    (PSPNET_R101, ('mmseg', 'EncoderDecoder', 'ResNetV1c', 101)),
])
def test_reference_gives_the_model_of_the_installed_package(reference, expected):
    model = resolve_model(reference)
    backbone = model['backbone']
    assert (model['_scope_'], model['type'], backbone['type'], backbone['depth']) == expected


def test_overrides_are_merged_and_leave_the_rest_alone():
    cfg = dict(cfg=RETINANET, backbone=dict(depth=18, init_cfg=None),
               neck=dict(in_channels=[64, 128, 256, 512]), bbox_head=dict(num_classes=7))
    given, plain = copy.deepcopy(cfg), resolve_model(RETINANET)
    model = resolve_model(cfg)
    assert model.backbone.depth == 18 and model.backbone.init_cfg is None
    assert model.neck.in_channels == [64, 128, 256, 512]
    assert model.bbox_head.num_classes == 7
    plain['backbone'].update(depth=18, init_cfg=None)
    plain['neck']['in_channels'] = [64, 128, 256, 512]
    plain['bbox_head']['num_classes'] = 7
    assert model == plain
    assert cfg == given


def test_preprocessor_at_the_top_level_belongs_to_the_model(tmp_path):
    # As the Runner has it: the config's own model may name another.
    path = tmp_path / 'teacher.py'
    path.write_text("data_preprocessor = dict(type='SegDataPreProcessor', mean=[1, 2, 3], "
                    "std=[4, 5, 6])\nmodel = dict(type='EncoderDecoder')\n")
    assert resolve_model(str(path))['data_preprocessor'].mean == [1, 2, 3]
    with path.open('a') as file:
        file.write("model['data_preprocessor'] = dict(type='BaseDataPreprocessor')\n")
    assert resolve_model(str(path))['data_preprocessor'] == dict(type='BaseDataPreprocessor')


def test_override_can_replace_a_part():
    model = resolve_model(dict(cfg=RETINANET, neck=dict(_delete_=True, type='PAFPN')))
    assert model.neck == dict(type='PAFPN')


def test_overrides_nest():
    inner = dict(cfg=RETINANET, backbone=dict(depth=18))
    model = resolve_model(dict(cfg=inner, backbone=dict(norm_eval=False)))
    assert (model.backbone.depth, model.backbone.norm_eval) == (18, False)


def test_model_dict_is_taken_as_it_is():
    cfg = dict(type='RetinaNet', backbone=dict(type='ResNet', depth=50))
    assert resolve_model(cfg) == copy.deepcopy(cfg)
    assert resolve_model(dict(cfg=cfg, backbone=dict(depth=18)))['backbone']['depth'] == 18
    assert cfg['backbone']['depth'] == 50


@pytest.mark.parametrize('scope', ['mmseg', None])
def test_config_file_gives_its_model_in_its_scope(tmp_path, scope):
    path = tmp_path / 'student.py'
    path.write_text(f"default_scope = {scope!r}\nmodel = dict(type='Net', depth=3)\n")
    expected = dict(type='Net', depth=3, **({'_scope_': scope} if scope else {}))
    assert resolve_model(str(path)) == expected
    assert resolve_model(dict(cfg=str(path), depth=5)) == {**expected, 'depth': 5}


@pytest.mark.parametrize('model, message', [
    ('mmdte::a.py', "='mmdte::a.py': unknown package; did you mean 'mmdet'"),
    ('mmpose::a.py', "='mmpose::a.py': unknown package; "),
    ('mmdet::retinanet/retinanet_r50_fpn_3x_coco.py',
     "ships no such config; did you mean 'retinanet/retinanet_r50_fpn_"),
    ('no/such/config.py', "='no/such/config.py': no such config file; a relative path starts"),
    (dict(cfg='mmdte::a.py', depth=1), "cfg='mmdte::a.py': unknown package"),
    (dict(backbone=dict(type='ResNet')), 'type: missing'),
    (50, '=50: expected a model dict'),
    (None, '=None: expected a model dict'),
])
def test_what_cannot_be_resolved_is_named(model, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        resolve_model(model)


def test_config_without_a_model_is_an_error(tmp_path):
    path = tmp_path / 'schedule.py'
    path.write_text('max_epochs = 12\n')
    with pytest.raises(ConfigError, match='defines no model'):
        resolve_model(str(path))
    with pytest.raises(ConfigError, match='defines no model'):
        resolve_model('mmdet::_base_/default_runtime.py')


@pytest.mark.parametrize('reference, name', [
    (RETINANET_R101, 'retinanet_r101_fpn_2x_coco'),
    (PSPNET_R101, 'pspnet_r101-d8_512x1024_80k_cityscapes'),
])
def test_checkpoint_is_the_one_of_the_metafile(reference, name):
    assert re.fullmatch(rf'https://\S+/{name}_[0-9_]+-[0-9a-f]{{8}}\.pth',
                        find_checkpoint(reference))


@pytest.mark.parametrize('reference, message', [
    ('mmdet::_base_/default_runtime.py', "='auto': the metafile beside "),
    ('mmdet::retinanet/retinanet_r50_fpn_3x_coco.py', 'ships no such config; did you mean '),
])
def test_missing_checkpoint_is_an_error(reference, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        find_checkpoint(reference)
