"""Expected calibration error."""
import torch
from torch import Tensor


class CalibrationBins:
    """Counts predictions in bins of equal width of their confidence, batch by batch.

    Source: Guo et al., *On Calibration of Modern Neural Networks* (arXiv 1706.04599).

    Args:
        number (int): Number of bins. Defaults to 20.
    """

    def __init__(self, number: int = 20) -> None:
        # Of each bin: predictions, those that are right, the sum of their confidences.
        self._sums = torch.zeros(3, number, dtype=torch.float64)

    def update(self, confidence: Tensor, correct: Tensor) -> None:
        """Add predictions.

        Args:
            confidence (Tensor): Confidences (n,) in [0, 1]. Bin b of B holds [b / B, (b + 1) / B);
                the last one also holds 1.
            correct (Tensor): Which predictions are right (n,), bool.
        """
        number = self._sums.size(1)
        confidence = confidence.detach().cpu().double()
        bins = (confidence * number).long().clamp_(max=number - 1)
        for sums, values in zip(self._sums, (torch.ones_like(confidence), correct.cpu().double(),
                                             confidence)):
            sums += torch.bincount(bins, values, minlength=number)

    def ece(self) -> float | None:
        """Compute ``sum_b n_b / N |acc_b - conf_b|``; None without predictions."""
        total, correct, confidence = self._sums
        if not total.any():
            return None
        return float((correct - confidence).abs().sum() / total.sum())
