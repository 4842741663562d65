"""A data set of labelled and of unlabelled images."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.dataset import ConcatDataset
from mmengine.registry import DATASETS
from mmengine.structures import BaseDataElement, InstanceData

from ..utils.build import build
from ..utils.errors import ConfigError, ConfigProblems, is_number

_KEY = 'train_dataloader.dataset'
_MARK = 'is_unlabelled'


@DATASETS.register_module()
class TransferSetDataset(ConcatDataset):
    """Labelled images, and after them images that only the teacher labels.

    Source: transfer sets for distillation (EMNLP Industry 2022). On the unlabelled images the
    student of an ``AvatarDistiller`` has only distillation losses. Their annotations, if they have
    any, are removed. Batches come from :class:`mmakd.datasets.TransferBatchSampler`.

    Args:
        labelled (dict): Config of the data set with ground truth.
        unlabelled (dict | Sequence[dict]): Config of the data set without, or of several. If it
            names classes, they must be those of ``labelled``.
        ratio (float): Share of unlabelled images in each batch, between 0 and 1. Defaults to 0.5.
        lazy_init (bool): Whether annotation files are read later. Defaults to False.

    Attributes:
        num_labelled (int): Number of labelled images; their indices come first.
    """

    def __init__(self, labelled: dict, unlabelled: dict | Sequence[dict], ratio: float = 0.5,
                 lazy_init: bool = False) -> None:
        problems = ConfigProblems()
        if not is_number(ratio) or not 0 < ratio < 1:
            problems.add(f'{_KEY}.ratio={ratio!r}: must be a number between 0 and 1, e.g. 0.5 for '
                         'as many unlabelled as labelled images in each batch')
        several = not isinstance(unlabelled, dict)
        cfgs = {f'{_KEY}.labelled': labelled, **{
            f'{_KEY}.unlabelled' + f'.{i}' * several: cfg
            for i, cfg in enumerate(unlabelled if several else [unlabelled])}}
        if len(cfgs) == 1:
            problems.add(f'{_KEY}.unlabelled={unlabelled!r}: no data set; name one, or take the '
                         'labelled one alone')
        datasets = []
        for key, cfg in cfgs.items():
            with problems.attempt(key):
                datasets.append(build({**cfg, 'lazy_init': True}, DATASETS))
                _check_classes(datasets[0].metainfo, datasets[-1].metainfo)
        problems.raise_if_any()
        self.ratio = ratio
        self.num_labelled = 0
        self._keys = list(cfgs)
        # What ConcatDataset sets itself; it would take no wrapper such as RepeatDataset, and have
        # all metainfo agree.
        self.datasets = datasets
        self._metainfo = datasets[0].metainfo
        self._fully_initialized = False
        if not lazy_init:
            self.full_init()

    def full_init(self) -> None:
        """Read the annotation files.

        Raises:
            ConfigError: If one of the data sets has no image.
        """
        if self._fully_initialized:
            return
        problems = ConfigProblems()
        for key, part in zip(self._keys, self.datasets):
            with problems.under(key):
                _read(part)
        problems.raise_if_any()
        super().full_init()
        self.num_labelled = len(self.datasets[0])

    def __getitem__(self, idx: int) -> dict:
        """Load an image; that of an unlabelled one is marked and has no annotations."""
        data = super().__getitem__(idx)
        if self._get_ori_dataset_idx(idx)[0] > 0:
            _remove_labels(data['data_samples'])
        return data


def has_labels(data_sample: BaseDataElement) -> bool:
    """Tell whether the image of a data sample has ground truth."""
    return not data_sample.metainfo.get(_MARK, False)


def _read(dataset: Any) -> None:
    empty = ConfigError(': the data set has no image; check its paths, filter_cfg and indices')
    try:
        dataset.full_init()
    except ValueError as error:
        if getattr(dataset, 'data_list', True):
            raise
        raise empty from error  # MMEngine cannot serialise an empty list
    if not len(dataset):
        raise empty


def _remove_labels(sample: BaseDataElement) -> None:
    labels = [name for name, _ in sample.items() if name.startswith(('gt_', 'ignored_'))]
    for name in labels:
        delattr(sample, name)
    if 'gt_instances' in labels:
        from mmdet.structures.mask import BitmapMasks

        # For preprocessors, which resize boxes and pad masks. Without class labels most students
        # that have no teacher fail, rather than learn that the image is empty.
        sample.gt_instances = InstanceData(bboxes=torch.zeros(0, 4),
                                           masks=BitmapMasks([], 0, 0))
    sample.set_metainfo({_MARK: True})


def _check_classes(labelled: dict[str, Any], other: dict[str, Any]) -> None:
    ours, theirs = labelled.get('classes'), other.get('classes')
    if ours and theirs and list(ours) != list(theirs):
        raise ConfigError(f'metainfo.classes={list(theirs)!r}: not those of the labelled data '
                          f'set, {list(ours)!r}; give both the same metainfo')
