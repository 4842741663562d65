"""The scores of a detector."""
from typing import Any

import numpy as np
from mmdet.evaluation import CocoMetric
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import get_box_tensor
from mmdet.visualization import DetLocalVisualizer
from mmengine.evaluator import BaseMetric
from mmengine.structures import InstanceData

from comparison_page.scores import ModelScores
from mmakd.metrics import DetECE


class _Visualizer(DetLocalVisualizer):
    """Writes labels that can be read: mmdet's have half the size in boxes below 173 x 173."""

    def draw_texts(self, *args: Any, **kwargs: Any) -> Any:
        return super().draw_texts(*args, **{**kwargs, 'font_sizes': 13})


class Detection(ModelScores):
    """Average precision, of the first kind that CocoMetric is to score."""

    kind = CocoMetric
    how = ("An image's AP is CocoMetric's of this image alone. Boxes are drawn from a score of 30 "
           'per cent on.')

    def more_metrics(self) -> list[BaseMetric]:
        self.metric.classwise, self.metric.metrics = True, self.metric.metrics[:1]
        self.metric.metric_items = self.metric.outfile_prefix = None
        self.key = f'{self.metric.metrics[0]}_mAP'
        self.visualizer = _Visualizer()
        self.visualizer.dataset_meta = self.metainfo
        return [DetECE()]

    def grouped(self, metrics: dict[str, float], results: list) -> dict[str, dict[str, float]]:
        keys = {'over all': {'AP': self.key, 'AP50': f'{self.key}_50', 'AP75': f'{self.key}_75'},
                'by size': {size: f'{self.key}_{size[0]}'
                            for size in ('small', 'medium', 'large')},
                'AP by class': {name: f'{name}_precision' for name in self.metainfo['classes']}}
        return {heading: {name: _percent(metrics, key) for name, key in group.items()}
                for heading, group in keys.items()}

    def of_image(self, result: Any) -> float:
        self.metric.classwise, self.metric.img_ids = False, [result[1]['img_id']]
        return _percent(self.metric.compute_metrics([result]), self.key)

    def draw(self, image: np.ndarray, sample: Any, kind: str) -> np.ndarray:
        found = sample.get(f'{kind}_instances')
        drawn = InstanceData(**{key: found[key] for key in ('labels', 'scores') if key in found})
        drawn.bboxes = get_box_tensor(found.bboxes) * (image.shape[1] / sample.ori_shape[1])
        self.visualizer.add_datasample('', image, DetDataSample(**{f'{kind}_instances': drawn}),
                                       draw_gt=kind == 'gt', draw_pred=kind == 'pred')
        return self.visualizer.get_image()


def _percent(metrics: dict[str, float], key: str) -> float:
    score = metrics.get(key, 0)  # CocoMetric leaves it out where nothing is detected
    return np.nan if score == -1 else 100 * score  # COCO's -1: there is no such object
