"""Base class of calibration errors as metrics of a validation."""
from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.logging import MessageHub, print_log
from mmengine.visualization import Visualizer

from ..utils.errors import ConfigError
from .calibration_bins import CalibrationBins
from .outcomes import Outcomes

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class CalibrationError(BaseMetric):
    r"""Expected calibration error, :math:`\sum_b n_b / N \, |acc_b - conf_b|` (arXiv 1706.04599).

    Predictions are sorted into bins of equal width by their confidence. Of bin b, n_b is their
    number, acc_b the share of those that are right, and conf_b their mean confidence. An image
    leaves 3 x ``num_bins`` sums, which are collected from all ranks.

    A reliability diagram, acc_b over conf_b, goes to the Runner's visualizer after each
    evaluation.

    Args:
        num_bins (int): Number of bins. Defaults to 20.
        collect_device (str): Where the sums of all ranks are collected: ``'cpu'`` or ``'gpu'``.
            Defaults to ``'cpu'``.
        prefix (str, optional): What the metric's name begins with. Defaults to None,
            ``'calibration'``.
    """

    default_prefix = 'calibration'

    def __init__(self, num_bins: int = 20, collect_device: str = 'cpu',
                 prefix: str | None = None) -> None:
        if not isinstance(num_bins, int) or isinstance(num_bins, bool) or num_bins < 1:
            raise ConfigError(f'num_bins={num_bins!r}: must be an integer >= 1, e.g. 20')
        super().__init__(collect_device, prefix)
        self.num_bins = num_bins

    @abstractmethod
    def outcomes(self, sample: dict) -> Outcomes:
        """Find which predictions of one image are right."""

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Add the predictions of a batch.

        Args:
            data_batch (Any): Not used.
            data_samples (Sequence[dict]): Predictions beside the ground truth.

        Raises:
            ConfigError: If they have no scores or no ground truth.
        """
        for sample in data_samples:
            bins = CalibrationBins(self.num_bins)
            found = self.outcomes(sample)
            bins.update(found.confidence, found.correct)
            self.results.append(bins.sums)

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Compute the error, and draw the diagram.

        Args:
            results (list[Tensor]): Sums of each image.

        Returns:
            dict[str, float]: ``ECE`` in [0, 1]; empty if nothing was predicted.
        """
        bins = CalibrationBins(self.num_bins)
        for sums in results:
            bins.sums += sums
        error = bins.ece()
        if error is None:
            print_log(f'{type(self).__name__}: there is no prediction, and so no ECE', 'current')
            return {}
        # Only a Runner has a visualizer, by the name of its hub.
        hub = MessageHub.get_current_instance()
        if Visualizer.check_instance_created(hub.instance_name):
            name = f'{self.prefix}_reliability'.replace('/', '_')
            Visualizer.get_instance(hub.instance_name).add_image(
                name, _pixels(draw_reliability({'': bins})), hub.get_info('iter', -1) + 1)
        return dict(ECE=error)


def draw_reliability(bins: Mapping[str, CalibrationBins]) -> Figure:
    """Draw accuracy over confidence, and the share of the predictions in each bin below.

    Args:
        bins (Mapping[str, CalibrationBins]): Those of one or several models, none all empty, by
            the name that the legend has.

    Returns:
        Figure: A figure of 4 x 5 inches.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4, 5), dpi=100, layout='constrained')
    diagram, shares = figure.subplots(2, sharex=True, height_ratios=(3, 1))
    diagram.plot([0, 1], [0, 1], color='darkgray', linestyle='--')
    for name, of_model in bins.items():
        total, correct, confidence = of_model.sums.numpy()
        filled = total > 0
        diagram.plot(confidence[filled] / total[filled], correct[filled] / total[filled], 'o-',
                     label=f'{name} ECE {of_model.ece():.4f}'.strip())
        shares.stairs(total / total.sum(), np.linspace(0, 1, len(total) + 1), fill=len(bins) == 1)
    figure.legend(loc='outside upper center')
    diagram.set(ylabel='accuracy', xlim=(0, 1), ylim=(0, 1))
    shares.set(xlabel='confidence', ylabel='share', ylim=(0, None))
    return figure


def _pixels(figure: Figure) -> np.ndarray:
    """Render a figure as an image (H, W, 3) in RGB, uint8."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
