"""Knowledge distillation of class probabilities."""
from mmengine.registry import MODELS

from .softmax_divergence import SoftmaxDivergence


@MODELS.register_module()
class KLDivergence(SoftmaxDivergence):
    r"""Divergence of softened class probabilities (KD, arXiv 1503.02531).

    :math:`\tau^2 KL(softmax(T / \tau) \| softmax(S / \tau))` over the classes, averaged over
    samples and positions.

    Args:
        tau (float): Temperature > 0. Defaults to 1.0.
        loss_weight (float): Factor on the loss. Defaults to 1.0.
    """

    axis = 1
