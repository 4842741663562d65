"""SegECE and DetECE in real validations, beside IoUMetric and CocoMetric."""
import textwrap
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.evaluator import Evaluator
from mmengine.fileio import load
from mmengine.registry import METRICS
from mmengine.runner import Runner, save_checkpoint

from mmakd.checks.preflight import check_before_training
from mmakd.metrics import DetECE, SegECE
from mmakd.metrics.calibration_bins import CalibrationBins
from mmakd.metrics.calibration_error import draw_reliability
from mmakd.utils.errors import ConfigError
from tests.metrics.formulas import numpy_ece, numpy_matches

ROOT = Path(__file__).parents[2]
METRIC = dict(det=dict(type='DetECE', num_bins=15, iou_thr=0.3),
              seg=dict(type='SegECE', num_bins=15))
MAIN = dict(det='coco/bbox_mAP', seg='mIoU')
NAME = dict(det='student_retinanet_shapes', seg='student_pspnet_shapes')


@pytest.fixture
def build(toy):
    """Build a Runner whose student predicts something: ``runner = build('det')``."""

    def run(task, name='student', **changes):
        cfg = toy(task, name, **changes)
        cfg.test_evaluator = cfg.val_evaluator = [cfg.val_evaluator, METRIC[task]]
        cfg.test_dataloader.batch_size = cfg.val_dataloader.batch_size = 3
        runner = Runner.from_cfg(cfg)
        torch.manual_seed(0)
        head = (runner.model.bbox_head.retina_cls if task == 'det' else
                runner.model.decode_head.conv_seg)
        torch.nn.init.normal_(head.weight, std=0.1 if task == 'det' else 1.0)
        torch.nn.init.zeros_(head.bias)
        return runner

    return run


def outcomes(task, samples):
    """Confidences of all predictions, and which are right, by NumPy."""
    confidence, correct = [], []
    for sample in samples:
        if task == 'seg':
            logits = sample.seg_logits.data.double().numpy()
            truth = sample.gt_sem_seg.data[0].numpy()
            softmax = np.exp(logits - logits.max(0))
            softmax /= softmax.sum(0)
            confidence.append(softmax.max(0)[truth != 255])
            correct.append((logits.argmax(0) == truth)[truth != 255])
        else:
            found, truth = sample.pred_instances, sample.gt_instances
            scores = found.scores.numpy()
            confidence.append(scores)
            correct.append(numpy_matches(found.bboxes.numpy(), found.labels.numpy(), scores,
                                         truth.bboxes.numpy(), truth.labels.numpy(), 0.3))
    return np.concatenate(confidence), np.concatenate(correct)


@pytest.mark.parametrize('task', ['det', 'seg'])
def test_it_is_the_formula_beside_the_main_metric(build, task):
    runner = build(task)
    if task == 'seg':
        # A border that is not labelled.
        val_step = runner.model.test_step

        def with_border(batch):
            samples = val_step(batch)
            for sample in samples:
                sample.gt_sem_seg.data[:, :5] = 255
            return samples

        runner.model.test_step = with_border
    metrics = runner.test()
    with torch.no_grad():
        samples = [sample for batch in runner.test_dataloader
                   for sample in runner.model.test_step(batch)]
    confidence, correct = outcomes(task, samples)
    assert len(confidence) == (8 * 59 * 64 if task == 'seg' else len(confidence)) > 100
    assert 0 < correct.sum() < len(correct)
    ece = metrics['calibration/ECE']
    assert ece == pytest.approx(numpy_ece(confidence, correct, 15), rel=1e-4)
    assert 0.05 < ece < 1
    assert MAIN[task] in metrics
    # An image leaves its sums only.
    metric = runner.test_evaluator.metrics[1]
    metric.process(None, [samples[0].to_dict()])
    assert [sums.shape for sums in metric.results] == [(3, 15)]


@pytest.mark.parametrize('task', ['det', 'seg'])
def test_a_training_logs_it_and_draws_the_diagram(build, task):
    # The scores of a detector that has just begun are low.
    low = {'model.student.test_cfg.score_thr': 0} if task == 'det' else {}
    runner = build(task, 'akd-cwd', **low)
    runner.train()
    (ece, ), _ = runner.message_hub.get_scalar('val/calibration/ECE').data
    assert 0 < ece < 1
    pictures = list(Path(runner.work_dir).rglob('calibration_reliability_*.png'))
    assert [path.name for path in pictures] == ['calibration_reliability_4.png']
    assert cv2.imread(str(pictures[0])).shape == (500, 400, 3)


