"""tools/check_config.py on real configs, sound and broken."""
import re
import socket
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS

from mmakd.utils.references import resolve_model

ROOT = Path(__file__).parents[2]
TOOL = ROOT / 'tools/check_config.py'
DET = ROOT / 'configs/det/toy/akd-cwd_retinanet_shapes.py'
SEG = ROOT / 'configs/seg/toy/akd-cwd_pspnet_shapes.py'
RETINANET = ROOT / ('configs/det/retinanet/'
                    'akd-cwd_retinanet-r101_retinanet-r50_fpn_2x_coco.py')
PSPNET = ROOT / ('configs/seg/pspnet/'
                 'akd-cwd_pspnet-r101_pspnet-r18_80k_cityscapes-512x1024.py')


@pytest.fixture
def check(workspace, capsys, monkeypatch):
    """Run the tool without a network: ``status, output = check(config, 'key=value', ...)``."""
    import check_config

    def refuse(*args, **kwargs):
        raise AssertionError('reaches for the network')

    monkeypatch.setattr(socket.socket, 'connect', refuse)
    monkeypatch.setattr(socket, 'getaddrinfo', refuse)
    monkeypatch.setenv('TORCH_HOME', str(workspace))  # where torch.hub keeps its cache
    monkeypatch.setenv('COLUMNS', '80')

    def run(config, *options, flags=('--no-download', )):
        arguments = [str(config), *flags]
        arguments += ['--cfg-options', *options] if options else []
        return check_config.main(arguments), capsys.readouterr().out

    return run


@pytest.fixture
def child(workspace):
    """Write a child of a config: ``child(DET, 'custom_hooks = []')``."""

    def write(base, *lines):
        path = workspace / 'child.py'
        path.write_text('\n'.join([f'_base_ = {str(base)!r}', *lines]))
        return path

    return write


def test_students_that_teach_each_other(check):
    status, output = check(ROOT / 'configs/seg/toy/peers_pspnet_shapes.py')
    assert status == 0
    rows = {line.split()[0]: line.split()[2] for line in output.splitlines()
            if 'EncoderDecoder' in line}
    assert list(rows) == ['students.psp', 'students.slim', 'teacher']
    assert len(set(rows.values())) == 3
    for task in ('psp_logits at decode_head.conv_seg of students.psp and teacher',
                 'slim_from_psp_logits at decode_head.conv_seg of students.slim and students.psp'):
        assert f'Task {task}' in ' '.join(output.split())
    assert 'students.slim 7' in output


def test_classes_of_each_student(check):
    status, output = check(ROOT / 'configs/seg/toy/peers_pspnet_shapes.py',
                           *(f'model.students.{name}.decode_head.num_classes=5'
                             for name in ('psp', 'slim')))
    assert status == 1
    for name in 'psp', 'slim':
        assert f'model.students.{name}.decode_head.num_classes=5: the data set' in output


def problems(output):
    """List the problems of a report."""
    lines = output.splitlines()
    start = [i for i, line in enumerate(lines) if line.endswith((' problem:', ' problems:'))]
    if not start:
        return []
    found = [line.strip().split('. ', 1)[1] for line in lines[start[0] + 1:] if line]
    assert lines[start[0]].split()[0] == str(len(found))
    return found


