"""Focal and global knowledge distillation for detectors."""
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmcv.cnn import ContextBlock
from mmengine.registry import MODELS
from torch import Tensor

from ..utils.errors import check_numbers
from .features import FeatureLoss, known_channels


@MODELS.register_module()
class FGDLoss(FeatureLoss):
    r"""Compares foreground, background, attention and global context.

    FGD (arXiv 2111.11837), the sum of

    - :math:`\frac{1}{N} \sum (\alpha M^{fg} + \beta M^{bg}) A^s A^c (S - T)^2`, where
      :math:`A^s` (over positions) and :math:`A^c` (over channels) are the teacher's attention,
      a softmax of the mean absolute feature. A position in a ground-truth box is weighted by the
      inverse area of the smallest such box, any other by that of the background;
    - :math:`\frac{\gamma}{N} (|A^s_S - A^s_T| + |A^c_S - A^c_T|)`;
    - :math:`\frac{\lambda}{N} \sum (R_S(S) - R_T(T))^2`, where :math:`R` adds the output
      of a GcBlock (arXiv 1904.11492) to a map. There is one for each side, trained with the
      student.

    Args:
        temp (float): Temperature > 0 of the attention. Defaults to 0.5.
        alpha_fgd (float): Weight of the foreground. Defaults to 1e-3. All defaults are those of
            the authors' code for one-stage detectors.
        beta_fgd (float): Weight of the background. Defaults to 5e-4.
        gamma_fgd (float): Weight of the attention; 5e-4 for their RetinaNet. Defaults to 1e-3.
        lambda_fgd (float): Weight of the global context. Defaults to 5e-6.
        loss_weight (float): Factor on the whole loss. Defaults to 1.0.
        channels (int, optional): Channels of the maps; set by the distiller. Defaults to None,
            which is an error.
    """

    maps_only = True

    def __init__(self, temp: float = 0.5, alpha_fgd: float = 1e-3, beta_fgd: float = 5e-4,
                 gamma_fgd: float = 1e-3, lambda_fgd: float = 5e-6, loss_weight: float = 1.0,
                 channels: int | None = None) -> None:
        weights = dict(alpha_fgd=alpha_fgd, beta_fgd=beta_fgd, gamma_fgd=gamma_fgd,
                       lambda_fgd=lambda_fgd)
        check_numbers(positive=dict(temp=temp),
                      not_negative=dict(weights, loss_weight=loss_weight))
        super().__init__(loss_weight)
        self.temp = temp
        self.alpha_fgd, self.beta_fgd, self.gamma_fgd, self.lambda_fgd = weights.values()
        channels = known_channels(channels, 'FGDLoss')
        # Half the channels inside, but at least one.
        ratio = max(1 / channels, 0.5)
        self.context_student = ContextBlock(channels, ratio)
        self.context_teacher = ContextBlock(channels, ratio)

    def compare(self, preds_S: Tensor, preds_T: Tensor,
                data_samples: Sequence[Any] | None = None) -> Tensor:
        """Compute the loss; see :meth:`FeatureLoss.forward`.

        Args:
            preds_S (Tensor): Student map (N, C, H, W).
            preds_T (Tensor): Teacher map (N, C, H, W).
            data_samples (Sequence[DetDataSample]): Those of the N images, with
                ``gt_instances.bboxes`` and the metainfo ``batch_input_shape``.

        Returns:
            Tensor: Scalar.

        Raises:
            ValueError: If there are no ground-truth boxes for the maps.
        """
        foreground, background = _box_masks(preds_T, data_samples)
        space_S, channel_S = self._attention(preds_S)
        space_T, channel_T = self._attention(preds_T)
        focus = self.alpha_fgd * foreground + self.beta_fgd * background
        focal = (focus * space_T * channel_T * (preds_S - preds_T).square()).sum()
        attention = (F.l1_loss(space_S, space_T, reduction='sum') +
                     F.l1_loss(channel_S, channel_T, reduction='sum'))
        context = F.mse_loss(self.context_student(preds_S), self.context_teacher(preds_T),
                             reduction='sum')
        total = focal + self.gamma_fgd * attention + self.lambda_fgd * context
        return self.loss_weight * total / len(preds_S)

    def _attention(self, feature: Tensor) -> tuple[Tensor, Tensor]:
        """Return the attention over positions (N, 1, H, W) and over channels (N, C, 1, 1)."""
        value = feature.abs()
        space = value.mean(1, keepdim=True)
        channel = value.mean((2, 3), keepdim=True)
        return (space[0].numel() * (space.flatten(1) / self.temp).softmax(1).view_as(space),
                channel[0].numel() * (channel / self.temp).softmax(1))


def _box_masks(feature: Tensor, data_samples: Sequence[Any] | None) -> tuple[Tensor, Tensor]:
    """Weight the positions of each image by its boxes, both (N, 1, H, W).

    1 / area of the smallest box over a position, 0 without one; and 1 / area of the background, 0
    in the boxes.
    """
    if data_samples is None or len(data_samples) != len(feature):
        given = 'none' if data_samples is None else len(data_samples)
        raise ValueError(f'FGDLoss needs the data sample of each of the {len(feature)} images, '
                         f'but {given} given; use it in a detector, or call it with data_samples')
    foreground = torch.cat([_foreground(feature, sample) for sample in data_samples])
    outside = (foreground == 0).float()
    background = outside / outside.sum((2, 3), keepdim=True).clamp(min=1)
    return foreground, background


def _foreground(feature: Tensor, sample: Any) -> Tensor:
    bboxes = getattr(sample.get('gt_instances'), 'bboxes', None)
    if bboxes is None:
        raise ValueError('FGDLoss: a data sample has no ground-truth boxes; use it in a detector')
    height, width = feature.shape[2:]
    boxes = getattr(bboxes, 'tensor', bboxes).to(feature)  # mmdet's HorizontalBoxes, or a tensor
    # Boxes lie on the padded image, as the map does.
    image_height, image_width = sample.metainfo['batch_input_shape']
    left, right = (boxes[:, 0::2] * (width / image_width)).split(1, dim=1)
    top, bottom = (boxes[:, 1::2] * (height / image_height)).split(1, dim=1)
    left, top, right, bottom = left.floor(), top.floor(), right.ceil(), bottom.ceil()
    weights = 1 / ((right + 1 - left) * (bottom + 1 - top)).flatten()
    columns, rows = (torch.arange(size, device=feature.device) for size in (width, height))
    in_columns = (columns >= left) & (columns <= right)
    in_rows = (rows >= top) & (rows <= bottom)
    covered = in_rows[:, :, None] & in_columns[:, None]
    # A row of zeros, for an image without boxes.
    weights = torch.cat([covered * weights[:, None, None], feature.new_zeros(1, height, width)])
    return weights.amax(0)[None, None]