def test_the_diagram_shows_the_bins():
    bins = {}
    for name, confidence, correct in (('student', [0.95, 0.1, 0.12], [1, 0, 1]),
                                      ('AKD', [0.3, 0.5], [1, 0])):
        bins[name] = CalibrationBins(10)
        bins[name].update(torch.tensor(confidence), torch.tensor(correct).bool())
    figure = draw_reliability(bins)
    diagram, shares = figure.axes
    diagonal, student, akd = diagram.lines
    np.testing.assert_allclose(diagonal.get_xydata(), [[0, 0], [1, 1]])
    np.testing.assert_allclose(student.get_xydata(), [[0.11, 0.5], [0.95, 1]])
    np.testing.assert_allclose(akd.get_xydata(), [[0.3, 1], [0.5, 0]])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        'student ECE 0.2767', 'AKD ECE 0.6000']
    values = [stairs.get_data().values for stairs in shares.patches]
    np.testing.assert_allclose(values, [[0, 2 / 3, 0, 0, 0, 0, 0, 0, 0, 1 / 3],
                                        [0, 0, 0, 0.5, 0, 0.5, 0, 0, 0, 0]])


@pytest.mark.parametrize('task', ['det', 'seg'])
def test_two_processes_and_one_give_the_same(task, build, workspace, script, monkeypatch,
                                             free_port):
    runner = build(task, **{'test_dataloader.dataset.indices': 7})
    save_checkpoint(dict(state_dict=runner.model.state_dict()), 'student.pth')
    alone = runner.test()['calibration/ECE']
    (workspace / 'config.py').write_text(textwrap.dedent(f"""
        _base_ = '{ROOT}/configs/{task}/toy/{NAME[task]}.py'
        custom_imports = dict(imports=['mmakd'], allow_failed_imports=False)
        test_dataloader = dict(dataset=dict(indices=7))
        test_evaluator = [_base_.test_evaluator, {METRIC[task]}]
    """))
    monkeypatch.setenv('PORT', free_port)
    # Of the seven images the last is one process's alone: the other's copy must not count.
    script('bash', ROOT / 'tools/dist_test.sh', 'config.py', 'student.pth', 2,
           '--work-dir', 'together')
    log, = (path for path in Path('together').glob('*/*.json'))
    assert load(log)['calibration/ECE'] == pytest.approx(alone, rel=1e-6)
    assert len(list(Path('together').rglob('calibration_reliability_0.png'))) == 1


def test_nothing_found_has_no_error(build):
    runner = build('det')
    torch.nn.init.constant_(runner.model.bbox_head.retina_cls.bias, -20)
    assert 'calibration/ECE' not in runner.test()


def test_without_a_runner(build):
    runner = build('seg')
    evaluator = Evaluator(SegECE(num_bins=5, prefix='own'))
    with torch.no_grad():
        for batch in runner.val_dataloader:
            evaluator.process(runner.model.val_step(batch), batch)
    assert 0 < evaluator.evaluate(8)['own/ECE'] < 1


@pytest.mark.parametrize('number', [0, -1, 2.5, '20', True, None])
def test_number_of_bins(number):
    for kind in 'SegECE', 'DetECE':
        with pytest.raises(ConfigError, match=r'^num_bins=.*: must be an integer >= 1, e\.g\. 20'):
            METRICS.build(dict(type=kind, num_bins=number))


@pytest.mark.parametrize('threshold', [0, -0.5, 1.01, float('nan'), '0.5', True])
def test_threshold(threshold):
    with pytest.raises(ConfigError, match=r'^iou_thr=.*: must be a number in \(0, 1\], e\.g\. 0'):
        DetECE(iou_thr=threshold)
    assert DetECE(iou_thr=1).iou_thr == 1


def test_both_are_told_before_training(toy):
    cfg = toy('det', 'student')
    cfg.val_evaluator = [cfg.val_evaluator, dict(type='DetECE', num_bins=0, iou_thr=2)]
    with pytest.raises(ConfigError) as error:
        check_before_training(cfg)
    assert [problem.split(':')[0] for problem in error.value.problems] == [
        'val_evaluator.num_bins=0', 'val_evaluator.iou_thr=2']
    cfg.val_evaluator[1] = dict(type='DetECE', num_bin=10)
    with pytest.raises(ConfigError, match=r"^val_evaluator: .* did you mean 'num_bins'"):
        check_before_training(cfg)


@pytest.mark.parametrize('task', ['det', 'seg'])
def test_a_pipeline_without_labels(build, task):
    runner = build(task)
    del runner.test_dataloader.dataset.pipeline.transforms[-2]
    assert 'Annotations' not in repr(runner.test_dataloader.dataset.pipeline)
    runner.test_evaluator.metrics = runner.test_evaluator.metrics[1:]
    with pytest.raises(ConfigError, match=r'^val_dataloader.dataset.pipeline: gives no '):
        runner.test()