BROKEN = {
    # Ours: each key, with the nearest names.
    'tap': (DET, ['model.distill.fpn.tap=nek'], [
        "model.distill.fpn.tap='nek': the student (RetinaNet) has no such module; did you mean "
        "'neck'?",
        "model.distill.fpn.tap='nek': the teacher (RetinaNet) has no such module; did you mean "
        "'neck'?"]),
    'reference': (DET, ['model.teacher=mmdte::retinanet/retinanet_r101_fpn_2x_coco.py'], [
        "model.teacher='mmdte::retinanet/retinanet_r101_fpn_2x_coco.py': unknown package; did you "
        "mean 'mmdet'"]),
    'levels': (DET, ['model.student.neck.num_outs=4'], [
        'model.distill.fpn.tap: the student gives 4 maps, the teacher 3']),
    'parts of a loss': (DET, ['model.distill.fpn.loss.criterion.type=ChannelWiseDivergance',
                              'model.distill.fpn.loss.perturbation.drop_rat=0.1'], [
        "model.distill.fpn.loss.criterion.type='ChannelWiseDivergance': not registered; did you "
        "mean 'ChannelWiseDivergence'?",
        'model.distill.fpn.loss.perturbation.drop_rat=0.1: DropoutPerturbation has no such '
        "argument; did you mean 'drop_rate'?"]),
    'key of a task': (SEG, ['model.distill.logits.adaptor=None'], [
        "model.distill.logits.adaptor=None: a task has no such key; did you mean 'adapter'?"]),
    'argument of the distiller': (DET, ['model.teacher_chpt=None'], [
        "model.teacher_chpt=None: AvatarDistiller has no such argument; did you mean "
        "'teacher_ckpt'"]),
    'type of the model': (DET, ['model.type=AvatarDistiler'], [
        "model.type='AvatarDistiler': not registered; did you mean 'AvatarDistiller' "
        "or 'PeerDistiller'?"]),
    'type of a value': (SEG, ['model.distill.logits.loss.criterion=3'], [
        'model.distill.logits.loss.criterion=3: must be dict']),
    'published weights': (DET, ['model.teacher_ckpt=auto'], [
        "model.teacher_ckpt='auto': only a 'mmdet::...' or 'mmseg::...' teacher has published"]),
    'hook': (DET, ['default_hooks.perturbation.mode=linaer'], [
        "default_hooks.perturbation.mode='linaer': did you mean 'linear'?"]),
    'task of a hook': (DET, ['default_hooks.perturbation.type=DistillationScheduleHook',
                             'default_hooks.perturbation.tasks=[fp]'], [
        "DistillationScheduleHook.tasks=['fp']: the model has no task 'fp'; did you mean 'fpn'?"]),
    'hook and loop': (SEG, ['default_hooks.perturbation.by_epoch=True'], [
        'PerturbationHook.by_epoch=True: this training counts iterations']),
    'classes': (SEG, ['model.student.decode_head.num_classes=8'], [
        'model.student.decode_head.num_classes=8: the data set (train_dataloader) has 7 classes; '
        'set 7']),
    'class lists': (DET, ['train_dataloader.dataset.metainfo.classes=[disk,ring]'], [
        'val_dataloader.dataset.metainfo.classes: not those of train_dataloader: 6 classes there, '
        '2 here',
        'model.student.bbox_head.num_classes=6: the data set (train_dataloader) has 2 classes']),
    'palette': (DET, ['train_dataloader.dataset.metainfo.palette=[[1,2,3]]'], [
        'train_dataloader.dataset.metainfo.palette: 1 colours for 6 classes']),
    'imports': (DET, ['custom_imports=None'], [
        'custom_imports: missing, so the scripts of mmdet and mmseg do not know']),
    'scope': (DET, ['default_scope=mmdte'], [
        "default_scope='mmdte': no such package; did you mean 'mmdet'"]),
    'real detector': (RETINANET, ['model.teacher=mmdet::retinanet/retinanet_r101_fpn_2x_coc.py',
                                  'model.distill.fpn.tap=nek',
                                  'default_hooks.perturbation.type=PerturbatonHook'], [
        "model.teacher='mmdet::retinanet/retinanet_r101_fpn_2x_coc.py': mmdet ships no such "
        "config; did you mean 'retinanet/retinanet_r101_fpn_2x_coco.py'",
        "default_hooks.perturbation.type='PerturbatonHook': not registered; did you mean "
        "'PerturbationHook'"]),
    # MMEngine's, mmdet's and mmseg's: the part, the builder's own words, the nearest name.
    'argument of a network': (DET, ['model.student.bbox_head.numclasses=6'], [
        "model.student.type='RetinaNet': cannot be built: TypeError: AnchorHead.__init__() got an "
        "unexpected keyword argument 'numclasses'; did you mean 'num_classes'?"]),
    'depth': (SEG, ['model.student.backbone.depth=19'], [
        "model.student.type='EncoderDecoder': cannot be built: KeyError: invalid depth 19"]),
    'channels inside a network': (DET, ['model.student.neck.in_channels=[8,16,32,65]'], [
        'model.student: fails on a small image: RuntimeError']),
    'data set': (DET, ['train_dataloader.dataset.type=CocoDatset'], [
        'train_dataloader: KeyError: CocoDatset is not in the mmdet::dataset registry; did you '
        "mean 'CocoDataset'"]),
    'transform': (DET, ['train_dataloader.dataset.pipeline.2.scal=3',
                        'val_dataloader.dataset.pipeline.0.type=LoadImageFromFil'], [
        'train_dataloader: TypeError: Resize.__init__() got an unexpected keyword argument '
        "'scal'; did you mean 'scale'?",
        'val_dataloader: KeyError: LoadImageFromFil is not in the mmdet::transform registry; did '
        "you mean 'LoadImageFromFile'"]),
    'sampler': (DET, ['train_dataloader.sampler.shufle=True'], [
        'train_dataloader: TypeError: DefaultSampler.__init__() got an unexpected keyword '
        "argument 'shufle'; did you mean 'shuffle'?"]),
    'dataloader': (DET, ['train_dataloader.batchsize=4'], [
        'train_dataloader: TypeError: DataLoader.__init__() got an unexpected keyword argument '
        "'batchsize'"]),
    'evaluator': (DET, ['val_evaluator.metric=bbxo', 'test_evaluator.type=CocoMetrics'], [
        "val_evaluator: KeyError: metric should be one of 'bbox'",
        'test_evaluator: KeyError: CocoMetrics is not in the mmdet::metric registry; did you mean '
        "'CocoMetric'"]),
    'loops': (DET, ['train_cfg.max_epoch=3', 'val_cfg.type=ValLop'], [
        'train_cfg: TypeError: EpochBasedTrainLoop.__init__() got an unexpected keyword argument '
        "'max_epoch'; did you mean 'max_epochs'?",
        'val_cfg: KeyError: ValLop is not in the mmdet::loop registry; did you mean']),
    'all or none': (DET, ['val_cfg=None'], [
        'config: ValueError: val_dataloader, val_cfg, and val_evaluator should be either all']),
    'optimizer': (SEG, ['optim_wrapper.optimizer.lr=-1'], [
        'optim_wrapper: ValueError: Invalid learning rate: -1']),
    'type of the optimizer': (DET, ['optim_wrapper.optimizer.type=SGDD'], [
        "optim_wrapper.optimizer.type='SGDD': not registered; did you mean 'SGD'"]),
    'wrapper': (DET, ['optim_wrapper.clip_gard.max_norm=1'], [
        'optim_wrapper: TypeError: OptimWrapper.__init__() got an unexpected keyword argument '
        "'clip_gard'; did you mean 'clip_grad'?"]),
    'scheduler': (DET, ['param_scheduler.1.type=CosineAnealingLR'], [
        'param_scheduler: KeyError: CosineAnealingLR is not in the']),
    'step of a scheduler': (DET, ['param_scheduler.1.eta_min=[]'], [
        'param_scheduler: TypeError: unsupported operand']),
    'hooks of MMEngine': (DET, ['default_hooks.checkpoint.intervall=2',
                                'default_hooks.visualization.type=DetVisualizationHok'], [
        "default_hooks.checkpoint: TypeError: got an unexpected keyword argument 'intervall'",
        "default_hooks.visualization.type='DetVisualizationHok': not registered; did you mean "
        "'DetVisualizationHook'"]),
    'visualizer': (DET, ['visualizer.type=DetLocalVisualiser'], [
        'visualizer: KeyError: DetLocalVisualiser is not in the mmdet::visualizer registry; did '
        "you mean 'DetLocalVisualizer'"]),
    'small keys': (DET, ['randomness.sed=1', 'log_processor.by_epochs=True'], [
        "randomness: TypeError: Runner.set_randomness() got an unexpected keyword argument 'sed'",
        'log_processor: TypeError: LogProcessor.__init__() got an unexpected keyword argument '
        "'by_epochs'; did you mean 'by_epoch'?"]),
    'wrong types of values': (SEG, [
        'train_dataloader=3', 'optim_wrapper=3', 'param_scheduler=3', 'custom_hooks=3',
        'default_hooks=3', 'visualizer=3', 'train_cfg=3', 'val_evaluator=3', 'log_processor=3',
        'randomness=3', 'auto_scale_lr=3'], [
        f'{key}: ' for key in (
            'train_dataloader', 'optim_wrapper', 'custom_hooks', 'default_hooks', 'visualizer',
            'train_cfg', 'val_evaluator', 'log_processor', 'randomness', 'auto_scale_lr')]),
}


