"""The scores of a segmentor."""
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from mmengine.evaluator import BaseMetric
from mmengine.structures import PixelData
from mmseg.evaluation import IoUMetric
from mmseg.structures import SegDataSample
from mmseg.visualization import SegLocalVisualizer
from torch.nn.functional import interpolate

from comparison_page.scores import ModelScores
from mmakd.metrics import SegECE


class Confusion(BaseMetric):
    """Shares of the pixels of each label by prediction, in per cent.

    Attributes:
        shares (Tensor): They, (labels, predictions).
    """

    default_prefix = 'confusion'

    def __init__(self, number: int, ignore_index: int) -> None:
        super().__init__()
        self.number, self.ignore_index = number, ignore_index

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        for sample in data_samples:
            labels, found = (sample[f'{kind}_sem_seg']['data'].cpu().long()
                             for kind in ('gt', 'pred'))
            counts = (labels != self.ignore_index) & (labels < self.number)
            self.results.append(torch.bincount(labels[counts] * self.number + found[counts],
                                               minlength=self.number**2))

    def compute_metrics(self, results: list) -> dict:
        pixels = torch.stack(results).sum(0).view(self.number, self.number)
        self.shares = 100 * pixels / pixels.sum(1, keepdim=True)
        return {}


class Segmentation(ModelScores):
    """Intersection over union, by IoUMetric, and the confusion of classes."""

    kind = IoUMetric
    how = "An image's mIoU is the mean over the classes that it has or is predicted to have."

    def more_metrics(self) -> list[BaseMetric]:
        self.metric.metrics = ['mIoU']
        self.visualizer = SegLocalVisualizer(alpha=0.6)
        self.visualizer.dataset_meta = self.metainfo
        self.confusion = Confusion(len(self.metainfo['classes']), self.metric.ignore_index)
        return [SegECE(ignore_index=self.metric.ignore_index), self.confusion]

    def grouped(self, metrics: dict[str, float], results: list) -> dict[str, dict[str, float]]:
        intersect, union, *_ = (torch.stack(areas).sum(0) for areas in zip(*results))
        of_classes = dict(zip(self.metainfo['classes'], (100 * intersect / union).tolist()))
        return {'over all': {name: metrics[name] for name in ('mIoU', 'mAcc', 'aAcc')},
                'IoU by class': of_classes}

    def of_image(self, result: Any) -> float:
        return 100 * float((result[0] / result[1]).nanmean())

    def draw(self, image: np.ndarray, sample: Any, kind: str) -> np.ndarray:
        labels = sample.get(f'{kind}_sem_seg').data
        labels = interpolate(labels[None].float(), image.shape[:2])[0].long()
        drawn = SegDataSample(**{f'{kind}_sem_seg': PixelData(data=labels)})
        self.visualizer.add_datasample('', image, drawn, with_labels=False)
        return self.visualizer.get_image()

    def draw_confusion(self, title: str, base: Any = None) -> Figure:
        shares = (self.confusion.shares - (base.confusion.shares if base else 0)).numpy()
        most = np.nanmax(abs(shares)) if base else 100
        figure = Figure(figsize=(4, 4), layout='constrained')
        panel, classes = figure.subplots(), self.metainfo['classes']
        panel.imshow(shares, 'RdBu' if base else 'Blues', vmin=-most if base else 0, vmax=most)
        panel.set(title=title, xlabel='predicted', ylabel='label')
        panel.set_xticks(range(len(classes)), classes, rotation=90)
        panel.set_yticks(range(len(classes)), classes)
        for (row, column), share in np.ndenumerate(shares) if len(classes) <= 10 else ():
            panel.text(column, row, '' if np.isnan(share) else round(share), fontsize=8,
                       ha='center', va='center', color='w' if abs(share) > 0.6 * most else 'k')
        return figure
