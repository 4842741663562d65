"""The scores of a segmentor."""
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from mmengine.structures import PixelData
from mmseg.evaluation import IoUMetric
from mmseg.structures import SegDataSample
from mmseg.visualization import SegLocalVisualizer
from torch import Tensor
from torch.nn.functional import interpolate

from comparison_page.scores import ModelScores
from mmakd.metrics.outcomes import Outcomes, segmentation_outcomes


class Segmentation(ModelScores):
    """Intersection over union; ``confusion`` counts pixels by label (row) and prediction."""

    metric_type = IoUMetric
    how = "An image's mIoU is the mean over the classes that it has or is predicted to have."

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.metric.metrics = ['mIoU']
        self.confusion = torch.zeros((len(self.metainfo['classes']), ) * 2, dtype=torch.long)
        self.visualizer = SegLocalVisualizer(alpha=0.6)
        self.visualizer.dataset_meta = self.metainfo

    def outcomes(self, sample: dict) -> Outcomes:
        labels, found = (sample[f'{kind}_sem_seg']['data'].cpu().long() for kind in ('gt', 'pred'))
        number = len(self.confusion)
        counts = (labels != self.metric.ignore_index) & (labels < number)
        self.confusion += torch.bincount(labels[counts] * number + found[counts],
                                         minlength=number**2).view(number, number)
        return segmentation_outcomes(sample, self.metric.ignore_index)

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

    def draw_confusion(self, title: str, other: 'Segmentation | None' = None) -> Figure:
        """Draw the share of each label's pixels by prediction, perhaps less another model's."""
        share = self._share() - (other._share() if other else 0)
        most = float(share.abs().nan_to_num().max()) if other else 100
        figure = Figure(figsize=(4.1, 4.1), layout='constrained')
        panel = figure.subplots()
        panel.imshow(share, cmap='RdBu' if other else 'Blues', vmin=-most if other else 0,
                     vmax=most)
        panel.set(title=title, xlabel='predicted', ylabel='label')
        classes = self.metainfo['classes']
        panel.set_xticks(range(len(classes)), classes, rotation=90)
        panel.set_yticks(range(len(classes)), classes)
        for (row, column), value in np.ndenumerate(share.numpy()) if len(classes) <= 10 else ():
            panel.text(column, row, '' if np.isnan(value) else round(value), fontsize=8,
                       ha='center', va='center', color='w' if abs(value) > 0.6 * most else 'k')
        return figure

    def _share(self) -> Tensor:
        return 100 * self.confusion / self.confusion.sum(1, keepdim=True)
