"""tools/evaluate_avatars.py on the toy detector and segmentor, with a teacher's checkpoint."""
import json
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner, save_checkpoint
from mmseg.models.utils import resize

from avatar_scores.evaluation import build_subject
from avatar_scores.logits import find_logits
from avatar_scores.predictions import Variant, predict
from mmakd.utils.errors import ConfigError
from mmakd.utils.references import resolve_model
from tests.metrics.formulas import numpy_ece

ROOT = Path(__file__).parents[2]
TOOL = ROOT / 'tools/evaluate_avatars.py'
CONFIG = {'det': ROOT / 'configs/det/toy/akd-cwd_retinanet_shapes.py',
          'seg': ROOT / 'configs/seg/toy/akd-cwd_pspnet_shapes.py'}
TAP = {'det': 'bbox_head.retina_cls', 'seg': 'decode_head.conv_seg'}
LOSS = {'det': 'model.distill.fpn.loss', 'seg': 'model.distill.logits.loss'}

NOISE = ('_delete_=True', 'type=GaussianNoisePerturbation', 'std=0.1')


@pytest.fixture
def checkpoint(model, workspace):
    """Save a teacher whose logits differ from place to place: ``checkpoint('det')``."""

    def save(task, bias=0):
        teacher = model(task, 'teacher')
        path = workspace / f'{task}.pth'
        layer = teacher.get_submodule(TAP[task])
        torch.nn.init.normal_(layer.weight, std=0.3 if task == 'seg' else 0.1)
        torch.nn.init.constant_(layer.bias, bias)
        save_checkpoint(dict(state_dict=teacher.state_dict()), str(path))
        return path

    return save


def options(task, *more):
    tap = [f'model.distill.fpn.tap={TAP[task]}'] if task == 'det' else []
    return ['--cfg-options', 'val_dataloader.batch_size=5', *tap, *more]


@pytest.fixture
def evaluate(workspace, capsys):
    """Run the tool in this process: ``results, output = evaluate(config, argument, ...)``."""
    import evaluate_avatars

    def run(*arguments):
        evaluate_avatars.main([*map(str, arguments), '--out', 'results/found.json'])
        return json.loads(Path('results/found.json').read_text()), capsys.readouterr().out

    return run


def noise(task):
    return [f'{LOSS[task]}.perturbation.{change}' for change in NOISE]


def batches(cfg):
    return Runner.build_dataloader(dict(cfg.val_dataloader, batch_size=5), seed=0)


@pytest.mark.parametrize(('reference', 'expected'), [
    ('mmdet::gfl/gfl_r50_fpn_1x_coco.py', ['bbox_head.gfl_cls']),
    ('mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py', ['bbox_head.conv_cls']),
    ('mmdet::rtmdet/rtmdet_s_8xb32-300e_coco.py', [f'bbox_head.rtm_cls.{i}' for i in range(3)]),
    ('mmdet::reppoints/reppoints-moment_r50_fpn_1x_coco.py', ['bbox_head.reppoints_cls_out']),
    ('mmdet::yolo/yolov3_d53_8xb8-320-273e_coco.py', []),  # classes and boxes in one layer
    ('mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py', []),
    ('mmseg::ocrnet/ocrnet_hr18_4xb2-40k_cityscapes-512x1024.py', ['decode_head.1.conv_seg']),
])
def test_logits_of_many_networks(reference, expected):
    init_default_scope(reference.split(':')[0])
    cfg = resolve_model(reference)
    heads = {}
    for name in {'bbox_head', 'decode_head'} & set(cfg):
        parts = cfg[name] if isinstance(cfg[name], list) else [cfg[name]]
        built = [MODELS.build(part) for part in parts]
        heads[name] = torch.nn.ModuleList(built) if len(built) > 1 else built[0]
    assert list(find_logits(torch.nn.ModuleDict(heads))) == expected


