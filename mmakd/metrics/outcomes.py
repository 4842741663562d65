"""Which of a network's predictions are right, and how confident it was."""
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..utils.errors import ConfigError


class Outcomes(NamedTuple):
    """Predictions beside the ground truth of one image: pixels, or detections.

    Attributes:
        log_loss (Tensor): Negative log-likelihoods (n,).
        confidence (Tensor): Confidences (n,) in [0, 1].
        correct (Tensor): Which are right (n,), bool.
    """

    log_loss: Tensor
    confidence: Tensor
    correct: Tensor


def segmentation_outcomes(sample: dict, ignore_index: int) -> Outcomes:
    """Compare the class probabilities of every labelled pixel with its label.

    Args:
        sample (dict): A predicted ``SegDataSample`` as a dict, as metrics are given it, with
            ``seg_logits`` (C, H, W), softmax over C, and ``gt_sem_seg`` (1, H, W). With a single
            channel ``seg_logits`` is the probability of class 1.
        ignore_index (int): Label of the pixels that are left out.

    Raises:
        ConfigError: If it has no scores or no ground truth.
    """
    if 'seg_logits' not in sample:
        raise ConfigError('model: predicts no seg_logits, the scores that NLL and ECE need; use a '
                          'segmentor whose predict() keeps them, without test-time augmentation')
    if 'gt_sem_seg' not in sample:
        raise ConfigError('val_dataloader.dataset.pipeline: gives no label maps, which NLL and '
                          "ECE need; add dict(type='LoadAnnotations') behind any Resize")
    logits, labels = sample['seg_logits']['data'].float(), sample['gt_sem_seg']['data'][0].long()
    if len(logits) == 1:
        logits = torch.cat([1 - logits, logits]).log()
    labels = labels.to(logits.device)
    labelled = labels != ignore_index
    log_probabilities = logits.log_softmax(0)[:, labelled]
    labels = labels[labelled]
    best, predicted = log_probabilities.max(0)
    return Outcomes(-log_probabilities.gather(0, labels[None])[0], best.exp(), predicted == labels)


def detection_outcomes(sample: dict, iou_thr: float = 0.5) -> Outcomes:
    """Compare the score of every detection with whether it is right.

    It is right if it overlaps a box of its class with an IoU of ``iou_thr`` or more that no
    detection with a higher score has taken; it takes the one that it overlaps most. A wrong one
    that lies in an ignored box of its class by that share of its own area is left out. Its NLL is
    the log loss of the score, kept 1e-7 away from 0 and 1.

    Args:
        sample (dict): A predicted ``DetDataSample`` as a dict, as metrics are given it, with
            ``pred_instances``, ``gt_instances`` and perhaps ``ignored_instances``, all on the
            scale of the original image.
        iou_thr (float): Least IoU. Defaults to 0.5.

    Raises:
        ConfigError: If it has no scores or no ground truth.
    """
    if 'scores' not in sample.get('pred_instances', ()):
        raise ConfigError('model: predicts no pred_instances with scores, which NLL and ECE need; '
                          'use a detector of boxes')
    if 'bboxes' not in sample.get('gt_instances', ()):  # it may be there, and empty
        raise ConfigError('val_dataloader.dataset.pipeline: gives no boxes, which NLL and ECE '
                          "need; add dict(type='LoadAnnotations', with_bbox=True) behind Resize")
    found = sample['pred_instances']
    order = found['scores'].argsort(descending=True, stable=True)
    found = {key: found[key][order] for key in ('scores', 'labels', 'bboxes')}
    scores = found['scores'].float()
    overlaps = _overlaps(found, sample['gt_instances'], 'iou')
    correct = torch.zeros(len(scores), dtype=torch.bool)
    for index in (overlaps >= iou_thr).any(1).nonzero()[:, 0].tolist():
        overlap, taken = overlaps[index].max(0)
        if overlap >= iou_thr:
            correct[index] = True
            overlaps[:, taken] = 0
    if 'bboxes' in sample.get('ignored_instances', ()):
        inside = _overlaps(found, sample['ignored_instances'], 'iof') >= iou_thr
        counts = correct | ~inside.any(1)
        correct, scores = correct[counts], scores[counts.to(scores.device)]
    correct = correct.to(scores.device)
    # 1 - score and the bound have too few digits in float32.
    likelihood = torch.where(correct, scores.double(), 1 - scores.double())
    return Outcomes(-likelihood.clamp(1e-7, 1 - 1e-7).log(), scores, correct)


def _overlaps(found: dict, others: dict, mode: Any) -> Tensor:
    """Compute overlaps (n, m) with other boxes, 0 with those of another class, on the CPU."""
    from mmdet.structures.bbox import bbox_overlaps, get_box_tensor  # mmseg works without mmdet

    boxes, labels = get_box_tensor(found['bboxes']).float(), found['labels']
    overlaps = bbox_overlaps(boxes, get_box_tensor(others['bboxes']).to(boxes), mode)
    return overlaps.where(labels[:, None] == others['labels'].to(labels.device)[None], 0).cpu()
