"""A training step in which some images have no ground truth."""
from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from mmengine.model import BaseModel
from torch import Tensor
from torch.nn.modules.batchnorm import _NormBase

from ..datasets import has_labels
from ..utils.errors import ConfigError
from .distill_task import TaskMaps
from .tap_pair import TapPair
from .taps import FeatureTaps, forward_to_taps
from .upstream_avatars import map_features


@torch.compiler.disable
def labelled_first(inputs: Tensor, data_samples: list | None
                   ) -> tuple[Tensor, list | None, int | None]:
    """Put the labelled images of a batch in front.

    Args:
        inputs (Tensor): Images (N, 3, H, W).
        data_samples (list, optional): Their data samples.

    Returns:
        tuple[Tensor, list | None, int | None]: Images and data samples, unchanged where the order
        is right, and the number of labelled ones; None if all are.

    Raises:
        ConfigError: If none is labelled.
    """
    marks = [has_labels(sample) for sample in data_samples or ()]
    if data_samples is None or all(marks):
        return inputs, data_samples, None
    if not any(marks):
        raise ConfigError('train_dataloader.batch_sampler: a batch has no labelled image; set '
                          "batch_sampler=dict(type='TransferBatchSampler')")
    if marks != sorted(marks, reverse=True):
        order = sorted(range(len(marks)), key=lambda index: not marks[index])
        inputs, data_samples = inputs[order], [data_samples[index] for index in order]
    return inputs, data_samples, sum(marks)


def first(number: int | None, inputs: Tensor, data_samples: list | None
          ) -> tuple[Tensor, list | None]:
    """Take the first images of a batch, and their data samples; None for all."""
    if number is None or data_samples is None:
        return inputs, data_samples
    return inputs[:number], data_samples[:number]


@torch.compiler.disable(recursive=False)
def add_unlabelled(taps: FeatureTaps, student: BaseModel, pairs: Collection[TapPair],
                   inputs: Tensor, data_samples: Any, number: int) -> None:
    """Run the student on unlabelled images, and append them to its maps of the labelled ones.

    It runs up to its deepest tap outside RoI heads, whose RoIs need ground truth in training.
    BatchNorms use the statistics of these images, and keep their running ones.

    Args:
        taps (FeatureTaps): The maps of the labelled images; replaced in place.
        student (BaseModel): The student.
        pairs (Collection[TapPair]): The taps of all tasks.
        inputs (Tensor): All images (N, 3, H, W), the labelled ones first.
        data_samples (list): Their data samples.
        number (int): Number of labelled images.

    Raises:
        ConfigError: If it gives other maps than for its losses.
    """
    tapped = {pair.student for pair in pairs if not pair.branches}
    if not tapped:
        return
    with FeatureTaps(student, tapped) as found, _kept_statistics(student):
        forward_to_taps(student, tapped, inputs[number:], data_samples[number:])
    for tap, maps in found.features.items():
        own = taps.features[tap]
        shapes = [[tuple(part.shape[1:]) for part in each] for each in (own, maps)]
        if shapes[0] != shapes[1]:
            raise ConfigError(
                f'train_dataloader.dataset: at tap {tap!r} the student gives maps {shapes[0]} for '
                f'its losses, {shapes[1]} for unlabelled images; tap the neck or the backbone')
        taps.features[tap] = [torch.cat(both) for both in zip(own, maps)]


def of_labelled(maps: TaskMaps, number: int) -> TaskMaps:
    """Cut the maps of a task to those of the first, the labelled images."""
    upstream = maps.upstream
    if upstream is not None:
        calls = map_features(lambda feature: feature[:number], list(upstream.calls))
        upstream = replace(upstream, calls=calls)
    return TaskMaps([part[:number] for part in maps.student],
                    [part[:number] for part in maps.teacher], upstream)


@contextmanager
def _kept_statistics(network: BaseModel) -> Iterator[None]:
    """Have normalisation layers update copies of their running statistics."""
    # Checkpointed blocks, which run again in the backward pass, forbid other changes.
    kept = [(layer, name, buffer) for layer in network.modules() if isinstance(layer, _NormBase)
            for name, buffer in layer.named_buffers(recurse=False)]
    for layer, name, buffer in kept:
        setattr(layer, name, buffer.clone())
    try:
        yield
    finally:
        for layer, name, buffer in kept:
            setattr(layer, name, buffer)