@pytest.mark.parametrize(('config', 'options', 'expected'), BROKEN.values(), ids=BROKEN)
def test_each_problem_names_its_key_and_what_would_be_right(check, config, options, expected):
    status, output = check(config, *options)
    found = problems(output)
    assert status == 1
    assert len(found) == len(expected)
    for start in expected:
        assert any(problem.startswith(start) for problem in found), (start, found)


def test_problems_everywhere_are_reported_together(check, child):
    # In the model, in the data, in the schedule, in a hook, and a misspelt key.
    path = child(DET, "custom_hook = [dict(type='EMAHook')]", """model = dict(
        student=dict(backbone=dict(type='ResNett')), teacher_precision='float8')""",
                 "val_dataloader = dict(dataset=dict(typ='CocoDataset'))",
                 "optim_wrapper = dict(optimizer=dict(type='AdamX'))")
    status, output = check(path, "default_hooks.logger.type='LogerHook'")
    assert status == 1
    starts = [problem.split('=')[0].split(': ')[0] for problem in problems(output)]
    assert starts == ['custom_hook', 'model.student.type', 'model.teacher_precision',
                      'val_dataloader', 'optim_wrapper.optimizer.type',
                      'default_hooks.logger.type']


@pytest.mark.parametrize(('misspelt', 'right'), [
    ('modle', 'model'), ('train_datalaoder', 'train_dataloader'), ('custom_hook', 'custom_hooks'),
    ('optim_wraper', 'optim_wrapper'), ('parm_scheduler', 'param_scheduler'),
    ('defualt_hooks', 'default_hooks'), ('evn_cfg', 'env_cfg')])
