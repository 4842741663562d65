"""Expected calibration error."""
import torch
from torch import Tensor


class CalibrationBins:
    """Counts predictions in bins of equal width of their confidence, batch by batch.

    Source: Guo et al., *On Calibration of Modern Neural Networks* (arXiv 1706.04599).

    Args:
        number (int): Number of bins. Defaults to 20.

    Attributes:
        sums (Tensor): Of each bin the number of predictions, of those that are right, and the sum
            of the confidences, (3, number) in float64. Those of several processes may be added.
    """

    def __init__(self, number: int = 20) -> None:
        self.sums = torch.zeros(3, number, dtype=torch.float64)

    def update(self, confidence: Tensor, correct: Tensor) -> None:
        """Add predictions.

        Args:
            confidence (Tensor): Confidences (n,) in [0, 1]. Bin b of B holds [b / B, (b + 1) / B);
                the last one also holds 1. One that is not a number makes the error none either.
            correct (Tensor): Which predictions are right (n,), bool.
        """
        number = self.sums.size(1)
        confidence = confidence.detach().cpu().double()
        bins = (confidence.nan_to_num() * number).long().clamp_(0, number - 1)
        for sums, values in zip(self.sums, (torch.ones_like(confidence), correct.cpu().double(),
                                            confidence)):
            sums += torch.bincount(bins, values, minlength=number)

    def ece(self) -> float | None:
        """Compute ``sum_b n_b / N |acc_b - conf_b|``; None without predictions."""
        total, correct, confidence = self.sums
        if not total.any():
            return None
        return float((correct - confidence).abs().sum() / total.sum())