@pytest.mark.parametrize('task', ['det', 'seg'])
def test_the_teachers_row_is_its_own_score(evaluate, toy, checkpoint, task):
    path = checkpoint(task)
    results, _ = evaluate(CONFIG[task], path, '--rates', 0.3, '--num-avatars', 2, *options(task))
    cfg = toy(task, 'teacher', load_from=str(path))
    cfg.test_dataloader.batch_size = 5
    runner = Runner.from_cfg(cfg)
    metrics = runner.test()
    teacher, *others = results['rows']
    assert teacher['metrics'] == pytest.approx(metrics)
    assert results['main_metric'] in metrics
    assert [(row['perturbed'], row['num_avatars']) for row in others] == [
        ('tap', 1), ('tap', 2), ('upstream', 1), ('upstream', 2)]
    # Every kind of Avatar changes the prediction, and each in another way.
    assert len({row['nll'] for row in results['rows']}) == 5
    with torch.no_grad():
        samples = [sample for batch in runner.test_dataloader
                   for sample in runner.model.test_step(batch)]
    if task == 'seg':
        truth = torch.stack([sample.gt_sem_seg.data[0] for sample in samples])
        logits = torch.stack([sample.seg_logits.data for sample in samples])
        expected = torch.nn.functional.cross_entropy(logits, truth.long(), ignore_index=255)
        confidence, best = logits.softmax(1).max(1)
        ece = numpy_ece(confidence.numpy(), (best == truth).numpy())
        assert teacher['nll'] == pytest.approx(float(expected), rel=1e-5)
        assert teacher['ece'] == pytest.approx(ece, rel=1e-5)
        assert teacher['predictions'] == 8 * 64 * 64
    else:
        assert teacher['predictions'] == sum(len(sample.pred_instances) for sample in samples) > 0


@pytest.mark.parametrize(('task', 'perturb_at'), [
    ('det', None), ('det', 'bbox_head'), ('seg', None), ('seg', 'decode_head')])
def test_rate_zero_is_the_teacher_exactly(evaluate, checkpoint, task, perturb_at):
    more = ['--perturb-at', perturb_at] if perturb_at else []
    for changes in [], noise(task):
        results, _ = evaluate(CONFIG[task], checkpoint(task), '--rates', 0, '--num-avatars', 3,
                              *more, *options(task, *changes))
        assert results['rate'] == ('std' if changes else 'drop_rate')
        assert results['perturb_at'] == (perturb_at or TAP[task])
        teacher, *others = [{key: row[key] for key in ('metrics', 'nll', 'ece', 'predictions')}
                            for row in results['rows']]
        assert len(others) == 4 and all(row == teacher for row in others)


def test_many_noisy_avatars_tend_to_the_teacher(evaluate, checkpoint):
    path = checkpoint('seg')
    results, _ = evaluate(CONFIG['seg'], path, '--rates', 5, '--num-avatars', 64,
                          *options('seg', *noise('seg')))
    teacher, one, mean = results['rows'][:3]
    assert abs(one['nll'] - teacher['nll']) > 0.05
    # The deviation of the mean is an eighth; the loss grows with its square.
    assert abs(mean['nll'] - teacher['nll']) < 0.05 * abs(one['nll'] - teacher['nll'])


@pytest.fixture
def subject(checkpoint):
    """Build what is evaluated: ``cfg, subject = subject('seg', perturb_at=...)``."""

    def build(task, **arguments):
        cfg = Config.fromfile(CONFIG[task])
        if task == 'det':
            cfg.model.distill.fpn.tap = TAP[task]
        return cfg, build_subject(cfg, str(checkpoint(task)), **arguments)

    return build


