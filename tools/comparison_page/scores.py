"""The scores of a model on a validation set, and on each of its images."""
import copy
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.model import BaseModel
from rich.console import Console
from rich.progress import track
from torch.utils.data import DataLoader

from avatar_scores.evaluation import Row
from mmakd.checks.parts import quiet
from mmakd.metrics.outcomes import Outcomes
from mmakd.utils.errors import ConfigError


class ModelScores(ABC):
    """Sums up predictions batch by batch, by the metric of ``val_evaluator`` for the task.

    Attributes:
        groups (dict[str, dict[str, float]]): Scores in per cent, nan where there is nothing to
            score, by name under headings; the first is that of :attr:`images`.
        images (np.ndarray): The score of each image alone.
        nll, ece (float): Calibration, nan without predictions.
    """

    metric_type: Any
    how: str  # is an image scored, and drawn

    def __init__(self, cfg: Config, metainfo: dict[str, Any]) -> None:
        with quiet():
            self.row = Row(Evaluator(copy.deepcopy(cfg.val_evaluator)))
        wanted = self.metric_type.__name__
        metrics: list[Any] = [metric for metric in self.row.evaluator.metrics
                              if isinstance(metric, self.metric_type) and not metric.format_only]
        if not metrics:
            raise ConfigError(f"val_evaluator: scores by no {wanted}; add dict(type='{wanted}')")
        self.metric, self.metainfo = metrics[0], metainfo
        self.row.evaluator.metrics = metrics[:1]
        self.row.evaluator.dataset_meta = metainfo

    def add(self, samples: list, batch: Any) -> None:
        """Add the predictions of a batch."""
        for sample in samples:
            self.row.add(self.outcomes(sample.to_dict()))
        self.row.evaluator.process(data_samples=samples, data_batch=batch)

    def finish(self) -> None:
        """Compute the scores."""
        results = list(self.metric.results)  # the evaluator clears them
        with quiet():
            found = self.row.scores(len(results))
            self.groups = self.grouped({
                name.removeprefix(f'{self.metric.prefix}/'): score
                for name, score in found['metrics'].items()}, results)
            self.images = np.array([self.of_image(result) for result in results])
        self.nll, self.ece = (np.nan if found[name] is None else found[name]
                              for name in ('nll', 'ece'))

    @abstractmethod
    def outcomes(self, sample: dict) -> Outcomes:
        """Find which predictions of an image are right."""

    @abstractmethod
    def grouped(self, metrics: dict[str, float], results: list) -> dict[str, dict[str, float]]:
        """Give :attr:`groups`, from the metric's scores and its results of all images."""

    @abstractmethod
    def of_image(self, result: Any) -> float:
        """Score one image, given the metric's result."""

    @abstractmethod
    def draw(self, image: np.ndarray, sample: Any, kind: str) -> np.ndarray:
        """Draw what is there (kind 'gt') or predicted ('pred') over a scaled image (H, W, 3)."""


@torch.no_grad()
def evaluate(models: dict[str, BaseModel], scores: dict[str, ModelScores],
             dataloader: DataLoader) -> None:
    """Predict the validation set by every model, and score it."""
    console = Console(stderr=True)
    for batch in track(dataloader, 'Evaluating', console=console, transient=True):
        for name, model in models.items():
            scores[name].add(model.val_step(batch), batch)
    for of_model in track(scores.values(), 'Scoring images', console=console, transient=True):
        of_model.finish()
