"""The scores of a model on a validation set, and on each of its images."""
import copy
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from mmengine.config import Config
from mmengine.evaluator import BaseMetric, Evaluator
from rich.console import Console
from rich.progress import track
from torch.utils.data import DataLoader

from mmakd.checks.parts import quiet
from mmakd.metrics.calibration_bins import CalibrationBins
from mmakd.utils.errors import ConfigError


class ModelScores(ABC):
    """The metric for the task that ``val_evaluator`` has, and the calibration error.

    Attributes:
        groups (dict[str, dict[str, float]]): Scores in per cent, nan where there is nothing to
            score, by name under headings; the first is that of :attr:`images`.
        images (np.ndarray): The score of each image alone.
        bins (CalibrationBins): Confidences of all predictions.
        ece (float): Their calibration error, nan without predictions.
    """

    kind: Any  # class of the metric
    how: str  # an image is scored and drawn

    def __init__(self, cfg: Config, metainfo: dict[str, Any]) -> None:
        with quiet():
            self.evaluator = Evaluator(copy.deepcopy(cfg.val_evaluator))
        found: list[Any] = [metric for metric in self.evaluator.metrics
                            if isinstance(metric, self.kind) and not metric.format_only]
        if not found:
            raise ConfigError(f'val_evaluator: scores by no {self.kind.__name__}; add '
                              f"dict(type='{self.kind.__name__}')")
        self.metric, self.metainfo, self.bins = found[0], metainfo, CalibrationBins()
        self.evaluator.metrics = [self.metric, *self.more_metrics()]
        self.evaluator.dataset_meta = metainfo

    def finish(self) -> None:
        """Compute the scores, once all predictions are processed."""
        # The evaluator clears them.
        results, sums = (list(metric.results) for metric in self.evaluator.metrics[:2])
        self.bins.sums = torch.stack(sums).sum(0)
        with quiet():
            found = self.evaluator.evaluate(len(results))
            self.groups = self.grouped({name.removeprefix(f'{self.metric.prefix}/'): score
                                        for name, score in found.items()}, results)
            self.images = np.array([self.of_image(result) for result in track(
                results, 'Scoring images', console=Console(stderr=True), transient=True)])
        error = self.bins.ece()
        self.ece = np.nan if error is None else error

    @abstractmethod
    def more_metrics(self) -> list[BaseMetric]:
        """Give further metrics, the calibration error first."""

    @abstractmethod
    def grouped(self, metrics: dict[str, float], results: list) -> dict[str, dict[str, float]]:
        """Give :attr:`groups`, from the metric's scores and its results of all images."""

    @abstractmethod
    def of_image(self, result: Any) -> float:
        """Score one image, given the metric's result."""

    @abstractmethod
    def draw(self, image: np.ndarray, sample: Any, kind: str) -> np.ndarray:
        """Draw what is there (kind 'gt') or predicted ('pred') over a scaled image (H, W, 3)."""

    def draw_confusion(self, title: str, base: Any = None) -> Figure | None:
        """Draw the confusion of classes, perhaps less another model's, where there is one."""
        return None


@torch.no_grad()
def evaluate(models: dict[str, Any], scores: dict[str, ModelScores],
             dataloader: DataLoader) -> None:
    """Predict the validation set by every model, and score it."""
    for batch in track(dataloader, 'Evaluating', console=Console(stderr=True), transient=True):
        for name, model in models.items():
            scores[name].evaluator.process(model.val_step(batch), batch)
    for of_model in scores.values():
        of_model.finish()