def test_avatars_are_made_at_the_tap_and_upstream(subject):
    cfg, of = subject('seg')
    network, perturbation = of.teacher.network, of.with_rate(0.3)
    batch = next(iter(batches(cfg)))
    found = dict(predict(network, of.pair, {0.3: perturbation}, 3, batch, 7))
    images = network.data_preprocessor(batch)['inputs']
    seen = []
    handle = network.decode_head.conv_seg.register_forward_pre_hook(
        lambda module, args: seen.append(args[0]))
    teacher = network(images, mode='tensor')
    handle.remove()
    avatars = dict(tap=[], upstream=[])
    for place, of_place in avatars.items():
        generator = torch.Generator().manual_seed(7)
        for _ in range(3):
            of_place.append(
                perturbation(teacher, generator) if place == 'tap' else
                network.decode_head.conv_seg(perturbation(seen[0], generator)))
    expected = {Variant(): teacher}
    for place, of_place in avatars.items():
        expected[Variant(place, 0.3, 1)] = of_place[0]
        expected[Variant(place, 0.3, 3)] = torch.stack(of_place).mean(0)
    assert set(found) == set(expected)
    for variant, samples in found.items():
        logits = resize(expected[variant], size=(64, 64), mode='bilinear', align_corners=False)
        torch.testing.assert_close(torch.stack([sample.seg_logits.data for sample in samples]),
                                   logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('task', ['det', 'seg'])
def test_backbone_and_neck_run_once_and_nothing_stays(subject, task):
    cfg, of = subject(task, perturb_at=TAP[task].split('.')[0])
    network, runs = of.teacher.network, []
    before = [dict(vars(module)) for module in network.modules()]
    handle = network.backbone.register_forward_hook(lambda *args: runs.append(args))
    variants = list(predict(network, of.pair, {0.1: of.with_rate(0.1), 0.2: of.with_rate(0.2)}, 2,
                            next(iter(batches(cfg))), 0))
    handle.remove()
    assert len(variants) == 9 and len(runs) == 1
    assert [vars(module).keys() for module in network.modules()] == [
        module.keys() for module in before]
    assert not any(module._forward_hooks for module in network.modules())


def test_sliding_windows_are_replaced_in_their_order(subject):
    cfg, of = subject('seg')
    network = of.teacher.network
    network.test_cfg.update(mode='slide', crop_size=(48, 48), stride=(16, 16))
    found = list(predict(network, of.pair, {0.0: of.with_rate(0)}, 2,
                         next(iter(batches(cfg))), 0))
    logits = [torch.stack([sample.seg_logits.data for sample in samples]) for _, samples in found]
    assert len(found) == 5 and all(one.equal(logits[0]) for one in logits)


def test_results_repeat_with_the_seed(evaluate, checkpoint):
    path = checkpoint('seg')
    rows = [evaluate(CONFIG['seg'], path, '--rates', 0.3, '--num-avatars', 2, '--seed', seed,
                     *options('seg'))[0]['rows'] for seed in (0, 0, 1)]
    assert rows[0] == rows[1] and rows[0][0] == rows[2][0]
    assert all(one['nll'] != other['nll'] for one, other in zip(rows[0][1:], rows[2][1:]))


def test_the_table(evaluate):
    results, output = evaluate(CONFIG['seg'], '--rates', 0.1, '--num-avatars', 2, *options(
        'seg', 'model.teacher_ckpt=None'))
    lines = [line.split() for line in output.splitlines()]
    assert ['prediction', 'perturbed', 'drop_rate', 'mIoU', 'NLL', 'ECE'] in lines
    teacher, *_, last = results['rows']
    assert ['teacher', f'{teacher["metrics"]["mIoU"]:g}', f'{teacher["nll"]:.4f}',
            f'{teacher["ece"]:.4f}'] in lines
    assert ['mean', 'of', '2', 'Avatars', 'upstream', '0.1', f'{last["metrics"]["mIoU"]:g}',
            f'{last["nll"]:.4f}', f'{last["ece"]:.4f}'] in lines
    better = sum(row['nll'] < teacher['nll'] for row in results['rows'] if row['num_avatars'] == 2)
    assert 'Of 2 means of 2 Avatars are better than the teacher:' in output
    assert f', {better} in NLL,' in output
    assert 'random weights' in output and results['checkpoint'] is None
    assert set(results['versions']) == {'mmakd', 'torch', 'mmengine', 'mmcv', 'mmdet', 'mmseg'}
    assert results['config'] == 'akd-cwd_pspnet_shapes.py'


def test_a_detector_that_finds_nothing(evaluate, checkpoint):
    results, output = evaluate(CONFIG['det'], checkpoint('det', bias=-10), '--rates', 0.1,
                               '--num-avatars', 2, *options('det'))
    assert all(row['nll'] is row['ece'] is None for row in results['rows'])
    assert 'none can be compared' in output


TWO = ('model.distill.other.tap=decode_head.conv_seg',
       'model.distill.other.loss.type=KLDivergence')
NO_CKPT = 'model.teacher_ckpt=None'
REFUSED = {
    'neck': ('det', [], [NO_CKPT, 'model.distill.fpn.tap=neck'],
             "model.distill.fpn.tap='neck': not at logits, and Avatars are evaluated at logits "
             "only; tap e.g. 'bbox_head.retina_cls'"),
    'regression of a named task': ('det', ['--task', 'fpn'], [
        NO_CKPT, 'model.distill.fpn.tap=bbox_head.retina_reg'],
        "model.distill.fpn.tap='bbox_head.retina_reg': not at logits"),
    'regression': ('det', [], [NO_CKPT, 'model.distill.fpn.tap=bbox_head.retina_reg'],
                   "model.distill.fpn.tap='bbox_head.retina_reg': not at logits"),
    'backbone': ('seg', [], [NO_CKPT, 'model.distill.logits.tap=backbone'],
                 "model.distill.logits.tap='backbone': not at logits, .* 'decode_head.conv_seg'"),
    'two tasks': ('seg', [], [NO_CKPT, *TWO],
                  "--task: missing; several tasks tap logits, choose one of 'logits', 'other'"),
    'no Avatars': ('seg', ['--task', 'other'], [NO_CKPT, *TWO],
                   'model.distill.other.loss: makes no Avatars'),
    'unknown task': ('seg', ['--task', 'logit'], [NO_CKPT],
                     "--task='logit': no such task; did you mean 'logits'"),
    'wrong module': ('seg', ['--perturb-at', 'backbone'], [NO_CKPT],
                     "perturb_at='backbone': the teacher's tap 'decode_head.conv_seg' is not"),
    'rate': ('seg', ['--rates', '1'], [NO_CKPT], r'--rates=1.0: drop_rate of .* in \[0, 1\)'),
    'no checkpoint': ('seg', [], [], "model.teacher_ckpt='work_dirs/.*': no such file"),
    'classes': ('seg', [], [NO_CKPT, 'val_dataloader.dataset.metainfo.classes=[disk,ring]',
                            'val_dataloader.dataset.metainfo.palette=[[1,2,3],[4,5,6]]'],
                'model.teacher: its head has 7 classes, val_dataloader.dataset 2'),
    'no data': ('seg', [], ['val_dataloader.dataset.data_root=nowhere', 'model.distill=None'],
                r'(?s)does not exist.*model.distill=None: expected a dict'),
    'no validation': ('seg', [], [NO_CKPT, 'val_evaluator=None'], 'val_evaluator: missing'),
}


@pytest.mark.parametrize('case', REFUSED)
def test_refused(evaluate, case):
    task, arguments, changes, message = REFUSED[case]
    with pytest.raises(ConfigError, match=message):
        evaluate(CONFIG[task], '--num-avatars', 2, *arguments, *options(task, *changes))


def test_a_plain_config_has_no_teacher(evaluate):
    with pytest.raises(ConfigError, match=r"model.type='EncoderDecoder': has no teacher"):
        evaluate(ROOT / 'configs/seg/toy/student_pspnet_shapes.py')


@pytest.mark.parametrize(('arguments', 'status', 'expected'), [
    ([CONFIG['seg'], '--seed', '1', 'missing.pth'], 1,
     "error: model.teacher_ckpt='missing.pth': no such file; name an existing checkpoint"),
    ([CONFIG['seg'], '--num-avatars', '1'], 2, '--num-avatars must be at least 2'),
    (['--help'], 0, 'no better than\nits teacher has nothing to teach'),
])
def test_as_a_command(script, arguments, status, expected):
    done = script(sys.executable, TOOL, *arguments, check=False)
    assert done.returncode == status
    assert expected in done.stdout
    assert 'Traceback' not in done.stdout
