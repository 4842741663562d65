"""Scores of several students."""
from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from mmengine.evaluator import Evaluator
from mmengine.logging import print_log
from mmengine.registry import EVALUATOR
from mmengine.structures import BaseDataElement


@EVALUATOR.register_module()
class PeerEvaluator(Evaluator):
    """Scores each student of a :class:`mmakd.distillers.PeerDistiller` by metrics of its own.

    The scores are named ``<student>/<metric>``; those of the first student also have their plain
    names. Of a model that is no ``PeerDistiller`` only the latter exist.

    Args:
        metrics (dict | Sequence[dict]): Configs of the metrics, as of ``val_evaluator``.
    """

    def __init__(self, metrics: dict | Sequence[dict]) -> None:
        super().__init__(copy.deepcopy(metrics))
        self._cfg = metrics
        self._first = ''
        self._others: dict[str, Evaluator] = {}

    def process(self, data_samples: Sequence[BaseDataElement], data_batch: Any = None) -> None:
        """Have the metrics process the predictions of each student.

        Args:
            data_samples (Sequence[BaseDataElement]): What ``PeerDistiller.val_step`` returns.
            data_batch (Any): The batch from the dataloader. Defaults to None.
        """
        by_student: dict[str, list[BaseDataElement]] = defaultdict(list)
        for sample in data_samples:
            for prediction in (sample, *sample.pop('peers', ())):
                by_student[prediction.get('student', '')].append(prediction)
        (self._first, own), *others = by_student.items()
        super().process(own, data_batch)
        for name, predictions in others:
            if name not in self._others:
                self._others[name] = Evaluator(copy.deepcopy(self._cfg))
                self._others[name].dataset_meta = self.dataset_meta
            self._others[name].process(predictions, data_batch)

    def evaluate(self, size: int) -> dict[str, Any]:
        """Compute the scores of each student; see :meth:`Evaluator.evaluate`."""
        own = super().evaluate(size)
        scores = {**own, **{f'{self._first}/{metric}': own[metric] for metric in own
                            if self._first}}
        for name, evaluator in self._others.items():
            print_log(f'Scores of student {name!r}:', 'current')
            scores.update({f'{name}/{metric}': score
                           for metric, score in evaluator.evaluate(size).items()})
        return scores
