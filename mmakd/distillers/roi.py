"""RoI heads of two-stage detectors, compared on the student's RoIs."""
from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..utils.errors import ConfigError


class RoIBranch(NamedTuple):
    """One branch of the RoI head of a two-stage detector.

    Attributes:
        kind (str): ``'bbox'`` or ``'mask'``.
        stage (int, optional): The stage of a cascade; None elsewhere.
    """

    kind: str
    stage: int | None

    def extractor(self, model: Any) -> nn.Module:
        """Find the RoI extractor, which is called with feature maps and RoIs (R, 5)."""
        extractor = getattr(model.roi_head, f'{self.kind}_roi_extractor')
        return extractor if self.stage is None else extractor[self.stage]

    def run(self, model: Any, feature_maps: Sequence[Tensor], rois: Tensor) -> None:
        """Run the branch on the maps of the neck.

        Args:
            model (BaseModel): The detector.
            feature_maps (Sequence[Tensor]): Maps (N, C, H, W).
            rois (Tensor): RoIs (R, 5): image in the batch, x1, y1, x2, y2.
        """
        forward = getattr(model.roi_head, f'_{self.kind}_forward')
        stage = () if self.stage is None else (self.stage, )
        # RoIs are cast to the type of the maps; bfloat16 would move them by pixels.
        feature_maps = [feature.float() if feature.dtype == torch.bfloat16 else feature
                        for feature in feature_maps]
        forward(*stage, feature_maps, rois)


def find_branch(model: Any, key: str, tap: str) -> RoIBranch | None:
    """Find the branch of the RoI head in which a tap lies; None for a tap elsewhere.

    Raises:
        ConfigError: If the tap is not a layer of one stage, or the mask branch has no RoIs of
            its own.
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


class RoIRecorder:
    """Records the RoIs of branches of a detector while a ``with`` block runs.

    Attributes:
        rois (dict[RoIBranch, list[Tensor]]): RoIs (R, 5) of each branch, one per call.
    """

    def __init__(self, model: Any, branches: Iterable[RoIBranch]) -> None:
        self.model = model
        self.rois: dict[RoIBranch, list[Tensor]] = {branch: [] for branch in branches}
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> RoIRecorder:
        for branch in self.rois:
            extractor = branch.extractor(self.model)
            self._handles.append(extractor.register_forward_pre_hook(self._recorder(branch)))
        return self

    def _recorder(self, branch: RoIBranch) -> Callable[..., None]:

        def hook(module: nn.Module, args: tuple[Any, Tensor]) -> None:
            self.rois[branch].append(args[1].detach())

        return hook

    def __exit__(self, *error: object) -> None:
        for handle in self._handles:
            handle.remove()
