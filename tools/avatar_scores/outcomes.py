"""Which of a network's predictions are right, and how confident it was."""
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from mmdet.structures.bbox import bbox_overlaps, get_box_tensor
from torch import Tensor, nn

from mmakd.utils.errors import ConfigError

_IOU = 0.5


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


class Logits(NamedTuple):
    """A layer whose output is the class logits of a network.

    Attributes:
        num_classes (int): Number of classes.
        outcomes (Callable): Gives the :class:`Outcomes` of a predicted data sample.
    """

    num_classes: int
    outcomes: Callable[[Any], Outcomes]


def find_logits(network: Any) -> dict[str, Logits]:
    """Find the layers of a segmentor or a dense detector whose output is its class logits.

    Returns:
        dict[str, Logits]: By path; empty for other networks.
    """
    found = {}
    head: Any = getattr(network, 'decode_head', None)
    path = 'decode_head'
    if isinstance(head, nn.ModuleList):  # a cascade predicts by its last head
        head, path = head[-1], f'{path}.{len(head) - 1}'
    # A binary head with one channel has no softmax.
    if 1 < getattr(head, 'num_classes', 0) == getattr(
            getattr(head, 'conv_seg', None), 'out_channels', None):
        ignore_index = head.ignore_index
        found[f'{path}.conv_seg'] = Logits(
            head.num_classes, lambda sample: segmentation_outcomes(sample, ignore_index))
    head = getattr(network, 'bbox_head', None)
    channels = getattr(head, 'cls_out_channels', 0) * getattr(head, 'num_base_priors', 1)
    for path, module in head.named_modules() if channels else ():
        names = [name for name in path.split('.') if not name.isdigit()]
        if isinstance(module, nn.Conv2d) and module.out_channels == channels and (
                'cls' in names[-1]):
            found[f'bbox_head.{path}'] = Logits(head.num_classes, detection_outcomes)
    return found


def segmentation_outcomes(sample: Any, ignore_index: int) -> Outcomes:
    """Compare the class probabilities of every labelled pixel with its label.

    Args:
        sample (SegDataSample): With ``seg_logits`` (C, H, W) and ``gt_sem_seg`` (1, H, W).
        ignore_index (int): Label of the pixels that are left out.

    Raises:
        ConfigError: If it has no ground truth.
    """
    if 'gt_sem_seg' not in sample:
        raise ConfigError('val_dataloader.dataset.pipeline: gives no label maps, which NLL and '
                          "ECE need; add dict(type='LoadAnnotations') behind any Resize")
    logits, labels = sample.seg_logits.data.float(), sample.gt_sem_seg.data[0].long()
    labelled = labels != ignore_index
    log_probabilities = logits.log_softmax(0)[:, labelled]
    labels = labels[labelled].to(logits.device)
    best, predicted = log_probabilities.max(0)
    return Outcomes(-log_probabilities.gather(0, labels[None])[0], best.exp(), predicted == labels)


def detection_outcomes(sample: Any) -> Outcomes:
    """Compare the score of every detection with whether it is right.

    It is right if it overlaps a box of its class with an IoU of 0.5 or more that no detection with
    a higher score has taken; it takes the one that it overlaps most. Its NLL is the log loss of
    the score, kept 1e-7 away from 0 and 1.

    Args:
        sample (DetDataSample): With ``pred_instances`` and ``gt_instances``, both on the scale of
            the original image.

    Raises:
        ConfigError: If it has no ground truth.
    """
    if 'gt_instances' not in sample:
        raise ConfigError('val_dataloader.dataset.pipeline: gives no boxes, which NLL and ECE '
                          "need; add dict(type='LoadAnnotations', with_bbox=True) behind Resize")
    found, truth = sample.pred_instances, sample.gt_instances
    order = found.scores.argsort(descending=True, stable=True)
    scores = found.scores[order].float()
    overlaps = bbox_overlaps(get_box_tensor(found.bboxes)[order],
                             get_box_tensor(truth.bboxes).to(scores.device))
    overlaps[found.labels[order][:, None] != truth.labels.to(scores.device)[None]] = 0
    overlaps = overlaps.cpu()
    correct = torch.zeros(len(scores), dtype=torch.bool)
    for index in (overlaps >= _IOU).any(1).nonzero()[:, 0].tolist():
        overlap, taken = overlaps[index].max(0)
        if overlap >= _IOU:
            correct[index] = True
            overlaps[:, taken] = 0
    correct = correct.to(scores.device)
    # 1 - score and the bound have too few digits in float32.
    likelihood = torch.where(correct, scores.double(), 1 - scores.double())
    return Outcomes(-likelihood.clamp(1e-7, 1 - 1e-7).log(), scores, correct)