def test_misspelt_top_level_key(check, child, misspelt, right):
    status, output = check(child(DET, f'{misspelt} = dict(a=1)'))
    assert status == 1
    assert problems(output) == [f'{misspelt}: the Runner does not know this key and ignores it; '
                                f'did you mean {right!r}?']


def test_own_variables_are_no_problem(check, child):
    assert check(child(DET, 'train_pipeline = []', 'norm_cfg = dict()', 'mode = 3',
                       'val_evaluator_2 = None', 'num_classes = 6'))[0] == 0


@pytest.mark.parametrize(('text', 'expected'), [
    ('a = dict(b=1\n', "config='child.py': SyntaxError: '(' was never closed"),
    ('a = 1\nb = foo\n', "config='child.py': NameError: name 'foo' is not defined"),
    ("_base_ = 'chidl2.py'\n", 'chidl2.py'),
    ("custom_imports = dict(imports=['mmakdd'])\n", 'ImportError: Failed to import'),
])
def test_unreadable_config_is_one_line(check, workspace, text, expected):
    (workspace / 'child.py').write_text(text)
    (workspace / 'child2.py').write_text('')
    status, output = check('child.py')
    assert status == 1
    assert len(problems(output)) == 1 and expected in problems(output)[0]


def test_missing_config_suggests_its_neighbours(check):
    status, output = check(ROOT / 'configs/det/toy/akd-cwd_retinanet_shape.py')
    assert status == 1
    assert "did you mean 'akd-cwd_retinanet_shapes.py'" in problems(output)[0]


def kinds():
    """List configs of every kind: all toy ones, and a real one of each kind of distillation."""
    toys = sorted(ROOT.glob('configs/*/toy/*.py'))
    real = ['det/*/akd-*cascade*.py', 'det/reppoints/akd-*.py', 'det/rtmdet/akd-*.py',
            'det/retinanet/maskd-tokens*r101*.py', 'seg/segformer/akd-*.py']
    return [*toys, PSPNET, *(sorted(ROOT.glob(f'configs/{name}'))[0] for name in real)]


@pytest.mark.parametrize('path', kinds(), ids=lambda path: path.stem)
def test_sound_configs_pass_without_weights_data_or_network(check, workspace, path):
    (workspace / 'data').unlink()
    status, output = check(path)
    assert (status, problems(output)) == (0, [])
    assert output.endswith('No problem found.\n')
    assert 'the config names data that does not exist' in output
    assert 'FLOPs not measured' not in output
    assert not list(workspace.iterdir())


