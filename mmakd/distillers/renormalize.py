"""The images of the teacher: its own view of them, and its own normalisation."""
from typing import Any

import torch
from torch import Tensor, nn

from ..utils.errors import ConfigError


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


def teacher_view(inputs: Tensor, data_samples: list | None, student: nn.Module) -> Tensor:
    """Replace images by those that ``TwoViews`` kept for the teacher, normalised for the student.

    Args:
        inputs (Tensor): Images (N, 3, H, W) as the student's preprocessor gave them.
        data_samples (list, optional): Their data samples; one without a view keeps its image.
        student (nn.Module): The student's ``data_preprocessor``.

    Returns:
        Tensor: Images (N, 3, H, W), with the padding of ``inputs``.

    Raises:
        ConfigError: If the student's image has another size than the view.
    """
    views = [sample.metainfo.get('teacher_view') for sample in data_samples or ()]
    if all(view is None for view in views):
        return inputs
    mean, std = _affine(student)
    images = inputs.clone()
    for image, view, sample in zip(images, views, data_samples or ()):
        if view is None:
            continue
        size = tuple(sample.metainfo['img_shape'][:2])
        if size != view.shape[1:]:
            raise ConfigError(
                f"train_dataloader.dataset.pipeline: TwoViews keeps an image of "
                f"{tuple(view.shape[1:])} for the teacher, but the student's is {size}; put what "
                'changes its size before TwoViews, and leave out data_preprocessor.batch_augments')
        view = view.to(inputs)
        image[:, :size[0], :size[1]] = ((view.flip(0) if swaps_channels(student) else view)
                                        - mean) / std
    return images


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
