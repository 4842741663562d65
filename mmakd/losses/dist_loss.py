"""Correlation of predictions between classes and between samples."""
from mmengine.registry import MODELS
from torch import Tensor

from ..utils.errors import check_numbers
from .features import FeatureLoss


@MODELS.register_module()
class DISTLoss(FeatureLoss):
    """Correlation of class probabilities, between classes and between samples.

    DIST (arXiv 2205.10536, Eq. 9): ``tau^2`` times 1 minus the Pearson correlation of student and
    teacher, over the classes of each sample (weight beta) and over the samples of each class
    (weight gamma). The positions of a map are samples.

    Args:
        inter_loss_weight (float): Weight beta of the relation between classes. Defaults to 1.0.
        intra_loss_weight (float): Weight gamma of the relation between samples. Defaults to 1.0.
        tau (float): Temperature > 0. Defaults to 1.0.
        loss_weight (float): Factor on the loss. Defaults to 1.0.
    """

    def __init__(self, inter_loss_weight: float = 1.0, intra_loss_weight: float = 1.0,
                 tau: float = 1.0, loss_weight: float = 1.0) -> None:
        check_numbers(positive=dict(tau=tau),
                      not_negative=dict(inter_loss_weight=inter_loss_weight,
                                        intra_loss_weight=intra_loss_weight,
                                        loss_weight=loss_weight))
        super().__init__(loss_weight)
        self.inter_loss_weight = inter_loss_weight
        self.intra_loss_weight = intra_loss_weight
        self.tau = tau

    def compare(self, preds_S: Tensor, preds_T: Tensor) -> Tensor:
        """Compute the loss; see :meth:`FeatureLoss.forward`."""
        student, teacher = self._probabilities(preds_S), self._probabilities(preds_T)
        between_classes = 1 - _pearson(student, teacher).mean()
        between_samples = 1 - _pearson(student.t(), teacher.t()).mean()
        return self.loss_weight * self.tau**2 * (self.inter_loss_weight * between_classes
                                                 + self.intra_loss_weight * between_samples)

    def _probabilities(self, logits: Tensor) -> Tensor:
        if logits.dim() == 4:
            logits = logits.permute(0, 2, 3, 1).flatten(0, 2)
        return (logits / self.tau).softmax(1)


def _pearson(first: Tensor, second: Tensor) -> Tensor:
    """Return the Pearson correlation of the rows of two (N, C) tensors, (N,)."""
    first = first - first.mean(1, keepdim=True)
    second = second - second.mean(1, keepdim=True)
    # Small beside the norms, even of classes whose probability is nearly the same everywhere.
    return (first * second).sum(1) / (first.norm(dim=1) * second.norm(dim=1) + 1e-8)
