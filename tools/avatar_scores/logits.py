"""The layers whose output is the class logits of a network."""
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import nn

from mmakd.metrics.outcomes import Outcomes, detection_outcomes, segmentation_outcomes


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
            head.num_classes, lambda sample: segmentation_outcomes(sample.to_dict(), ignore_index))
    head = getattr(network, 'bbox_head', None)
    channels = getattr(head, 'cls_out_channels', 0) * getattr(head, 'num_base_priors', 1)
    for path, module in head.named_modules() if channels else ():
        names = [name for name in path.split('.') if not name.isdigit()]
        if isinstance(module, nn.Conv2d) and module.out_channels == channels and (
                'cls' in names[-1]):
            found[f'bbox_head.{path}'] = Logits(
                head.num_classes, lambda sample: detection_outcomes(sample.to_dict()))
    return found