def test_the_report_on_a_detector(check):
    status, output = check(RETINANET)
    assert status == 0
    for row in (['student', 'RetinaNet', '37,968,692'], ['teacher', 'RetinaNet', '56,960,820']):
        assert any(line.split()[:3] == row for line in output.splitlines())
    levels = [line.split() for line in output.splitlines() if 'ConvAdapter' in line]
    assert levels == [
        [str(level), *f'256 x {size} x {size} 256 x {size} x {size}'.split(), 'ConvAdapter',
         f'{256 * 256 + 256:,}', '0'] for level, size in enumerate((16, 8, 4, 2, 1))]
    flat = ' '.join(output.split())
    assert ('Task fpn at neck UncertaintyFeatureLoss(ChannelWiseDivergence, DropoutPerturbation '
            'x 1, AvatarVariance), weight 7.5') in flat
    assert 'classes train data 80, val data 80, student 80, teacher 80' in flat
    assert ('batch 2 images x 1 GPU = 2; the learning rate is meant for 16 '
            '(auto_scale_lr.base_batch_size), so for 8 GPUs') in flat
    assert 'images student and teacher prepare them alike' in flat
    assert ('an estimate, from the FLOPs of the teacher to its deepest tap (5.65 G) and of '
            'adapters, losses and Avatars (0.13 G) against three times') in flat
    weights = next(line for line in output.splitlines() if line.startswith("teacher's weights"))
    assert 'https://' in weights and weights.endswith('; fetched when training starts)')


def test_the_report_fits_80_columns(check, workspace):
    output = check(DET, 'model.student.data_preprocessor.mean=[0,0,0]')[1]
    # An address and the list of findings are kept in one piece, to be copied.
    lines = output.split('warning')[0].splitlines()
    assert max(len(line) for line in lines if not line.startswith("teacher's weights")) <= 80


def test_unlike_images_are_shown(check):
    output = check(SEG, 'model.student.data_preprocessor.mean=[0,0,0]',
                   'model.student.data_preprocessor.bgr_to_rgb=False',
                   'model.student.data_preprocessor.size_divisor=32')[1]
    rows = [' '.join(line.split()) for line in output.splitlines()]
    assert 'mean 0, 0, 0 123.675, 116.28, 103.53' in rows
    assert 'channels as read swapped (BGR to RGB)' in rows
    assert 'padding to multiples of 32 to multiples of 8' in rows
    assert not any(row.startswith('std') for row in rows)
    assert 'the teacher gets its own mean, std and channel order' in ' '.join(output.split())


def test_several_teachers(check, child):
    status, output = check(child(
        DET, "model = dict(teacher_ckpt='auto', teacher=dict(_delete_=True,",
        f"    big=dict(cfg={str(ROOT / 'configs/det/toy/teacher_retinanet_shapes.py')!r},",
        "             ckpt='gone.pth'),",
        f"    other=dict(cfg={str(ROOT / 'configs/seg/toy/teacher_pspnet_shapes.py')!r},",
        '               ckpt=None)),',
        "    distill=dict(fpn=dict(teacher='big'), early=dict(",
        "        tap='backbone.layer1', teacher='other', loss=dict(type='FeatureMSELoss'))))"))
    assert status == 0
    rows = [' '.join(line.split()) for line in output.splitlines()]
    text = ' '.join(rows)
    big, other = (next(row for row in rows if row.startswith(f'teacher.{name} '))
                  for name in ('big', 'other'))
    assert big.split()[1] == 'RetinaNet' and other.split()[1] == 'EncoderDecoder'
    assert 'Task fpn at neck of student and teacher.big' in rows
    assert 'Task early at backbone.layer1 of student and teacher.other' in rows
    assert "teacher.big's weights: gone.pth (no such file yet)" in rows
    assert "teacher.other's weights: random" in rows
    cost = re.search(r'from the FLOPs of each teacher to its deepest tap '
                     r'\(([0-9.]+) \+ ([0-9.]+) = ([0-9.]+) G\)', text)
    first, second, total = map(float, cost.groups())
    assert first > 0 and second > 0 and total == pytest.approx(first + second, abs=0.011)
    assert 'images of teacher.big student and teacher prepare them alike' in text
    assert 'teacher.big 6' in text and 'teacher.other 7' in text
    for warning in (
            "model.teacher.big.ckpt='gone.pth': no such file yet",
            'model.teacher.other.ckpt=None: the teacher keeps random weights',
            'model.teacher.other.cfg.decode_head.num_classes=7: '):
        assert warning in text


def test_data_that_is_there_is_no_warning(check):
    output = check(DET)[1]
    assert 'does not exist' not in output
    assert '1 warning:' in output  # the teacher is not trained yet


