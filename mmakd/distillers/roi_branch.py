"""Branches of the RoI heads of two-stage detectors."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..utils.errors import ConfigError


class RoIBranch(NamedTuple):
    """One branch of the RoI head of a two-stage detector.

    Attributes:
        kind (str): ``'bbox'`` or ``'mask'``.
        stage (int, optional): The stage of a cascade; None elsewhere.
    """

    kind: str
    stage: int | None

    @property
    def extractor(self) -> str:
        """str: Path of the RoI extractor, which is called with feature maps and RoIs (R, 5)."""
        path = f'roi_head.{self.kind}_roi_extractor'
        return path if self.stage is None else f'{path}.{self.stage}'

    def run(self, model: Any, feature_maps: Sequence[Tensor], rois: Tensor) -> None:
        """Run the branch of a detector on maps (N, C, H, W) of the neck and RoIs (R, 5)."""
        forward = getattr(model.roi_head, f'_{self.kind}_forward')
        stage = () if self.stage is None else (self.stage, )
        # RoIs are cast to the type of the maps; bfloat16 would move them by pixels.
        feature_maps = [feature.float() if feature.dtype == torch.bfloat16 else feature
                        for feature in feature_maps]
        forward(*stage, feature_maps, rois)


def find_roi_branch(model: Any, key: str, tap: str) -> RoIBranch | None:
    """Find the branch of the RoI head in which a tap lies; None for a tap elsewhere.

    Raises:
        ConfigError: If the tap, the value of ``key``, does not say which branch it is in.
    """
    head, _, path = tap.partition('.')
    if head != 'roi_head' or not path:
        return None
    kind = 'mask' if path.startswith('mask') else 'bbox'
    stage = None
    if isinstance(getattr(model.roi_head, f'{kind}_head'), nn.ModuleList):
        names = path.split('.')
        if len(names) < 2:
            raise ConfigError(f"{key}={tap!r}: a cascade has a list there; name a stage, e.g. "
                              f"'{tap}.0'")
        stage = int(names[1])
    if kind == 'mask' and model.roi_head.share_roi_extractor:
        raise ConfigError(f'{key}={tap!r}: this mask head takes the features of the box head; '
                          'tap the box head')
    return RoIBranch(kind, stage)
