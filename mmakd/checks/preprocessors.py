"""How the images of student and teacher are prepared."""
from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..distillers.renormalize import swaps_channels

_CHANNELS = {True: 'swapped (BGR to RGB)', False: 'as read'}


def compare_preprocessors(student: nn.Module, teacher: nn.Module) -> dict[str, tuple[str, str]]:
    """Compare how the images of student and teacher are prepared.

    Args:
        student (nn.Module): The student.
        teacher (nn.Module): The teacher.

    Returns:
        dict[str, tuple[str, str]]: What differs, by name.
    """
    pairs = zip(_describe(student.data_preprocessor).items(),
                _describe(teacher.data_preprocessor).values())
    return {name: (mine, theirs) for (name, mine), theirs in pairs if mine != theirs}


def _describe(preprocessor: Any) -> dict[str, str]:
    normalizes = getattr(preprocessor, '_enable_normalize', False)
    divisor = getattr(preprocessor, 'pad_size_divisor', getattr(preprocessor, 'size_divisor', 1))
    size = getattr(preprocessor, 'size', None)
    return dict(
        mean=_numbers(preprocessor.mean) if normalizes else 'none',
        std=_numbers(preprocessor.std) if normalizes else 'none',
        channels=_CHANNELS[swaps_channels(preprocessor)],
        padding=f'to {tuple(size)}' if size else f'to multiples of {divisor or 1}')


def _numbers(values: Tensor) -> str:
    return ', '.join(f'{value:g}' for value in values.flatten().tolist())
