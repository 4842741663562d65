"""Different augmentations of one image for student and teacher."""
from typing import Any

import numpy as np
import torch
from mmengine.dataset import Compose
from mmengine.registry import TRANSFORMS

from ..utils.errors import ConfigError

# What transforms that move pixels set; the maps of the views would not be aligned.
_GEOMETRY = ('flip', 'flip_direction')


@TRANSFORMS.register_module()
class TwoViews:
    """Augments an image for the student only; the teacher sees it as it was before.

    The last item of a training pipeline, in the place of ``PackDetInputs`` or ``PackSegInputs``:
    it runs further transforms and then the packer, and adds the image from before these
    transforms to the metainfo of the data sample, as ``teacher_view``. Each teacher receives it
    normalised and padded as the student's. Source: consistency under different noise, Mean Teacher
    (arXiv 1703.01780).

    Args:
        student (list[dict]): Transforms of the student's image alone, such as
            ``PhotoMetricDistortion``. They must not move pixels, since the student's and the
            teacher's maps are compared position by position.
        pack (dict): Config of the packer.
    """

    def __init__(self, student: list[dict], pack: dict) -> None:
        self.transforms = Compose(student)
        self.pack = TRANSFORMS.build(pack)

    def __call__(self, results: dict) -> dict | None:
        """Augment and pack an image.

        Args:
            results (dict): With ``img`` (H, W, 3).

        Returns:
            dict | None: What the packer returns, with a metainfo ``teacher_view`` (3, H, W) of the
            image's own type; None if a transform drops the image.

        Raises:
            ConfigError: If the transforms change the size of the image, or flip it.
        """
        image = results['img'].copy()
        geometry = self._geometry(results)
        augmented = self.transforms(results)
        if augmented is None:
            return None
        if self._geometry(augmented) != geometry:
            names = ', '.join(type(transform).__name__ for transform in self.transforms.transforms)
            raise ConfigError(
                'train_dataloader.dataset.pipeline: TwoViews.student moves pixels, from '
                f'{geometry} to {self._geometry(augmented)} (size, {", ".join(_GEOMETRY)}), but '
                f'both views must be aligned; put what does so among {names} before TwoViews')
        packed = self.pack(augmented)
        view = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
        packed['data_samples'].set_metainfo(dict(teacher_view=view))
        return packed

    @staticmethod
    def _geometry(results: dict[str, Any]) -> tuple[Any, ...]:
        return results['img'].shape[:2], *(results.get(key) for key in _GEOMETRY)