def test_average_of_the_student_as_teacher(check):
    for config in (SEG, DET):
        status, output = check(config.with_name(config.name.replace('akd-cwd', 'meanteacher')))
        assert (status, problems(output)) == (0, [])
        assert "teacher's weights: the student's, averaged in training\n" in output
        assert 'warning' not in output


@pytest.mark.parametrize(('flags', 'options', 'status', 'expected'), [
    (['--no-download'], [], 0, ''),
    (['--no-download', '--gpus', '1'], [], 0, ''),
    (['--no-download', '--gpus', '2'], [], 0,
     'a step takes 16 images; train with --auto-scale-lr, or multiply the learning rate by 2'),
    (['--no-download', '--gpus', '2'], ['train_dataloader.batch_size=4'], 0, ''),
    (['--no-download', '--gpus', '2'],
     ['train_dataloader.batch_size=2', 'optim_wrapper.accumulative_counts=2'], 0, ''),
    (['--no-download', '--gpus', '2'], ['auto_scale_lr.enable=True'], 0, ''),
    ([], [], 1, ''),
])
def test_batch_and_missing_weights(check, flags, options, status, expected):
    found, output = check(DET, *options, flags=flags)
    assert found == status
    assert ('auto_scale_lr.base_batch_size=8' in output) == bool(expected)
    assert expected in output
    # A teacher that is not trained yet is a problem only where its weights are asked for.
    assert ("model.teacher_ckpt='work_dirs" in ' '.join(problems(output))) == (status == 1)


@pytest.fixture
def teacher_checkpoint(workspace):
    """Save the weights of the toy teacher: ``save(path, change, **dataset_meta)``."""

    def save(path, change=None, **dataset_meta):
        cfg = resolve_model(str(ROOT / 'configs/det/toy/teacher_retinanet_shapes.py'))
        state = MODELS.build(cfg).state_dict()
        if change:
            change(state)
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(dict(state_dict=state, meta=dict(dataset_meta=dataset_meta)), path)
        return path

    return save


SHAPES = ('disk', 'ladybird', 'ring', 'crate', 'pennant', 'star')


def test_weights_that_fit(check, teacher_checkpoint, workspace):
    classes = dict(classes=SHAPES, palette=Config.fromfile(DET).metainfo.palette)
    path = teacher_checkpoint(workspace / 'teacher.pth', **classes)
    status, output = check(DET, f'model.teacher_ckpt={path}')
    assert status == 0
    assert f"teacher's weights: {path} (fits)" in output
    assert 'warning' not in output
    assert "teacher's checkpoint 6" in ' '.join(output.split())


def test_weights_of_another_network(check, teacher_checkpoint, workspace):

    def change(state):
        state['neck.extra'] = state.pop('bbox_head.retina_cls.weight')
        state['bbox_head.retina_cls.bias'] = torch.zeros(3)

    path = teacher_checkpoint(workspace / 'teacher.pth', change)
    status, output = check(DET, f'model.teacher_ckpt={path}')
    assert status == 1
    assert problems(output) == [
        f"model.teacher_ckpt='{path}': does not fit the teacher (RetinaNet): 1 keys missing: "
        'bbox_head.retina_cls.weight; 1 keys unexpected: neck.extra; 1 keys of another shape: '
        'bbox_head.retina_cls.bias (3,) instead of (54,). Name the checkpoint of this very '
        'config, or set teacher_strict=False to load what fits']
    status, output = check(DET, f'model.teacher_ckpt={path}', 'model.teacher_strict=False')
    assert status == 0
    assert '1 keys unexpected: neck.extra' in output


@pytest.mark.parametrize(('meta', 'expected'), [
    (dict(classes=SHAPES[:5]), 'its classes are not those of train_dataloader: 5 classes there, '
     '6 here'),
    (dict(classes=(*SHAPES[:5], 'moon')), "class 5 is 'moon' there, 'star' here"),
    (dict(classes=SHAPES, palette=[(0, 0, 0)] * 6), 'its palette is not that of the data set'),
])
def test_weights_of_other_classes(check, teacher_checkpoint, workspace, meta, expected):
    path = teacher_checkpoint(workspace / 'teacher.pth', **meta)
    status, output = check(DET, f'model.teacher_ckpt={path}')
    assert status == 0
    assert expected in output


