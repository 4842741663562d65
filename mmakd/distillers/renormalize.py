"""Convert the student's image normalisation to the teacher's."""
from typing import Any

import torch
from torch import Tensor, nn


def _affine(preprocessor: Any) -> tuple[Tensor | float, Tensor | float]:
    if getattr(preprocessor, '_enable_normalize', False):
        return preprocessor.mean, preprocessor.std
    return 0., 1.


def swaps_channels(preprocessor: nn.Module) -> bool:
    """Tell whether a ``data_preprocessor`` swaps RGB and BGR."""
    # mmsegmentation 1.2 has the name without the underscore.
    return any(getattr(preprocessor, name, False)
               for name in ('_channel_conversion', 'channel_conversion'))


def same_normalization(student: nn.Module, teacher: nn.Module) -> bool:
    """Tell whether mean, std and channel order of two ``data_preprocessor`` agree."""
    return swaps_channels(student) == swaps_channels(teacher) and all(
        torch.equal(torch.as_tensor(a), torch.as_tensor(b))
        for a, b in zip(_affine(student), _affine(teacher)))


def renormalize(inputs: Tensor, data_samples: list | None, student: nn.Module,
                teacher: nn.Module) -> Tensor:
    """Normalise the student's input images as the teacher was trained.

    Args:
        inputs (Tensor): Images (N, 3, H, W) as the student's preprocessor gave them.
        data_samples (list, optional): Their data samples; padding, outside ``img_shape``, stays
            zero.
        student (nn.Module): The student's ``data_preprocessor``.
        teacher (nn.Module): The teacher's.

    Returns:
        Tensor: Images (N, 3, H, W) for the teacher.
    """
    (mean_s, std_s), (mean_t, std_t) = _affine(student), _affine(teacher)
    images = inputs * std_s + mean_s
    if swaps_channels(student) != swaps_channels(teacher):
        images = images.flip(1)
    images = (images - mean_t) / std_t
    for image, sample in zip(images, data_samples or ()):
        height, width = sample.metainfo.get('img_shape', image.shape[1:])[:2]
        image[:, height:] = 0
        image[:, :, width:] = 0
    return images
