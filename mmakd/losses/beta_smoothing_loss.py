"""Label smoothing that differs from position to position."""
import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor

from ..utils.errors import ConfigProblems, check_numbers, is_number
from .features import FeatureLoss
from .seeded_draws import SeededDraws

_IGNORED = 255


@MODELS.register_module()
class BetaSmoothingLoss(FeatureLoss, SeededDraws):
    r"""Cross entropy with labels that are smoothed by amounts from a Beta distribution.

    Beta smoothing (arXiv 2006.05065), for each pixel of a segmentor:
    :math:`(1 - \alpha) CE(y, q) + \alpha CE(\tilde y, q)`, the mean over pixels with a label. q is
    the student's prediction, y the label. :math:`\tilde y` has :math:`b_i` at the true class and
    :math:`(1 - b_i) / (C - 1)` at each other class. The :math:`b_i \sim Beta(a, b)` of the batch
    are sorted: the larger the probability that the average of the student gives the true class
    of a pixel, the larger its :math:`b_i`.

    A head of mmseg gives its own loss the logits and labels alone, not the average. So this is the
    loss of a task at the logits (``tap='decode_head.conv_seg'``) with ``teacher='ema'``, in the
    place of the head's, whose ``loss_decode.loss_weight`` is then 0. As in the head, logits are
    resized bilinearly to the labels, and pixels of label 255 are left out. The draws repeat in a
    resumed training with ``PerturbationHook``.

    Args:
        alpha (float): Share of the smoothed labels, 0 to 1. Defaults to 0.6.
        a (float): First parameter > 0 of the Beta distribution. Defaults to 3.0.
        b (float): Second one. Defaults to 1.0.
        loss_weight (float): Factor on the loss. Defaults to 1.0.
    """

    maps_only = True

    def __init__(self, alpha: float = 0.6, a: float = 3.0, b: float = 1.0,
                 loss_weight: float = 1.0) -> None:
        problems = ConfigProblems()
        with problems.under(''):
            check_numbers(positive=dict(a=a, b=b), not_negative=dict(loss_weight=loss_weight))
        if not is_number(alpha) or not 0 <= alpha <= 1:
            problems.add(f'alpha={alpha!r}: must be a number from 0 to 1, e.g. 0.6')
        problems.raise_if_any()
        super().__init__(loss_weight)
        self.alpha = alpha
        self.a = a
        self.b = b

    def compare(self, preds_S: Tensor, preds_T: Tensor,
                data_samples: list | None = None) -> Tensor:
        """Compute the loss; see :meth:`FeatureLoss.forward`.

        Args:
            preds_S (Tensor): Logits (N, C, H, W) of the student, C >= 2.
            preds_T (Tensor): Those of its average.
            data_samples (list[SegDataSample]): Those of the N images, with ``gt_sem_seg``.

        Returns:
            Tensor: Scalar; zero without a label in the batch.

        Raises:
            ValueError: If there are no labels, or only one class.
        """
        number = preds_S.size(1)
        if number < 2:
            raise ValueError('BetaSmoothingLoss needs two classes or more, one channel for each')
        labels = _labels(data_samples)
        known = labels != _IGNORED
        if not known.any():
            return preds_S.sum() * 0
        at_label = labels.where(known, 0).unsqueeze(1)
        size = labels.shape[1:]
        log_student = F.interpolate(preds_S, size, mode='bilinear').log_softmax(1)
        log_average = F.interpolate(preds_T.detach(), size, mode='bilinear').log_softmax(1)
        true = log_student.gather(1, at_label).squeeze(1)[known]
        others = log_student.sum(1)[known] - true
        amounts = self._amounts(log_average.gather(1, at_label).squeeze(1)[known])
        smoothed = amounts * true + (1 - amounts) / (number - 1) * others
        return -self.loss_weight * ((1 - self.alpha) * true + self.alpha * smoothed).mean()

    def _amounts(self, confidence: Tensor) -> Tensor:
        """Draw b_i for each of (P,) confidences, the larger the more confident."""
        generator = torch.Generator(confidence.device).manual_seed(self.next_seed())
        parameters = confidence.new_tensor([self.a, self.b]).unsqueeze(1)
        # As torch.distributions.Beta draws, which takes no generator.
        first, second = torch._standard_gamma(
            parameters.repeat(1, len(confidence)), generator=generator)
        drawn = (first / (first + second)).sort().values
        return torch.empty_like(drawn).scatter_(0, confidence.argsort(), drawn)


def _labels(data_samples: list | None) -> Tensor:
    """Return the labels (N, H, W)."""
    if not data_samples or any(sample.get('gt_sem_seg') is None for sample in data_samples):
        raise ValueError('BetaSmoothingLoss needs labels, gt_sem_seg of each data sample; use it '
                         "at a segmentor's logits")
    return torch.cat([sample.gt_sem_seg.data for sample in data_samples])
