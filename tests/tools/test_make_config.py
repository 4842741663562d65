"""tools/make_config.py: what it writes for stock students is built and trained for a step."""
import copy
import re
from pathlib import Path

import pytest
import torch
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.registry import MODELS, init_default_scope

import check_config
import make_config
from benchmark.variants import make_batch, prepare
from mmakd.utils.errors import ConfigError
from mmakd.utils.references import find_checkpoint, find_config

ROOT = Path(__file__).parents[2]
DET = str(ROOT / 'configs/det/toy/{}_retinanet_shapes.py')
SEG = str(ROOT / 'configs/seg/toy/{}_pspnet_shapes.py')
RETINANET = 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'
SIZE = (128, 128)
LOGITS = 'decode_head.conv_seg'

# Student, teacher ('' for the same config) and where they are compared. Those that build quickly
# come first; the others are slow tests.
STUDENTS = [
    (RETINANET, 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py', dict(tap='neck')),
    ('mmdet::centernet/centernet_r18_8xb16-crop512-140e_coco.py', '', dict(tap='neck')),
    ('mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py', 'mmdet::rtmdet/rtmdet_s_8xb32-300e_coco.py',
     dict(tap='neck')),
    # Five levels from stride 8 on, and three.
    (RETINANET, 'mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py',
     dict(tap='neck', levels=[0, 1, 2])),
    ('mmseg::segformer/segformer_mit-b0_8xb1-160k_cityscapes-1024x1024.py',
     'mmseg::segformer/segformer_mit-b1_8xb1-160k_cityscapes-1024x1024.py', dict(tap=LOGITS)),
    ('mmseg::cgnet/cgnet_fcn_4xb4-60k_cityscapes-680x680.py', '', dict(tap=LOGITS)),
    ('mmseg::bisenetv2/bisenetv2_fcn_4xb4-160k_cityscapes-1024x1024.py', '', dict(tap=LOGITS)),
    # 19 classes and 150, maps of an eighth and of a thirty-second of the image.
    ('mmseg::fastscnn/fast_scnn_8xb4-160k_cityscapes-512x1024.py',
     'mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py',
     dict(tap='backbone', levels=[-1], resize=True)),
    ('mmdet::yolox/yolox_tiny_8xb8-300e_coco.py', 'mmdet::yolox/yolox_s_8xb8-300e_coco.py',
     dict(tap='neck')),
    ('mmdet::yolo/yolov3_mobilenetv2_8xb24-320-300e_coco.py', '', dict(tap='neck')),
    ('mmdet::ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py', '', dict(tap='neck')),
    ('mmdet::atss/atss_r50_fpn_1x_coco.py', '', dict(tap='neck')),
    ('mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py', '', dict(tap='neck')),
    ('mmdet::gfl/gfl_r50_fpn_1x_coco.py', '', dict(tap='neck')),
    ('mmdet::reppoints/reppoints-moment_r50_fpn_1x_coco.py', '', dict(tap='neck')),
    ('mmdet::tood/tood_r50_fpn_1x_coco.py', '', dict(tap='neck')),
    ('mmdet::yolof/yolof_r50-c5_8xb8-1x_coco.py', '', dict(tap='neck')),
    ('mmdet::detr/detr_r18_8xb2-500e_coco.py', '', dict(tap='neck')),
    ('mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py',
     'mmdet::cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py', dict(tap='neck')),
    ('mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py', '', dict(tap='neck')),
    ('mmdet::foveabox/fovea_r50_fpn_4xb4-1x_coco.py', '', dict(tap='neck')),
    # No neck; and levels from stride 4 on against levels from stride 8 on.
    ('mmdet::faster_rcnn/faster-rcnn_r50-caffe-dc5_1x_coco.py', RETINANET,
     dict(tap='backbone', levels=[-1], resize=True)),
    (RETINANET, 'mmdet::faster_rcnn/faster-rcnn_r18_fpn_8xb8-amp-lsj-200e_coco.py',
     dict(tap='neck', resize=True)),
    ('mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py',
     'mmseg::pspnet/pspnet_r50-d8_4xb2-80k_cityscapes-512x1024.py', dict(tap=LOGITS)),
    ('mmseg::deeplabv3plus/deeplabv3plus_r18-d8_4xb2-80k_cityscapes-512x1024.py', '',
     dict(tap=LOGITS)),
    ('mmseg::unet/unet-s5-d16_fcn_4xb4-160k_cityscapes-512x1024.py', '', dict(tap=LOGITS)),
    ('mmseg::ocrnet/ocrnet_hr18s_4xb2-80k_cityscapes-512x1024.py', '',
     dict(tap='decode_head.1.conv_seg')),
    ('mmseg::stdc/stdc1_4xb12-80k_cityscapes-512x1024.py', '', dict(tap=LOGITS)),
    ('mmseg::mobilenet_v2/mobilenet-v2-d8_fcn_4xb2-80k_cityscapes-512x1024.py', '',
     dict(tap=LOGITS)),
    ('mmseg::erfnet/erfnet_fcn_4xb4-160k_cityscapes-512x1024.py', '', dict(tap=LOGITS)),
    ('mmseg::upernet/upernet_r18_4xb2-80k_cityscapes-512x1024.py', '', dict(tap=LOGITS)),
    # Its head predicts without conv_seg.
    ('mmseg::knet/knet-s3_r50-d8_fcn_8xb2-adamw-80k_ade20k-512x512.py', '',
     dict(tap='backbone', levels=[-1])),
]
QUICK = 5


@pytest.fixture
def make(workspace, capsys):
    """Run the tool in an empty folder: ``status, output = make(STUDENT, TEACHER, ...)``."""

    def run(*arguments):
        # The last -o counts.
        status = make_config.main(['-o', 'my_akd.py', *map(str, arguments)])
        return status, capsys.readouterr().out

    return run


def step(path):
    """Build the model of a config, and compute its losses and their gradients."""
    cfg = Config.fromfile(path)
    cfg.model.teacher_ckpt = None
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    for progress in 'iter', 'epoch':  # which YOLOX and TOOD ask the Runner for
        MessageHub.get_current_instance().update_info(progress, 0)
    model = prepare(MODELS.build(copy.deepcopy(cfg.model)), SIZE, 'cpu')
    learns_masks = "'with_mask': True" in str(cfg.train_dataloader)
    batch = (demo_mm_inputs(2, (3, *SIZE), num_items=[4, 4], num_classes=2, with_mask=True)
             if learns_masks else make_batch(cfg.default_scope, SIZE, 2))
    losses = model(**model.data_preprocessor(batch, True), mode='loss')
    total, logged = model.parse_losses(losses)
    total.backward()
    assert all(value.isfinite() for value in logged.values())
    return cfg, model, logged


def test_there_are_thirty_students():
    assert len({student for student, *_ in STUDENTS}) >= 30


@pytest.mark.parametrize('student, teacher, task', [
    pytest.param(*row, marks=[pytest.mark.slow] if i >= QUICK else [],
                 id=row[0].split('/')[1].split('_')[0] + f'-{i}')
    for i, row in enumerate(STUDENTS)])
def test_stock_students(student, teacher, task, make):
    status, output = make(student, teacher or student, '--teacher-ckpt', 'none')
    assert status == 0, output
    cfg, model, logged = step('my_akd.py')
    (name, built), = cfg.model.distill.items()
    assert {key: built.get(key) for key in ('tap', 'levels', 'resize')} == {
        'levels': None, 'resize': None, **task}
    assert logged[f'distill.loss_{name}'] > 0
    assert any(parameter.grad is not None and parameter.grad.any()
               for parameter in model.backbone.parameters())
    # The student is as its package ships it, and so is its training.
    stock = Config.fromfile(find_config(student))
    assert cfg.model.student == stock.model
    for key in ('train_dataloader', 'val_dataloader', 'val_evaluator', 'optim_wrapper',
                'param_scheduler', 'train_cfg', 'custom_hooks', 'auto_scale_lr'):
        assert cfg.get(key) == stock.get(key), key
    assert cfg.default_hooks == dict(stock.default_hooks,
                                     perturbation=dict(type='PerturbationHook'))
    # The base method differs in the loss alone.
    base = Config.fromfile('my_akd_base.py')
    loss = built.pop('loss')
    assert base.model.distill[name].pop('loss') == dict(loss.criterion,
                                                        loss_weight=loss.loss_weight)
    cfg.model.teacher_ckpt = base.model.teacher_ckpt = None
    assert base.model == cfg.model
    plain = Config.fromfile('my_akd_student.py')
    assert plain.model == stock.model and 'train_pipeline' not in plain


def test_files_pass_the_check_in_any_folder(make, workspace, capsys):
    # A config of one's own is inherited, by a path as seen from the new one.
    make(DET.format('student'), DET.format('teacher'), '--teacher-ckpt', 'none', '-o',
         'configs/mine/my_akd.py')
    folder = workspace / 'configs/mine'
    assert sorted(path.name for path in folder.iterdir()) == ['my_akd.py', 'my_akd_base.py']
    assert re.search(r"^_base_ = '\.\./", (folder / 'my_akd.py').read_text(), re.MULTILINE)
    # Those of a reference can be moved.
    make(RETINANET, RETINANET)
    (workspace / 'moved').mkdir()
    for path in workspace.glob('my_akd*.py'):
        assert str(workspace) not in path.read_text()
        path.rename(workspace / 'moved' / path.name)
    for config in 'configs/mine/my_akd.py', 'configs/mine/my_akd_base.py', 'moved/my_akd_base.py':
        assert check_config.main([config, '--no-download']) == 0
        assert 'No problem found' in capsys.readouterr().out


def test_published_weights_are_found(make):
    _, output = make(RETINANET, RETINANET)
    assert 'teacher_ckpt' not in Path('my_akd.py').read_text()
    assert find_checkpoint(RETINANET) in output
    assert 'python tools/test.py my_akd_student.py work_dirs/my_akd/epoch_12.pth' in output


METHODS = {
    'cwd': (DET, 'neck', dict(type='ChannelWiseDivergence', tau=1.0, loss_weight=7.5)),
    'mgd': (DET, 'neck', dict(type='MGDLoss', alpha_mgd=2e-5, lambda_mgd=0.65, loss_weight=1.0)),
    'fgd': (DET, 'neck', dict(type='FGDLoss', temp=0.5, alpha_fgd=1e-3, beta_fgd=5e-4,
                              gamma_fgd=5e-4, lambda_fgd=5e-6, loss_weight=1.0)),
    'cwd on logits': (SEG, 'logits', dict(type='ChannelWiseDivergence', tau=1.0,
                                          loss_weight=5.0)),
    'mgd on the backbone': (SEG, 'backbone', dict(type='MGDLoss', alpha_mgd=2e-5, lambda_mgd=0.75,
                                                  loss_weight=1.0))}


@pytest.mark.parametrize('prefix', ['akd-', ''])
@pytest.mark.parametrize('case', METHODS)
def test_methods(case, prefix, make):
    configs, name, loss = METHODS[case]
    method = prefix + case.split()[0]
    status, output = make(configs.format('student'), configs.format('teacher'), '--teacher-ckpt',
                          'none', '--method', method)
    assert status == 0, output
    cfg, _, logged = step('my_akd.py')
    assert logged[f'distill.loss_{name}'] > 0
    built = cfg.model.distill[name].loss
    assert Path('my_akd_base.py').exists() == bool(prefix)
    if prefix:
        assert dict(built.criterion, loss_weight=built.loss_weight) == loss
        built = Config.fromfile('my_akd_base.py').model.distill[name].loss
    assert built == loss


def test_taps_that_are_named(make):
    status, _ = make(DET.format('student'), DET.format('teacher'), '--teacher-ckpt', 'none',
                     '--tap', 'backbone.layer3', 'backbone.layer4')
    assert status == 0
    task = Config.fromfile('my_akd.py').model.distill.backbone
    assert (task.student_tap, task.teacher_tap, task.resize) == (
        'backbone.layer3', 'backbone.layer4', True)


@pytest.mark.parametrize('method, clips', [('akd-cwd', False), ('akd-mgd', True)])
def test_gradients_are_clipped_where_the_method_is_published_so(method, clips, make):
    make(RETINANET, RETINANET, '--method', method)
    assert ('clip_grad' in Config.fromfile('my_akd.py').optim_wrapper) == clips


def test_what_a_student_imports_is_kept(make, workspace):
    (workspace / 'my_student.py').write_text(
        f"_base_ = '{DET.format('student')}'\n"
        "custom_imports = dict(imports=['json.tool'], allow_failed_imports=False)\n"
        'optim_wrapper = dict(clip_grad=dict(max_norm=1))\n')
    status, _ = make('my_student.py', DET.format('teacher'), '--teacher-ckpt', 'none',
                     '--method', 'mgd')
    assert status == 0
    cfg = Config.fromfile('my_akd.py')
    assert cfg.custom_imports.imports == ['json.tool', 'mmakd']
    assert cfg.optim_wrapper.clip_grad == dict(max_norm=1)
    assert "_base_ = 'my_student.py'" in Path('my_akd.py').read_text()


TRACKER = 'mmdet::masktrack_rcnn/masktrack-rcnn_mask-rcnn_r50_fpn_8xb1-12e_youtubevis2021.py'
WRONG = {
    'student': (['mmdet::retinanet/retinanet_r17_fpn_1x_coco.py', RETINANET],
                r"STUDENT='mmdet::retinanet/retinanet_r17.*ships no such config; did you mean "
                r"'retinanet/retinanet_r18_fpn_1x_coco.py'"),
    'teacher': ([RETINANET, 'teacher.py'], r"TEACHER='teacher.py': no such config file"),
    'a distiller': ([DET.format('akd-cwd'), RETINANET],
                    'STUDENT=.*defines no plain model; give the config of a detector'),
    'method': ([RETINANET, RETINANET, '--method', 'akd-cdw'],
               "--method='akd-cdw': no such method; did you mean 'akd-cwd'"),
    'weights': ([DET.format('student'), DET.format('teacher')],
                "--teacher-ckpt: missing; a config of your own .* give the teacher's checkpoint"),
    'no weights': ([RETINANET, 'mmdet::solo/solo_r18_fpn_8xb8-lsj-200e_coco.py'],
                   "--teacher-ckpt='auto': the metafile beside .* names no weights"),
    'nothing in common': (
        [TRACKER, RETINANET, '--teacher-ckpt', 'none'],
        r'--tap: MaskTrackRCNN and RetinaNet share no tap that fits(.|\n)*'
        r'the student has data_preprocessor, detector, track_head'),
    'tap': ([DET.format('student'), DET.format('teacher'), '--teacher-ckpt', 'none', '--tap',
             'nek'], r"--tap=nek: does not fit RetinaNet and RetinaNet(.|\n)*did you mean 'neck'"),
    'method without a setting': (
        [SEG.format('student'), SEG.format('teacher'), '--teacher-ckpt', 'none', '--method',
         'fgd'], r'conv_seg: the method has no setting for it, only for neck(.|\n)*'
        'another --method'),
}


@pytest.mark.parametrize('case', WRONG)
def test_one_clear_message(case, workspace, make):
    arguments, message = WRONG[case]
    with pytest.raises(ConfigError, match=message):
        make(*arguments)
    assert not list(workspace.glob('*.py'))


def test_several_mistakes_are_reported_together(make):
    with pytest.raises(ConfigError) as error:
        make('student.py', 'teacher.py', '--method', 'awd')
    assert [problem.split('=')[0] for problem in error.value.problems] == [
        'STUDENT', 'TEACHER', '--method']


def test_nothing_is_replaced(make, workspace):
    (workspace / 'my_akd_base.py').write_text('mine')
    toys = [DET.format('student'), DET.format('teacher'), '--teacher-ckpt', 'none']
    with pytest.raises(ConfigError, match=r'-o my_akd.py: my_akd_base.py already there.*--force'):
        make(*toys)
    assert (workspace / 'my_akd_base.py').read_text() == 'mine'
    assert not (workspace / 'my_akd.py').exists()
    assert make(*toys, '--force')[0] == 0
    assert (workspace / 'my_akd_base.py').read_text() != 'mine'


@pytest.mark.parametrize('arguments, message', [
    (['-o', 'my.akd.py'], 'must be a Python name and .py'),
    (['-o', 'a.py', '--tap', 'a', 'b', 'c'], '--tap takes one module'),
    (['-o', 'a.py', '--classes', 'a'], '--classes describes the folder that --data names'),
    ([], 'the following arguments are required: -o/--out')])
def test_wrong_command_lines(arguments, message, capsys):
    with pytest.raises(SystemExit) as ended:
        make_config.main([RETINANET, RETINANET, *arguments])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_problems_of_what_is_written_decide_the_status(make, workspace):
    """They are check_config's; the files stay, to be mended."""
    (workspace / 'my_student.py').write_text(
        f"_base_ = '{DET.format('student')}'\noptim_wrapper = dict(optimizer=dict(lrr=1.0))\n")
    status, output = make('my_student.py', DET.format('teacher'), '--teacher-ckpt', 'none')
    assert status == 1
    assert 'lrr' in output
    assert (workspace / 'my_akd.py').exists()