def test_cached_weights_are_checked_without_download(check, teacher_checkpoint, workspace):
    path = workspace / 'hub/checkpoints/teacher.pth'
    teacher_checkpoint(path, lambda state: state.pop('neck.fpn_convs.0.conv.weight'))
    status, output = check(DET, 'model.teacher_ckpt=https://example.com/teacher.pth')
    assert status == 1
    assert '1 keys missing: neck.fpn_convs.0.conv.weight' in problems(output)[0]


MASKD = ROOT / 'configs/det/toy/maskd_retinanet_shapes.py'


def test_learned_tokens(check):
    tokens = "model.distill.fpn.loss.tokens='work_dirs/maskd-tokens_retinanet_shapes/epoch_2.pth'"
    status, output = check(MASKD)
    assert status == 0
    assert f'{tokens}: no such file yet; learn the tokens first' in output
    status, output = check(MASKD, flags=[])
    assert status == 1
    assert [problem.split('=')[0] for problem in problems(output)] == [
        'model.distill.fpn.loss.MasKDLoss.tokens', 'model.teacher_ckpt']
    status, output = check(MASKD, 'model.distill.fpn.loss.tokens=None')
    assert status == 1
    assert 'MasKD needs learned tokens' in problems(output)[0]


def test_top_level_preprocessor_reaches_the_model_as_in_the_runner(check, child):
    status, output = check(child(
        DET, "data_preprocessor = dict(type='DetDataPreprocesor')",
        "model = dict(_delete_=True, type='RetinaNet', backbone=dict(type='ResNet', depth=18), "
        "neck=None, bbox_head=dict(type='RetinaHead', num_classes=6, in_channels=512))",
        'default_hooks = dict(perturbation=None)'))
    assert status == 1
    assert [problem.split(' or ')[0].rstrip('?') for problem in problems(output)] == [
        'model: KeyError: DetDataPreprocesor is not in the mmdet::model registry; did you mean '
        "'DetDataPreprocessor'"]


def test_what_differs_from_the_students_own_config_is_listed(check, workspace):
    from mmakd.utils.references import find_config
    base = find_config('mmdet::yolox/yolox_tiny_8xb8-300e_coco.py')
    path = workspace / 'mine.py'
    path.write_text(f"""_base_ = {str(base)!r}
custom_imports = dict(imports=['mmakd'], allow_failed_imports=False)
model = dict(_delete_=True, type='AvatarDistiller',
    student='mmdet::yolox/yolox_tiny_8xb8-300e_coco.py',
    teacher='mmdet::yolox/yolox_s_8xb8-300e_coco.py', teacher_ckpt=None,
    distill=dict(fpn=dict(tap='neck', loss=dict(type='PKDLoss'))))
""")
    status, output = check(path)
    assert status == 0 and "Different from the student's own config" not in output
    with path.open('a') as file:
        file.write("""custom_hooks = [dict(type='EMAHook')]
optim_wrapper = dict(optimizer=dict(lr=0.02))
train_dataloader = dict(batch_size=4)
""")
    status, output = check(path)
    assert status == 0
    rows = [' '.join(line.split()) for line in output.splitlines()]
    title = rows.index("Different from the student's own config:")
    assert 'optim_wrapper.optimizer.lr 0.01 0.02' in rows[title:]
    assert 'train_dataloader.batch_size 8 4' in rows[title:]
    lost = [row for row in rows[title:] if row.startswith('hooks ')]
    assert len(lost) == 2 and 'YOLOXModeSwitchHook' in lost[0] and 'SyncNormHook' in lost[1]


def test_download_is_tried_where_it_is_allowed(check):
    status, output = check(DET, 'model.teacher_ckpt=https://example.com/teacher.pth', flags=[])
    assert status == 1
    assert problems(output) == ['model: AssertionError: reaches for the network']


@pytest.mark.parametrize(('arguments', 'status', 'expected'), [
    ([DET, '--no-download'], 0, 'No problem found.'),
    ([DET, '--no-download', '--cfg-options', 'model.distill.fpn.tap=nek'], 1,
     "did you mean 'neck'?"),
    ([DET, '--no-downlod'], 2, 'unrecognized arguments: --no-downlod'),
    ([DET, '--gpus', '0'], 2, '--gpus must be positive'),
    (['--help'], 0, 'example:'),
])
def test_as_a_command(script, arguments, status, expected):
    done = script(sys.executable, TOOL, *arguments, check=False)
    assert done.returncode == status
    assert expected in done.stdout
    assert 'Traceback' not in done.stdout
