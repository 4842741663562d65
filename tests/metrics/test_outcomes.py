"""Which pixels and detections are right, by NumPy and by hand."""
import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData, PixelData
from mmseg.structures import SegDataSample

from mmakd.metrics.outcomes import detection_outcomes, segmentation_outcomes
from mmakd.utils.errors import ConfigError
from tests.metrics.formulas import numpy_matches


def test_outcomes_of_pixels():
    generator = np.random.default_rng(1)
    logits, labels = 3 * generator.normal(size=(4, 6, 5)), generator.integers(0, 4, (6, 5))
    labels[0, :3] = 255
    sample = SegDataSample(seg_logits=PixelData(data=torch.from_numpy(logits)),
                           gt_sem_seg=PixelData(data=torch.from_numpy(labels)[None]))
    found = segmentation_outcomes(sample.to_dict(), 255)
    probabilities = np.exp(logits) / np.exp(logits).sum(0)
    rows, columns = np.nonzero(labels != 255)
    assert len(found.log_loss) == 27
    np.testing.assert_allclose(
        found.log_loss, -np.log(probabilities[labels[rows, columns], rows, columns]), rtol=1e-5)
    np.testing.assert_allclose(found.confidence, probabilities.max(0)[rows, columns], rtol=1e-5)
    np.testing.assert_array_equal(
        found.correct, logits.argmax(0)[rows, columns] == labels[rows, columns])


def test_outcomes_of_detections():
    truth = [[0, 0, 10, 10], [100, 0, 110, 10], [6, 0, 16, 10]]
    found = [([0, 0, 10, 9], 0, 0.6),  # right, but a better one has taken its box
             ([0, 0, 10, 10], 0, 0.9),  # right
             ([100, 0, 110, 10], 1, 0.8),  # of another class
             ([100, 0, 110, 4.9], 0, 1.0),  # overlaps by less than half
             ([100, 0, 110, 5], 0, 0.0),  # overlaps by half
             ([5, 0, 15, 10], 0, 0.7)]  # takes the box that it overlaps most
    boxes, labels, scores = zip(*found)
    sample = DetDataSample(
        gt_instances=InstanceData(bboxes=torch.tensor(truth).float(), labels=torch.zeros(3)),
        pred_instances=InstanceData(bboxes=torch.tensor(boxes).float(),
                                    labels=torch.tensor(labels), scores=torch.tensor(scores)))
    outcomes = detection_outcomes(sample.to_dict())
    torch.testing.assert_close(outcomes.confidence, torch.tensor([1, .9, .8, .7, .6, 0]))
    assert outcomes.correct.tolist() == [False, True, False, True, False, True]
    # Scores of 0 and 1 that are wrong have a finite loss.
    np.testing.assert_allclose(
        outcomes.log_loss, -np.log([1e-7, .9, .2, .7, .4, 1e-7]), rtol=1e-5)
    sample.pred_instances = sample.pred_instances[:0]
    assert len(detection_outcomes(sample.to_dict()).log_loss) == 0
    sample.gt_instances, sample.pred_instances = (
        sample.gt_instances[:0], InstanceData(bboxes=torch.ones(1, 4), labels=torch.zeros(1),
                                              scores=torch.ones(1)))
    assert detection_outcomes(sample.to_dict()).correct.tolist() == [False]


def test_a_single_channel_is_the_probability_of_class_1():
    sample = SegDataSample(seg_logits=PixelData(data=torch.tensor([[[0.9, 0.2, 0.4, 1.0]]])),
                           gt_sem_seg=PixelData(data=torch.tensor([[[1, 1, 255, 1]]])))
    found = segmentation_outcomes(sample.to_dict(), 255)
    torch.testing.assert_close(found.confidence, torch.tensor([0.9, 0.8, 1.0]))
    torch.testing.assert_close(found.log_loss, -torch.tensor([0.9, 0.2, 1.0]).log())
    assert found.correct.tolist() == [True, False, True]


def boxes(generator, number):
    corners = generator.integers(0, 12, (number, 2))
    return np.concatenate([corners, corners + generator.integers(2, 9, (number, 2))], 1)


@pytest.mark.parametrize('threshold', [0.1, 0.5, 0.75, 1.0])
def test_matches_of_many_detections(threshold):
    generator = np.random.default_rng(0)
    right = 0
    for _ in range(20):
        found, truth = boxes(generator, 30), boxes(generator, 8)
        found[:4] = truth[:4]
        labels, classes = generator.integers(0, 2, 30), generator.integers(0, 2, 8)
        scores = generator.random(30).astype(np.float32)
        sample = DetDataSample(
            gt_instances=InstanceData(bboxes=torch.from_numpy(truth).float(),
                                      labels=torch.from_numpy(classes)),
            pred_instances=InstanceData(bboxes=torch.from_numpy(found).float(),
                                        labels=torch.from_numpy(labels),
                                        scores=torch.from_numpy(scores)))
        outcomes = detection_outcomes(sample.to_dict(), threshold)
        order = np.argsort(-scores)
        expected = numpy_matches(found, labels, scores, truth, classes, threshold)[order]
        np.testing.assert_array_equal(outcomes.correct, expected)
        np.testing.assert_array_equal(outcomes.confidence, scores[order])
        right += expected.sum()
    assert 20 < right < 300


def test_detections_in_ignored_boxes_are_left_out():
    sample = DetDataSample(
        gt_instances=InstanceData(bboxes=torch.tensor([[0., 0, 10, 10]]),
                                  labels=torch.tensor([0])),
        ignored_instances=InstanceData(bboxes=torch.tensor([[0., 0, 40, 40]]),
                                       labels=torch.tensor([0])),
        pred_instances=InstanceData(
            # Right; wrong in the crowd; of another class; half and less than half in the crowd.
            bboxes=torch.tensor([[0., 0, 10, 10], [20, 20, 25, 25], [20, 20, 25, 25],
                                 [35, 0, 45, 10], [36, 0, 46, 10]]),
            labels=torch.tensor([0, 0, 1, 0, 0]),
            scores=torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5])))
    outcomes = detection_outcomes(sample.to_dict())
    torch.testing.assert_close(outcomes.confidence, torch.tensor([0.9, 0.7, 0.5]))
    assert outcomes.correct.tolist() == [True, False, False]
    np.testing.assert_allclose(outcomes.log_loss, -np.log([0.9, 0.3, 0.5]), rtol=1e-5)


SCORES = dict(seg_logits=dict(data=torch.ones(2, 1, 1)), pred_instances=dict(scores=torch.ones(1)))


@pytest.mark.parametrize(('outcomes', 'scores'), [
    (lambda sample: segmentation_outcomes(sample, 255), 'predicts no seg_logits'),
    (detection_outcomes, 'predicts no pred_instances with scores')])
def test_scores_and_ground_truth_are_needed(outcomes, scores):
    with pytest.raises(ConfigError, match=f'^model: {scores}, .* need; use a'):
        outcomes({})
    with pytest.raises(ConfigError, match=r"^val_dataloader.dataset.*LoadAnnotations'.* behind"):
        outcomes(SCORES)
