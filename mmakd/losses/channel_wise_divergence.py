"""Channel-wise knowledge distillation."""
from mmengine.registry import MODELS

from .softmax_divergence import SoftmaxDivergence


@MODELS.register_module()
class ChannelWiseDivergence(SoftmaxDivergence):
    r"""Divergence of each channel's spatial distribution (CWD, arXiv 2011.13256, Eq. 4).

    :math:`\frac{\tau^2}{N C} \sum_{n,c} KL(softmax(T_{nc} / \tau) \| softmax(S_{nc} / \tau))`,
    with the softmax over the H * W positions of a channel. With one position, as in vectors viewed
    as maps, all distributions are equal and the loss is zero.

    Args:
        tau (float): Temperature > 0. Defaults to 1.0.
        loss_weight (float): Factor on the loss. Defaults to 1.0.
    """

    maps_only = True
    axis = 2
